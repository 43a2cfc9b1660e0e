"""LRP that can be trained with: differentiable relevance for Zennit and Captum, and the ISNet heatmap loss.

Start with `ISNetRegularizer`, which adds the heatmap loss to an existing training loop, or with `LRPFlex`, a Zennit
composite whose relevance is differentiable with respect to the model's parameters.
"""

from importlib.metadata import version

from zennit_isnet.attribution import LRPAttribution
from zennit_isnet.attributions import GradientTimesInput
from zennit_isnet.calibration import RelevanceRange
from zennit_isnet.composites import LRPFlex, box_from_normalization
from zennit_isnet.coverage import Report, check
from zennit_isnet.errors import (
    CalibrationError,
    GradientRatioWarning,
    InvalidTypeError,
    InvalidValueError,
    ISNetError,
    MissingDependencyError,
    RelevanceRangeWarning,
    UncoveredOperationError,
    UnsupportedModelError,
    VanishedRelevanceWarning,
)
from zennit_isnet.formulations import (
    Contrast,
    Dual,
    Formulation,
    Label,
    LogProbabilities,
    Original,
    Predicted,
    Selective,
    SoftmaxGradient,
    Stochastic,
    Target,
)
from zennit_isnet.losses import HeatmapLoss
from zennit_isnet.regularizer import ISNetRegularizer
from zennit_isnet.relevance.canonizers import FuseBatchNorm, MakeFunctionsVisible
from zennit_isnet.relevance.composite import DifferentiableComposite, differentiable
from zennit_isnet.relevance.ready import EpsilonZBox, ZPlus
from zennit_isnet.schedule import EveryNth
from zennit_isnet.signal.recomputation import checkpoint_contexts

__version__ = version("zennit-isnet")

__all__ = [
    "CalibrationError",
    "Contrast",
    "DifferentiableComposite",
    "Dual",
    "EpsilonZBox",
    "EveryNth",
    "Formulation",
    "FuseBatchNorm",
    "GradientRatioWarning",
    "GradientTimesInput",
    "HeatmapLoss",
    "ISNetError",
    "ISNetRegularizer",
    "InvalidTypeError",
    "InvalidValueError",
    "LRPAttribution",
    "LRPFlex",
    "Label",
    "LogProbabilities",
    "MakeFunctionsVisible",
    "MissingDependencyError",
    "Original",
    "Predicted",
    "RelevanceRange",
    "RelevanceRangeWarning",
    "Report",
    "Selective",
    "SoftmaxGradient",
    "Stochastic",
    "Target",
    "UncoveredOperationError",
    "UnsupportedModelError",
    "VanishedRelevanceWarning",
    "ZPlus",
    "__version__",
    "box_from_normalization",
    "check",
    "checkpoint_contexts",
    "differentiable",
]
