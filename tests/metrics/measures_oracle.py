"""The measures written down slowly: plain numbers and loops, nothing shared with the package."""

import math
from itertools import pairwise, permutations, product

CHANNELS = {
    "sum": sum,
    "sum_pos": lambda values: max(0.0, sum(values)),
    "sum_abs": lambda values: abs(sum(values)),
    "l1_norm": lambda values: sum(abs(value) for value in values),
    "l2_norm": lambda values: math.sqrt(sum(value**2 for value in values)),
    "l2_norm_sq": lambda values: sum(value**2 for value in values),
    "max_norm": lambda values: max(abs(value) for value in values),
}


def pixels(heatmap, mask, pooling):
    """Pairs of pooled value and foreground flag, for a heatmap (C, H, W) and a mask (H, W)."""
    channels, height, width = heatmap.shape
    return [
        (CHANNELS[pooling]([heatmap[c, h, w].item() for c in range(channels)]), bool(mask[h, w]))
        for h, w in product(range(height), range(width))
    ]


def foreground_share(heatmap, mask, pooling):
    pairs = pixels(heatmap, mask, pooling)
    return sum(value for value, inside in pairs if inside) / sum(value for value, _ in pairs)


def background_share(heatmap, mask, pooling):
    return 1 - foreground_share(heatmap, mask, pooling)


def hits(pairs, count):
    ranked = sorted(pairs, key=lambda pair: pair[0], reverse=True)
    return sum(inside for _, inside in ranked[:count])


def rank_accuracy(heatmap, mask, pooling):
    pairs = pixels(heatmap, mask, pooling)
    count = sum(inside for _, inside in pairs)
    return hits(pairs, count) / count


def pointing_game(heatmap, mask, pooling):
    return float(hits(pixels(heatmap, mask, pooling), 1))


def top_k(heatmap, mask, pooling, k):
    return hits(pixels(heatmap, mask, pooling), k) / k


def mean_hits_over_all_orders(values, flags, count):
    """Mean of the hits over all orders of the pixels that respect their values."""
    pairs = list(zip(values, flags, strict=True))
    orders = [order for order in permutations(pairs) if all(a[0] >= b[0] for a, b in pairwise(order))]
    return sum(sum(inside for _, inside in order[:count]) for order in orders) / len(orders)


def grown(mask, radius):
    """Mask (H, W) with all pixels within a distance of the foreground."""
    height, width = mask.shape
    cells = list(product(range(height), range(width)))
    inside = [cell for cell in cells if mask[cell]]
    result = mask.clone()
    for cell in cells:
        result[cell] = float(any(math.dist(cell, other) <= radius for other in inside))
    return result
