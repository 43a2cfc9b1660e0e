"""Group accuracies: the worst group, and the gap caused by background bias."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from zennit_isnet.checks import as_integers, check_choice, check_count, check_logits, kind_of
from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.functional.measures import Undefined


def group_counts(predictions: Tensor, labels: Tensor, groups: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """Count the images of each group, and those with a correct prediction.

    Parameters
    ----------
    predictions : Tensor, shape (N, C) or (N,)
        Floating logits or probabilities, or integer classes.
    labels : Tensor of integers, shape (N,)
        Classes, from 0 to C - 1. Leave out images with any other label, such as "ignore".
    groups : Tensor of integers, shape (N,)
        Group of each image, from 0 to ``num_groups - 1``.
    num_groups : int
        Number of groups.

    Returns
    -------
    correct, total : Tensor of int64, shape (num_groups,)

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If an argument is not allowed. Values are read, which synchronises an accelerator.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.functional import group_counts
    >>> group_counts(torch.tensor([1, 0, 2]), torch.tensor([1, 1, 2]), torch.tensor([0, 0, 1]), num_groups=2)
    (tensor([1, 1]), tensor([2, 1]))
    """
    check_count("num_groups", num_groups)
    classes = _as_classes(predictions)
    num_classes = predictions.shape[1] if predictions.dim() == 2 else None
    labels = as_integers("labels", labels, classes.shape, classes.device, num_classes)
    groups = as_integers("groups", groups, classes.shape, classes.device, num_groups)
    correct = torch.bincount(groups[classes == labels], minlength=num_groups)
    return correct, torch.bincount(groups, minlength=num_groups)


def worst_group_accuracy(
    predictions: Tensor, labels: Tensor, groups: Tensor, *, num_groups: int, undefined: Undefined = "error"
) -> Tensor:
    r"""Lowest accuracy of any group, :math:`\min_g \mathrm{accuracy}_g`.

    Parameters
    ----------
    predictions, labels, groups, num_groups
        As for `group_counts`. A group is usually a combination of class and background.
    undefined : {"error", "skip"}, default="error"
        Groups without images have no accuracy: raise an error, or leave them out.

    Returns
    -------
    Tensor, shape ()
        Between 0 and 1; higher is better. NaN if all groups are left out.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If an argument is not allowed, or a group is empty and `undefined` is ``"error"``.

    References
    ----------
    .. [1] Sagawa, S., Koh, P. W., Hashimoto, T. B., Liang, P. "Distributionally robust neural networks for group
       shifts". ICLR 2020. arXiv:1911.08731.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.functional import worst_group_accuracy
    >>> predictions, labels = torch.tensor([1, 0, 2, 2]), torch.tensor([1, 1, 2, 2])
    >>> worst_group_accuracy(predictions, labels, torch.tensor([0, 0, 1, 1]), num_groups=2)
    tensor(0.5000)
    """
    return worst_accuracy(*group_counts(predictions, labels, groups, num_groups), undefined)


def bias_gap(
    predictions: Tensor, labels: Tensor, confounding: Tensor | bool, *, undefined: Undefined = "error"
) -> Tensor:
    """Accuracy on biased images minus accuracy on confounding images.

    Biased images have the background of their own class in training; confounding images have the background of another
    class. A model that ignores backgrounds has no gap; a model that uses only the background has the largest.

    Parameters
    ----------
    predictions, labels
        As for `group_counts`.
    confounding : Tensor of bool, shape (N,), or bool
        Whether the image has another class's background; a single bool applies to all images.
    undefined : {"error", "skip"}, default="error"
        Without images of both kinds there is no gap: raise an error, or return NaN.

    Returns
    -------
    Tensor, shape ()
        Between −1 and 1; near 0 is better, as long as the accuracies are high.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If an argument is not allowed, or one kind is missing and `undefined` is ``"error"``.

    References
    ----------
    .. [1] Xiao, K., Engstrom, L., Ilyas, A., Madry, A. "Noise or signal: the role of image backgrounds in object
       recognition". ICLR 2021. arXiv:2006.09994. Similar to its BG-Gap between backgrounds of the same and of random
       classes.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.functional import bias_gap
    >>> predictions, labels = torch.tensor([1, 0, 2, 2]), torch.tensor([1, 1, 2, 2])
    >>> bias_gap(predictions, labels, torch.tensor([True, True, False, False]))
    tensor(0.5000)
    """
    return accuracy_gap(*group_counts(predictions, labels, kinds(confounding, labels), 2), undefined)


def kinds(confounding: Tensor | bool, labels: Tensor) -> Tensor:
    """Groups of the bias gap: 0 for biased, 1 for confounding images."""
    labels = as_integers("labels", labels)
    if isinstance(confounding, (bool, np.bool_)):
        return torch.full_like(labels, bool(confounding))
    if not isinstance(confounding, Tensor) or confounding.dtype != torch.bool:
        raise InvalidTypeError(f"confounding must be a bool or a tensor of torch.bool; got {kind_of(confounding)}")
    return as_integers("confounding", confounding, labels.shape, labels.device)


def worst_accuracy(correct: Tensor, total: Tensor, undefined: Undefined) -> Tensor:
    """Lowest accuracy of the groups with images, from their counts (G,)."""
    return _accuracies(correct, total, undefined, range(len(total))).nanquantile(0)


def accuracy_gap(correct: Tensor, total: Tensor, undefined: Undefined) -> Tensor:
    """Accuracy of the first group minus that of the second, from their counts (2,)."""
    accuracy = _accuracies(correct, total, undefined, ("biased", "confounding"))
    return accuracy[0] - accuracy[1]


def _accuracies(correct: Tensor, total: Tensor, undefined: Undefined, names: Sequence[object]) -> Tensor:
    """Accuracy of each group, NaN for groups without images."""
    check_choice("undefined", undefined, Undefined)
    empty = [str(name) for name, count in zip(names, total.tolist(), strict=True) if count == 0]
    if undefined == "error" and empty:
        problem = f"accuracy is undefined without images, as in the groups {', '.join(empty)}"
        remedy = 'pass undefined="skip" to leave them out, or call update() on all images before compute()'
        raise InvalidValueError(f"{problem}; {remedy}")
    return correct / total


def _as_classes(predictions: Tensor) -> Tensor:
    """Predicted classes (N,) of logits (N, C) or classes (N,)."""
    if isinstance(predictions, Tensor) and predictions.is_floating_point():
        check_logits("predictions", predictions, values=True)
        return predictions.argmax(dim=1)
    classes = as_integers("predictions", predictions)
    if classes.dim() != 1:
        raise InvalidValueError(f"predicted classes must have shape (N,); got {tuple(classes.shape)}")
    return classes
