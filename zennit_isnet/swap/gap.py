"""How far predictions move when only the background moves."""

from collections.abc import Mapping

import torch
from torch import Tensor

from zennit_isnet.checks import as_integers
from zennit_isnet.errors import InvalidValueError
from zennit_isnet.swap.consistency import check_logits, log_probabilities


def swap_gap(logits: Tensor, swapped_logits: Tensor, labels: Tensor, *, multilabel: bool = False) -> dict[str, Tensor]:
    r"""Compare predictions for images and for the same foregrounds on other backgrounds.

    ===================== =====================================================================================
    key                   mean over the images of
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
        too.

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

    Sums of batches can be added; there may be no image. A decision is an image, or with `multilabel` one label of one.

    Parameters
    ----------
    logits, swapped_logits, labels, multilabel
        As for `swap_gap`.

    Returns
    -------
    dict of str to torch.Tensor
        Scalars: ``"total_variation"`` floating, and the counts ``"changed"``, ``"accuracy"``, ``"swapped"`` and
        ``"decisions"``.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        As for `swap_gap`.
    """
    logits, swapped_logits = check_logits(logits, swapped_logits)
    for name, value in (("logits", logits), ("swapped_logits", swapped_logits)):
        if not bool(value.isfinite().all()):
            raise InvalidValueError(f"{name} must be finite; got NaN or Inf")
    shape, count = (logits.shape, 2) if multilabel else (logits.shape[:1], logits.shape[1])
    labels = as_integers("labels", labels, shape, logits.device, count)
    p, q = (log_probabilities(y.detach(), multilabel).exp() for y in (logits, swapped_logits))
    before, after = ((y > 0).long() if multilabel else y.argmax(1) for y in (logits, swapped_logits))
    return {
        "changed": (before != after).sum(),
        "total_variation": 0.5 * (p - q).abs().sum(),
        "accuracy": (before == labels).sum(),
        "swapped": (after == labels).sum(),
        "decisions": torch.tensor(labels.numel(), device=logits.device),
    }


def swap_rates(sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the figures of `swap_gap` from sums of `swap_sums`."""
    names = ("changed", "total_variation", "accuracy", "swapped")
    rates = {name: sums[name] / sums["decisions"] for name in names}
    return {**rates, "gap": rates["accuracy"] - rates["swapped"]}
