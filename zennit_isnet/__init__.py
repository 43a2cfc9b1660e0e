"""LRP that can be trained with: differentiable relevance for Zennit and Captum, and the ISNet heatmap loss.

Start with `ISNetRegularizer`, which adds the heatmap loss to an existing training loop, or with `LRPFlex`, a Zennit
composite whose relevance is differentiable with respect to the model's parameters.
"""

from importlib.metadata import version

from zennit_isnet.attribution import LRPAttribution
from zennit_isnet.calibration import RelevanceRange
from zennit_isnet.composites import LRPFlex, box_from_normalization
from zennit_isnet.errors import (
    CalibrationError,
    InvalidTypeError,
    InvalidValueError,
    ISNetError,
    MissingDependencyError,
    RelevanceRangeWarning,
    UncoveredOperationError,
    UnsupportedModelError,
)
from zennit_isnet.formulations import Formulation, Original, Selective, Stochastic, Target
from zennit_isnet.losses import HeatmapLoss
from zennit_isnet.regularizer import ISNetRegularizer
from zennit_isnet.relevance.canonizers import FuseBatchNorm, MakeFunctionsVisible
from zennit_isnet.relevance.composite import differentiable

__version__ = version("zennit-isnet")

__all__ = [
    "CalibrationError",
    "Formulation",
    "FuseBatchNorm",
    "HeatmapLoss",
    "ISNetError",
    "ISNetRegularizer",
    "InvalidTypeError",
    "InvalidValueError",
    "LRPAttribution",
    "LRPFlex",
    "MakeFunctionsVisible",
    "MissingDependencyError",
    "Original",
    "RelevanceRange",
    "RelevanceRangeWarning",
    "Selective",
    "Stochastic",
    "Target",
    "UncoveredOperationError",
    "UnsupportedModelError",
    "__version__",
    "box_from_normalization",
    "differentiable",
]
