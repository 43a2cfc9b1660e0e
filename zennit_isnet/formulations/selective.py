"""The formulation that explains one softmax score."""

import torch
from torch import Tensor

from zennit_isnet.arguments import check_number
from zennit_isnet.errors import InvalidValueError
from zennit_isnet.formulations.base import Formulation, one_hot


class Selective(Formulation):
    r"""The gradient of the softmax score :math:`\eta_c` of the lowest logit :math:`c`; one heatmap per image.

    .. math::
        \eta_c = \log(p_c + \delta) - \log(1 - p_c + \delta), \qquad
        \frac{\partial \eta_c}{\partial y_j} =
        \Bigl(\frac{1}{p_c + \delta} + \frac{1}{1 - p_c + \delta}\Bigr) p_c (\iota_{jc} - p_j),
        \qquad p = \mathrm{softmax}(y)

    All logits take part in the softmax, so one heatmap carries evidence for and against every class. It is the
    default: its cost does not grow with the number of classes. For multi-label models take `Stochastic`.

    The seed shrinks with :math:`p_c / \delta`. So train with label smoothing, 0.1 for ten classes, which keeps the
    lowest class from vanishing; on a classifier that is certain, the relevance has no range that fits all images.

    Parameters
    ----------
    delta : float, default=1e-2
        Keeps the logarithms finite, and the gradient small for a class that is hopeless already. The papers' value.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If `delta` is not a positive finite number.

    References
    ----------
    .. [1] Bassi, P. R. A. S., Decherchi, S., Cavalli, A. "Faster ISNet for background bias mitigation on deep neural
       networks". IEEE Access 12, 155151 (2024). arXiv:2401.08409.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.formulations import Selective
    >>> Selective()(torch.zeros(1, 2))
    tensor([[[ 0.9804, -0.9804]]])
    """

    def __init__(self, delta: float = 1e-2) -> None:
        check_number("delta", delta)
        self.delta = delta

    def seeds(self, logits: Tensor) -> Tensor:
        """Return the seeds of shape (N, 1, C)."""
        if logits.shape[1] == 1:
            raise InvalidValueError(
                f"Selective compares classes and needs at least two; got logits of shape {tuple(logits.shape)}; use "
                "Stochastic() for models with one logit"
            )
        lowest = logits.argmin(dim=1, keepdim=True)
        probability = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(dim=1)
        p = probability.gather(1, lowest)
        slope = (1 / (p + self.delta) + 1 / (1 - p + self.delta)) * p
        return (slope * (one_hot(lowest, probability) - probability)).to(logits.dtype).unsqueeze(1)

    def __repr__(self) -> str:
        return f"Selective(delta={self.delta!r})"
