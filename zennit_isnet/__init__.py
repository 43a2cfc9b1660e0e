"""Differentiable LRP for Zennit and Captum, and the ISNet heatmap loss for training classifiers.

Start with `ISNetRegularizer`, which adds the heatmap loss to an existing training loop, or with `LRPFlex`, a Zennit
composite whose relevance is differentiable with respect to the model's parameters.
"""

from importlib.metadata import version

from zennit_isnet.errors import ISNetError
from zennit_isnet.formulations import AllLogits, Original, Selective, Stochastic, Target
from zennit_isnet.functional.heatmap import HeatmapLoss
from zennit_isnet.lrp import (
    EpsilonZBox,
    LRPAttribution,
    LRPFlex,
    ZPlus,
    box_from_normalization,
    check,
    differentiable,
)
from zennit_isnet.regularizer import ISNetRegularizer

__version__ = version("zennit-isnet")

__all__ = [
    "AllLogits",
    "EpsilonZBox",
    "HeatmapLoss",
    "ISNetError",
    "ISNetRegularizer",
    "LRPAttribution",
    "LRPFlex",
    "Original",
    "Selective",
    "Stochastic",
    "Target",
    "ZPlus",
    "box_from_normalization",
    "check",
    "differentiable",
]
