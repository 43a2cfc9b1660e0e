"""Heatmaps and masks that the tests share, and each measure with its metric."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from zennit_isnet import functional, metrics

K = 5

PAIRS = {
    "background_share": (functional.background_share, metrics.BackgroundShare),
    "mass": (functional.relevance_mass_accuracy, metrics.RelevanceMassAccuracy),
    "rank": (functional.relevance_rank_accuracy, metrics.RelevanceRankAccuracy),
    "pointing": (functional.pointing_game, metrics.PointingGame),
    "energy": (functional.energy_pointing_game, metrics.EnergyPointingGame),
    "top_k": (partial(functional.top_k_intersection, k=K), partial(metrics.TopKIntersection, K)),
}
"""For each name the pure function and the constructor of the metric."""

MEASURES = {name: function for name, (function, _) in PAIRS.items()}
METRICS = {name: constructor for name, (_, constructor) in PAIRS.items()}


def data(generator: torch.Generator, images: int = 4, heatmaps: int = 2) -> tuple[Tensor, Tensor]:
    """Signed heatmaps (N, K, 3, 6, 7) in float64, and masks with some foreground and some background."""
    foreground = (torch.rand(images, 1, 6, 7, generator=generator) < 0.4).double()
    foreground[..., 0, 0], foreground[..., -1, -1] = 1, 0
    return torch.randn(images, heatmaps, 3, 6, 7, dtype=torch.float64, generator=generator), foreground
