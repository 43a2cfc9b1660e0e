"""Predictions before and after a swap: a loss term that makes them agree, and measures of their difference."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from zennit_isnet.checks import as_integers, check_fits, check_logits
from zennit_isnet.errors import InvalidValueError


def swap_consistency(logits: Tensor, swapped_logits: Tensor, *, multilabel: bool = False) -> Tensor:
    r"""Distance between the predictions for an image and for its foreground on another background.

    .. math::
        \tfrac12 \mathrm{KL}(p \| q) + \tfrac12 \mathrm{KL}(q \| p)

    with the predictions :math:`p` and :math:`q`, the softmax of the two logits. Its gradient is strong when a biased
    model confidently predicts two different classes, which matters most. There the Jensen-Shannon divergence is flat. A
    distance between logits would penalise shifts common to all classes, which do not change predictions.

    Parameters
    ----------
    logits : torch.Tensor
        Logits of the images, ``(N, C)``.
    swapped_logits : torch.Tensor
        Logits of the images after `BackgroundSwap`, ``(N, C)``. Images that kept their background add 0, except for
        changes from dropout and batch statistics between the two passes of a model in train mode.
    multilabel : bool, default=False
        Whether each label is a separate decision: then :math:`p` and :math:`q` are Bernoulli distributions with the
        sigmoid of each logit, averaged over the labels.

    Returns
    -------
    torch.Tensor
        One distance per image, ``(N,)``, nonnegative up to rounding, at least in float32; differentiable with respect
        to both logits.

    Raises
    ------
    InvalidTypeError
        If logits are not floating tensors.
    InvalidValueError
        If shapes or devices differ, shapes are not ``(N, C)``, or there are no images. Values are not read: NaN and
        infinite logits give NaN.

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
    .. [1] Jeffreys, H. "An invariant form for the prior probability in estimation problems". Proc. R. Soc. A 186
       (1946).
    .. [2] Hendrycks, D. et al. "AugMix: a simple data processing method to improve robustness and uncertainty". ICLR
       2020. arXiv:1912.02781. Section 3, consistency of predictions as a loss.
    """
    logits, swapped_logits = _checked(logits, swapped_logits, values=False)
    if len(logits) == 0:
        raise InvalidValueError("logits must have at least one image; got none")
    log_p, log_q = (log_probabilities(y, multilabel) for y in (logits, swapped_logits))
    return 0.5 * ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1).mean(1)


def swap_gap(logits: Tensor, swapped_logits: Tensor, labels: Tensor, *, multilabel: bool = False) -> dict[str, Tensor]:
    r"""Compare predictions for images and for their foregrounds on other backgrounds.

    Each figure is the mean over classes of the mean over their images, so rare and frequent classes count equally, and
    always predicting the most frequent class scores no better than chance. Classes without images are left out.

    ===================== =====================================================================================
    key                   mean of
    ===================== =====================================================================================
    ``"changed"``         1 if the predicted class changes
    ``"total_variation"`` :math:`\frac12 \sum_c |p_c - q_c|`, the largest change of the probability of any event
    ``"accuracy"``        1 if the prediction for the image is correct
    ``"swapped"``         1 if the prediction for the swapped image is correct
    ``"gap"``             ``accuracy - swapped``: accuracy that depends on the backgrounds
    ===================== =====================================================================================

    ``"gap"`` alone can be 0 while predictions change from wrong to correct and back; ``"changed"`` counts these.

    Images that kept their background, or got one from the same class, make all figures too small. Swap with probability
    1, get the donors from `BackgroundSwap.with_donors`, and leave these images out, as in the example of
    `zennit_isnet.metrics.SwapGap`. With C equally frequent classes they are one in C.

    Parameters
    ----------
    logits, swapped_logits : torch.Tensor
        Finite logits of the images before and after the swap, ``(N, C)``.
    labels : torch.Tensor
        Classes ``(N,)``, of integers from 0 to C - 1; with `multilabel` 0 or 1 for each label, ``(N, C)``.
    multilabel : bool, default=False
        Whether each label is a separate decision, by the sign of its logit; all figures are then means over labels and
        images.

    Returns
    -------
    dict of str to torch.Tensor
        Scalars without a graph; ``"gap"`` lies in [-1, 1], the others in [0, 1].

    Raises
    ------
    InvalidTypeError
        If logits are not floating tensors, or labels are not integers.
    InvalidValueError
        If shapes, devices or labels do not match, logits are NaN or infinite, or there are no images. Values are read,
        which synchronises an accelerator.

    References
    ----------
    .. [1] Xiao, K., Engstrom, L., Ilyas, A., Madry, A. "Noise or signal: the role of image backgrounds in object
       recognition". ICLR 2021. arXiv:2006.09994. ``"gap"`` compares accuracies like its BG-Gap.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.swap import swap_gap
    >>> logits, swapped = torch.tensor([[2.0, 0.0], [3.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    >>> figures = swap_gap(logits, swapped, labels=torch.tensor([0, 0]))
    >>> figures["changed"], figures["accuracy"], figures["swapped"], figures["gap"]
    (tensor(0.5000), tensor(1.), tensor(0.5000), tensor(0.5000))
    """
    sums = swap_sums(logits, swapped_logits, labels, multilabel=multilabel)
    if len(logits) == 0:
        raise InvalidValueError("the swap gap is undefined without images")
    return swap_rates(sums)


def swap_sums(logits: Tensor, swapped_logits: Tensor, labels: Tensor, *, multilabel: bool = False) -> dict[str, Tensor]:
    """Sums over the decisions for some images, from which `swap_rates` computes the figures of `swap_gap`.

    Sums of batches can be added; a batch may be empty. A decision is an image, counted for its class, or with
    `multilabel` one label of an image.

    Parameters
    ----------
    logits, swapped_logits, labels, multilabel
        As for `swap_gap`.

    Returns
    -------
    dict of str to torch.Tensor
        For each class, ``(C,)``: ``"total_variation"`` floating, and the counts ``"changed"``, ``"accuracy"``,
        ``"swapped"`` and ``"decisions"``.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        As for `swap_gap`.
    """
    logits, swapped_logits = _checked(logits, swapped_logits, values=True)
    shape, count = (logits.shape, 2) if multilabel else (logits.shape[:1], logits.shape[1])
    labels = as_integers("labels", labels, shape, logits.device, count)
    p, q = (log_probabilities(y.detach(), multilabel).exp() for y in (logits, swapped_logits))
    before, after = ((y > 0).long() if multilabel else y.argmax(1) for y in (logits, swapped_logits))

    def by_class(values: Tensor) -> Tensor:
        if multilabel:
            return values.sum(0)
        return values.new_zeros(logits.shape[1]).index_add(0, labels, values)

    return {
        "changed": by_class((before != after).long()),
        "total_variation": by_class(0.5 * (p - q).abs().sum(-1).view(labels.shape)),
        "accuracy": by_class((before == labels).long()),
        "swapped": by_class((after == labels).long()),
        "decisions": by_class(torch.ones_like(labels)),
    }


def swap_rates(sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the figures of `swap_gap` from sums of `swap_sums`; NaN without images."""
    names = ("changed", "total_variation", "accuracy", "swapped")
    rates = {name: (sums[name] / sums["decisions"]).nanmean() for name in names}
    return {**rates, "gap": rates["accuracy"] - rates["swapped"]}


def log_probabilities(logits: Tensor, multilabel: bool) -> Tensor:
    """Return log-probabilities of each decision's outcomes: ``(N, 1, C)``, or ``(N, C, 2)`` for separate labels."""
    if multilabel:
        return torch.stack([F.logsigmoid(logits), F.logsigmoid(-logits)], dim=-1)
    return logits.log_softmax(1).unsqueeze(1)


def _checked(logits: Tensor, swapped_logits: Tensor, *, values: bool) -> tuple[Tensor, Tensor]:
    """Return both in float32; float64 is kept.

    Raises
    ------
    InvalidTypeError
        If one is not a floating tensor.
    InvalidValueError
        If shapes or devices differ, or shapes are not ``(N, C)`` with at least one class.
    """
    check_logits("logits", logits, values=values)
    check_logits("swapped_logits", swapped_logits, values=values)
    check_fits("swapped_logits", swapped_logits, logits.shape, logits.device)
    dtype = torch.promote_types(torch.promote_types(logits.dtype, swapped_logits.dtype), torch.float32)
    return logits.to(dtype), swapped_logits.to(dtype)
