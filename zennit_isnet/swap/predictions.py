"""Predictions for images before and after a swap: a loss term that keeps them together, and how far they are apart."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from zennit_isnet.checks import as_integers, check_fits, check_logits
from zennit_isnet.errors import InvalidValueError


def swap_consistency(logits: Tensor, swapped_logits: Tensor, *, multilabel: bool = False) -> Tensor:
    r"""Distance between the predictions for an image and for the same foreground on another background.

    .. math::
        \tfrac12 \mathrm{KL}(p \| q) + \tfrac12 \mathrm{KL}(q \| p)

    with the predictions :math:`p` and :math:`q`, the softmax of the two logits. It has a strong gradient exactly where
    it matters: when a biased model is sure of two different classes. There the Jensen-Shannon divergence is flat, and
    a distance of logits would punish a shift that is common to all classes, which changes no prediction.

    Parameters
    ----------
    logits : torch.Tensor
        Of the images, ``(N, C)``.
    swapped_logits : torch.Tensor
        Of the images after `BackgroundSwap`, ``(N, C)``. Images that kept their background add 0, but for what
        dropout and the batch statistics of a model in training mode change between the two passes.
    multilabel : bool, default=False
        Whether each label is a decision of its own: then :math:`p` and :math:`q` are Bernoulli distributions with the
        sigmoid of each logit, and the mean over the labels is taken.

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
        If shapes or devices differ, shapes are not ``(N, C)``, or there is no image. Values are not read: NaN and
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
    Jeffreys: An invariant form for the prior probability in estimation problems. Proc. R. Soc. A 186, 1946.
    Consistency of predictions as a loss: Hendrycks et al., AugMix, ICLR 2020, section 3.
    """
    logits, swapped_logits = _checked(logits, swapped_logits, values=False)
    if len(logits) == 0:
        raise InvalidValueError("logits must be of at least one image; got none")
    log_p, log_q = (log_probabilities(y, multilabel) for y in (logits, swapped_logits))
    return 0.5 * ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1).mean(1)


def swap_gap(logits: Tensor, swapped_logits: Tensor, labels: Tensor, *, multilabel: bool = False) -> dict[str, Tensor]:
    r"""Compare predictions for images and for the same foregrounds on other backgrounds.

    Each figure is the mean over the classes of the mean over their images, so that a rare class counts like a frequent
    one, and always naming the most frequent class is worth no more than chance. Classes without images are left out.

    ===================== =====================================================================================
    key                   mean of
    ===================== =====================================================================================
    ``"changed"``         1 where the predicted class is another one
    ``"total_variation"`` :math:`\frac12 \sum_c |p_c - q_c|`, the largest change of the probability of any event
    ``"accuracy"``        1 where the prediction for the image is right
    ``"swapped"``         1 where the prediction for the swapped image is right
    ``"gap"``             ``accuracy - swapped``: what the model owes to its backgrounds
    ===================== =====================================================================================

    ``"gap"`` alone can be 0 while predictions change from wrong to right and back; ``"changed"`` counts these.

    All figures look smaller than they are with images that kept their background, or got one that goes with the same
    class. Swap with probability 1, ask `BackgroundSwap.with_donors` who gave each background, and leave these images
    out, as the example of `zennit_isnet.metrics.SwapGap` does. Of C equally frequent classes they are one in C.

    Parameters
    ----------
    logits, swapped_logits : torch.Tensor
        Of the images before and after the swap, ``(N, C)``, finite.
    labels : torch.Tensor
        Classes ``(N,)``, of integers from 0 to C - 1; with `multilabel` 0 or 1 for each label, ``(N, C)``.
    multilabel : bool, default=False
        Whether each label is a decision of its own, by the sign of its logit; all figures are then means over labels
        and images.

    Returns
    -------
    dict of str to torch.Tensor
        Scalars without a graph; ``"gap"`` lies in [-1, 1], the others in [0, 1].

    Raises
    ------
    InvalidTypeError
        If logits are not floating tensors, or labels no integers.
    InvalidValueError
        If shapes, devices or labels do not fit, logits are NaN or infinite, or there is no image. Values are read, so
        an accelerator waits.

    References
    ----------
    ``"gap"`` compares accuracies as the BG-Gap of Xiao, Engstrom, Ilyas, Madry: Noise or signal: the role of image
    backgrounds in object recognition. ICLR 2021, arXiv:2006.09994.

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
    """Sums over the decisions of some images, from which `swap_rates` makes the figures of `swap_gap`.

    Sums of batches can be added; there may be no image. A decision is an image, counted for its class, or with
    `multilabel` one label of one.

    Parameters
    ----------
    logits, swapped_logits, labels, multilabel
        As for `swap_gap`.

    Returns
    -------
    dict of str to torch.Tensor
        Of each class, ``(C,)``: ``"total_variation"`` floating, and the counts ``"changed"``, ``"accuracy"``,
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
    """Log-probabilities of the outcomes of each decision: ``(N, 1, C)``, or ``(N, C, 2)`` for labels of their own."""
    if multilabel:
        return torch.stack([F.logsigmoid(logits), F.logsigmoid(-logits)], dim=-1)
    return logits.log_softmax(1).unsqueeze(1)


def _checked(logits: Tensor, swapped_logits: Tensor, *, values: bool) -> tuple[Tensor, Tensor]:
    """Return both in float32, or as they are in float64.

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
