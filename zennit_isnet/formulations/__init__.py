"""Which quantity of the logits is explained: formulations turn logits into seeds of the signal."""

from zennit_isnet.formulations.base import Formulation
from zennit_isnet.formulations.contrast import Contrast
from zennit_isnet.formulations.dual import Dual
from zennit_isnet.formulations.label import Label, Predicted
from zennit_isnet.formulations.log_probabilities import LogProbabilities
from zennit_isnet.formulations.one_hot import Original, Target
from zennit_isnet.formulations.selective import Selective
from zennit_isnet.formulations.softmax import SoftmaxGradient
from zennit_isnet.formulations.stochastic import Stochastic

__all__ = [
    "Contrast",
    "Dual",
    "Formulation",
    "Label",
    "LogProbabilities",
    "Original",
    "Predicted",
    "Selective",
    "SoftmaxGradient",
    "Stochastic",
    "Target",
]
