"""The heatmap loss written down slowly: plain numbers, loops and a full sort, nothing shared with the package."""

import math
from itertools import product


def gwrp(values, decay):
    ranked = sorted(values, reverse=True)
    weights = [decay**rank for rank in range(len(ranked))]
    return sum(w * v for w, v in zip(weights, ranked, strict=True)) / sum(weights)


def resized(mask, size):
    """Map each cell to 1 where any foreground pixel overlaps it, else to 0."""

    def window(cell, cells, pixels):
        return range(cell * pixels // cells, -(-(cell + 1) * pixels // cells))

    return {
        cell: float(
            any(
                mask[pixel] == 1
                for pixel in product(
                    *(window(i, n, p) for i, n, p in zip(cell, size, mask.shape, strict=True)),
                )
            )
        )
        for cell in product(*map(range, size))
    }


def image_loss(relevance, mask, c1, c2, *, decay, scale, variant, normalization, weights=(1.0, 1.0)):
    """Loss of one image, from numpy arrays of shape (K, C, *spatial) and of any spatial shape."""
    heatmaps, channels, *spatial = relevance.shape
    mask = resized(mask, spatial)
    cells = list(mask)
    background, foreground = [], []
    for k in range(heatmaps):
        pairs = [(float(relevance[(k, c, *cell)]), mask[cell]) for c in range(channels) for cell in cells]
        count = sum(m for _, m in pairs)
        total = sum(abs(r) * m for r, m in pairs)
        mean = total / count if normalization == "absolute_first" else abs(sum(r * m for r, m in pairs)) / count
        for c in range(channels):
            pooled = gwrp([abs(float(relevance[(k, c, *cell)])) * (1 - mask[cell]) for cell in cells], decay)
            if pooled == 0:
                background.append(0.0)
            elif mean == 0:
                background.append(-math.log(1e-7))
            else:
                b = min((pooled / mean) / (pooled / mean + scale), 1 - 1e-7)
                background.append(-math.log(1 - b))
        right = (max(total / c1, c2 / c1) - c2 / c1) ** 2
        if variant == "hybrid" and total > c1 + c2:
            right = 1 + abs(total - (c1 + c2))
        foreground.append((min(total / c1, 1) - 1) ** 2 + right)
    return weights[0] * sum(background) / len(background) + weights[1] * sum(foreground) / len(foreground)
