"""The peers' losses written down slowly: plain numbers and loops, nothing shared with the package."""

import math
from itertools import product


def background_values(heatmap, mask):
    channels, height, width = heatmap.shape
    return [
        heatmap[c, h, w].item()
        for c, h, w in product(range(channels), range(height), range(width))
        if mask[0, h, w].item() == 0
    ]


def rrr(heatmap, mask):
    return sum(value**2 for value in background_values(heatmap, mask))


def gradmask(heatmap, mask):
    return math.sqrt(rrr(heatmap, mask))


def energy(heatmap, mask):
    channels, height, width = heatmap.shape
    inside = total = 0.0
    for h, w in product(range(height), range(width)):
        positive = max(0.0, sum(heatmap[c, h, w].item() for c in range(channels)))
        total += positive
        inside += positive * mask[0, h, w].item()
    return -inside / total
