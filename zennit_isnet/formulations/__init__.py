"""Which quantity of the logits is explained: formulations turn logits into seeds of the signal."""

from zennit_isnet.formulations.base import Formulation
from zennit_isnet.formulations.logits import AllLogits, Contrast, Label, Original, Predicted, Stochastic, Target
from zennit_isnet.formulations.softmax import LogProbabilities, Selective, SoftmaxGradient

__all__ = [
    "AllLogits",
    "Contrast",
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
