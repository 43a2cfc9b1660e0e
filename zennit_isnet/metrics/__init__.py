"""Metrics of background attention and background bias, on torchmetrics (``pip install "zennit-isnet[metrics]"``).

The formulas are pure functions of `zennit_isnet.functional`; the classes here average them over batches and processes.
Where relevance lies is no evidence that a model ignores the background: show `WorstGroupAccuracy`, `BiasGap` or
`SwapGap` beside it.

Examples
--------
Heatmaps of a model, batch by batch, in one collection:

>>> import torch
>>> from torchmetrics import MetricCollection
>>> from zennit_isnet import ISNetRegularizer
>>> from zennit_isnet.metrics import BackgroundShare, PointingGame
>>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 2))
>>> images, masks, labels = torch.rand(4, 3, 8, 8), torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 1, 0])
>>> masks[..., 2:6, 2:6] = 1
>>> metrics = MetricCollection([BackgroundShare(), PointingGame(tolerance=1)])
>>> explain = ISNetRegularizer(model).heatmap
>>> for batch in torch.arange(4).split(2):
...     metrics.update(explain(images[batch], labels[batch]), masks[batch])
>>> sorted(metrics.compute())
['BackgroundShare', 'PointingGame']
"""

from zennit_isnet.metrics.bias import BiasGap, SwapGap, WorstGroupAccuracy
from zennit_isnet.metrics.localization import (
    BackgroundShare,
    EnergyPointingGame,
    PointingGame,
    RelevanceMassAccuracy,
    RelevanceRankAccuracy,
    TopKIntersection,
)

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
