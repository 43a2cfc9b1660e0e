"""How far predictions move when only the background moves."""

from torch import Tensor

from zennit_isnet.errors import InvalidTypeError, InvalidValueError
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

    Parameters
    ----------
    logits, swapped_logits : torch.Tensor
        Of the images before and after the swap, ``(N, C)``. Swap with probability 1: an image that kept its background
        can only make the gap look smaller.
    labels : torch.Tensor
        Classes ``(N,)``, dtype int64; with `multilabel` 0 or 1 for each label, ``(N, C)``.
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
        If shapes or labels do not fit.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.swap import swap_gap
    >>> logits, swapped = torch.tensor([[2.0, 0.0], [3.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    >>> figures = swap_gap(logits, swapped, labels=torch.tensor([0, 0]))
    >>> figures["changed"], figures["accuracy"], figures["swapped"], figures["gap"]
    (tensor(0.5000), tensor(1.), tensor(0.5000), tensor(0.5000))
    """
    logits, swapped_logits = check_logits(logits.detach(), swapped_logits.detach())
    _check_labels(labels, logits, multilabel)
    p, q = (log_probabilities(y, multilabel).exp() for y in (logits, swapped_logits))
    before, after = ((y > 0).long() if multilabel else y.argmax(1) for y in (logits, swapped_logits))
    accuracy, swapped = ((prediction == labels).to(logits.dtype).mean() for prediction in (before, after))
    return {
        "changed": (before != after).to(logits.dtype).mean(),
        "total_variation": 0.5 * (p - q).abs().sum(-1).mean(),
        "accuracy": accuracy,
        "swapped": swapped,
        "gap": accuracy - swapped,
    }


def _check_labels(labels: Tensor, logits: Tensor, multilabel: bool) -> None:
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        kind = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise InvalidTypeError(f"labels must be a tensor of integers; got {kind}")
    expected, classes = (tuple(logits.shape), 2) if multilabel else (tuple(logits.shape[:1]), logits.shape[1])
    if tuple(labels.shape) != expected:
        raise InvalidValueError(f"labels must have shape {expected}; got {tuple(labels.shape)}")
    if bool(((labels < 0) | (labels >= classes)).any()):
        raise InvalidValueError(f"labels must be from 0 to {classes - 1}; got {labels.unique().tolist()}")
