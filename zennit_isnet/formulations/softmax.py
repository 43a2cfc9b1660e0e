"""The formulations that explain softmax scores."""

from __future__ import annotations

import torch
from torch import Tensor

from zennit_isnet.checks import check_number
from zennit_isnet.errors import InvalidValueError
from zennit_isnet.formulations.base import Formulation, one_hot


class Selective(Formulation):
    r"""The gradient of the softmax score :math:`\eta_c` of the lowest logit :math:`c`; one heatmap per image.

    .. math::
        \eta_c = \log(p_c + \delta) - \log(1 - p_c + \delta), \qquad
        \frac{\partial \eta_c}{\partial y_j} =
        \Bigl(\frac{1}{p_c + \delta} + \frac{1}{1 - p_c + \delta}\Bigr) p_c (\iota_{jc} - p_j),
        \qquad p = \mathrm{softmax}(y)

    With :math:`\delta = 0` the gradient is 1 at :math:`c` and :math:`-p_j / (1 - p_c)`, a softmax over the other
    classes, elsewhere. Its size is the same for a certain classifier and for an uncertain one.

    All logits take part in the softmax, so one heatmap carries evidence for and against every class, and the cost does
    not grow with the number of classes. For multi-label models take `Stochastic`.

    Parameters
    ----------
    delta : float, default=0.0
        Makes the gradient vanish with :math:`p_c / \delta`, for a class that is hopeless already. The papers have 1e-2;
        it then needs a classifier that stays uncertain, by label smoothing for example.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If `delta` is not a finite number of at least 0.

    References
    ----------
    .. [1] Bassi, P. R. A. S., Decherchi, S., Cavalli, A. "Faster ISNet for background bias mitigation on deep neural
       networks". IEEE Access 12, 155151 (2024). arXiv:2401.08409.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.formulations import Selective
    >>> Selective()(torch.zeros(1, 2))
    tensor([[[ 1., -1.]]])
    >>> Selective()(torch.tensor([[100.0, 100.0, 0.0]]))  # certain that it is not the third
    tensor([[[-0.5000, -0.5000,  1.0000]]])
    """

    def __init__(self, delta: float = 0.0) -> None:
        check_number("delta", delta, include_low=True)
        self.delta = delta

    def seeds(self, logits: Tensor) -> Tensor:
        """Return the seeds of shape (N, 1, C)."""
        if logits.shape[1] == 1:
            raise InvalidValueError(
                f"Selective compares classes and needs at least two; got logits of shape {tuple(logits.shape)}; use "
                "Stochastic() for models with one logit"
            )
        lowest = logits.argmin(dim=1, keepdim=True)
        precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.delta == 0:
            # in closed form: the quotient of p_j by 1 − p_c is a softmax without c
            others = precise.scatter(1, lowest, -torch.inf).softmax(dim=1)
            return (one_hot(lowest, precise) - others).to(logits.dtype).unsqueeze(1)
        probability = precise.softmax(dim=1)
        p = probability.gather(1, lowest)
        slope = (1 / (p + self.delta) + 1 / (1 - p + self.delta)) * p
        return (slope * (one_hot(lowest, probability) - probability)).to(logits.dtype).unsqueeze(1)

    def __repr__(self) -> str:
        return "Selective()" if self.delta == 0 else f"Selective(delta={self.delta!r})"


class SoftmaxGradient(Formulation):
    """Gradient of the softmax score ``p_c`` of the highest class; one heatmap per image. An ablation.

    It vanishes where the classifier is certain.

    References
    ----------
    Bassi, Dertkigil, Cavalli, Nat. Commun. 15 (2024) 291, ISNet Grad*Input.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.formulations import SoftmaxGradient
    >>> SoftmaxGradient()(torch.zeros(1, 2))
    tensor([[[ 0.2500, -0.2500]]])
    """

    def seeds(self, logits: Tensor) -> Tensor:
        """Return ``p_c (1_c − p)`` of shape (N, 1, C)."""
        probabilities = logits.softmax(1)
        highest = logits.argmax(1, keepdim=True)
        score = probabilities.gather(1, highest)
        return (score * (one_hot(highest, logits) - probabilities)).unsqueeze(1)


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
