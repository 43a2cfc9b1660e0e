"""Metrics of background attention and background bias, on torchmetrics (``pip install "zennit-isnet[metrics]"``).

The formulas are pure functions of `zennit_isnet.functional`; the classes here average them over batches and processes.
Where relevance lies is no evidence that a model ignores the background: show `WorstGroupAccuracy`, `BiasGap` or
`SwapGap` beside it.
"""

from zennit_isnet.metrics.groups import BiasGap, WorstGroupAccuracy
from zennit_isnet.metrics.ranks import PointingGame, RelevanceRankAccuracy, TopKIntersection
from zennit_isnet.metrics.shares import BackgroundShare, EnergyPointingGame, RelevanceMassAccuracy
from zennit_isnet.metrics.swap_gap import SwapGap

__all__ = [
    "BackgroundShare",
    "BiasGap",
    "EnergyPointingGame",
    "PointingGame",
    "RelevanceMassAccuracy",
    "RelevanceRankAccuracy",
    "SwapGap",
    "TopKIntersection",
    "WorstGroupAccuracy",
]
