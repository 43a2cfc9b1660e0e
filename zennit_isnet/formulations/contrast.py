"""The contrast of the two highest logits."""

from __future__ import annotations

from torch import Tensor

from zennit_isnet.errors import InvalidValueError
from zennit_isnet.formulations.base import Formulation, one_hot


class Contrast(Formulation):
    """The highest logit minus the second highest; one heatmap per image.

    With two classes it is ``|y_0 − y_1|``, which is how it is published; this is its continuation to more classes.

    References
    ----------
    Simpson, Dutil, Bengio, Cohen, "GradMask: Reduce Overfitting by Regularizing Saliency", MIDL 2019,
    arXiv:1904.07478, the contrast variant.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.formulations import Contrast
    >>> Contrast()(torch.tensor([[1.0, 3.0, 2.0]]))
    tensor([[[ 0.,  1., -1.]]])
    """

    def seeds(self, logits: Tensor) -> Tensor:
        """Return the seeds of shape (N, 1, C)."""
        if logits.shape[1] == 1:
            raise InvalidValueError(
                f"Contrast compares classes and needs at least two; got logits of shape {tuple(logits.shape)}"
            )
        highest, second = logits.topk(2, dim=1).indices.split(1, dim=1)
        return (one_hot(highest, logits) - one_hot(second, logits)).unsqueeze(1)
