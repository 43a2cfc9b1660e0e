"""The loss term for predictions that must not follow the background."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from zennit_isnet.checks import check_choice
from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.swap.options import Consistency


def swap_consistency(
    logits: Tensor, swapped_logits: Tensor, *, kind: Consistency = "symmetric_kl", multilabel: bool = False
) -> Tensor:
    r"""Distance between the predictions for an image and for the same foreground on another background.

    With the predictions :math:`p` and :math:`q`, the softmax of the logits :math:`y` and :math:`y'`:

    ==================== ==================================================================================
    `kind`               distance
    ==================== ==================================================================================
    ``"symmetric_kl"``   :math:`\frac12 \mathrm{KL}(p \| q) + \frac12 \mathrm{KL}(q \| p)`
    ``"jensen_shannon"`` :math:`\frac12 \mathrm{KL}(p \| r) + \frac12 \mathrm{KL}(q \| r)`, :math:`r = (p + q)/2`
    ``"squared_logits"`` :math:`\frac1C \sum_c (y_c - y'_c)^2`
    ==================== ==================================================================================

    Parameters
    ----------
    logits : torch.Tensor
        Of the images, ``(N, C)``.
    swapped_logits : torch.Tensor
        Of the images after `BackgroundSwap`, ``(N, C)``. Images that kept their background add 0, but for what
        dropout and the batch statistics of a model in training mode change between the two passes.
    kind : {"symmetric_kl", "jensen_shannon", "squared_logits"}, default="symmetric_kl"
        The distance. The default has a strong gradient exactly where it matters: when a biased model is sure of two
        different classes. There the Jensen-Shannon divergence is flat at log 2, which keeps it from taking over but
        also from acting. Squared logits punish a shift that is common to all classes, which changes no prediction.
    multilabel : bool, default=False
        Whether each label is a decision of its own: then :math:`p` and :math:`q` are Bernoulli distributions with the
        sigmoid of each logit, and the mean over the labels is taken. ``"squared_logits"`` is the same for both.

    Returns
    -------
    torch.Tensor
        One distance for each image, ``(N,)``, at least 0 up to rounding, in float32 at least; differentiable in both
        logits.

    Raises
    ------
    InvalidTypeError
        If logits are not floating tensors.
    InvalidValueError
        If shapes or devices differ, shapes are not ``(N, C)``, there is no image, or `kind` is unknown. Values are not
        read: NaN and infinite logits give NaN.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.swap import BackgroundSwap, swap_consistency
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
    >>> images, masks = torch.rand(4, 3, 8, 8), torch.zeros(4, 1, 8, 8)
    >>> masks[..., 2:6, 2:6] = 1
    >>> logits, swapped_logits = model(images), model(BackgroundSwap(probability=1.0)(images, masks))
    >>> loss = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0]))
    >>> loss = loss + swap_consistency(logits, swapped_logits).mean()
    >>> loss.backward()

    References
    ----------
    Jeffreys: An invariant form for the prior probability in estimation problems. Proc. R. Soc. A 186, 1946. Lin:
    Divergence measures based on the Shannon entropy. IEEE Trans. Inf. Theory 37(1), 1991. Consistency of predictions
    as a loss: Hendrycks et al., AugMix, ICLR 2020, section 3.
    """
    check_choice("kind", kind, Consistency)
    logits, swapped_logits = check_logits(logits, swapped_logits)
    if len(logits) == 0:
        raise InvalidValueError("logits and swapped_logits must be of at least one image; got none")
    if kind == "squared_logits":
        return (logits - swapped_logits).square().mean(1)
    log_p, log_q = (log_probabilities(y, multilabel) for y in (logits, swapped_logits))
    p, q = log_p.exp(), log_q.exp()
    if kind == "symmetric_kl":
        distance = 0.5 * ((p - q) * (log_p - log_q)).sum(-1)
    else:
        log_r = torch.logaddexp(log_p, log_q) - math.log(2)
        distance = 0.5 * (p * (log_p - log_r) + q * (log_q - log_r)).sum(-1)
    return distance.mean(1)


def log_probabilities(logits: Tensor, multilabel: bool) -> Tensor:
    """Log-probabilities of the outcomes of each decision: ``(N, 1, C)``, or ``(N, C, 2)`` for labels of their own."""
    if multilabel:
        return torch.stack([F.logsigmoid(logits), F.logsigmoid(-logits)], dim=-1)
    return logits.log_softmax(1).unsqueeze(1)


def check_logits(logits: Tensor, swapped_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return both in float32, or as they are in float64.

    Raises
    ------
    InvalidTypeError
        If one is not a floating tensor.
    InvalidValueError
        If shapes or devices differ, or shapes are not ``(N, C)`` with at least one class.
    """
    for name, value in (("logits", logits), ("swapped_logits", swapped_logits)):
        if not isinstance(value, Tensor) or not value.is_floating_point():
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise InvalidTypeError(f"{name} must be a floating tensor; got {kind}")
    if logits.shape != swapped_logits.shape or logits.ndim != 2 or logits.shape[1] == 0:
        raise InvalidValueError(
            "logits and swapped_logits must have the same shape (N, C) with C >= 1; "
            f"got {tuple(logits.shape)} and {tuple(swapped_logits.shape)}"
        )
    if logits.device != swapped_logits.device:
        raise InvalidValueError(
            f"logits and swapped_logits must be on the same device; got {logits.device} and {swapped_logits.device}"
        )
    double = torch.float64 in (logits.dtype, swapped_logits.dtype)
    dtype = torch.float64 if double else torch.float32
    return logits.to(dtype), swapped_logits.to(dtype)
