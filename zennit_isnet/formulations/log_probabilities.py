"""The sum of all log-probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

from zennit_isnet.errors import InvalidValueError
from zennit_isnet.formulations.base import Formulation


class LogProbabilities(Formulation):
    r"""The sum of the log-probabilities of all classes; one heatmap per image.

    .. math::
        \eta = \sum_c \log p_c, \qquad \frac{\partial \eta}{\partial y_j} = 1 - C p_j, \qquad p = \mathrm{softmax}(y)

    References
    ----------
    Ross, Hughes, Doshi-Velez, "Right for the Right Reasons", IJCAI 2017, section 2.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.formulations import LogProbabilities
    >>> LogProbabilities()(torch.tensor([[0.0, 0.0], [100.0, 0.0]]))
    tensor([[[ 0.,  0.]],
    <BLANKLINE>
            [[-1.,  1.]]])
    """

    def seeds(self, logits: Tensor) -> Tensor:
        """Return the seeds of shape (N, 1, C)."""
        classes = logits.shape[1]
        if classes == 1:
            raise InvalidValueError(
                "LogProbabilities is constant for one class and needs at least two; got logits of shape "
                f"{tuple(logits.shape)}"
            )
        probability = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(dim=1)
        return (1 - classes * probability).to(logits.dtype).unsqueeze(1)
