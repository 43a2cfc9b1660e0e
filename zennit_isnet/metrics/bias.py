"""Metrics of how predictions depend on the background: accuracies of groups, and what a swap of backgrounds changes."""

from typing import Any

import torch
from torch import Tensor

from zennit_isnet.checks import check_count
from zennit_isnet.errors import InvalidValueError
from zennit_isnet.functional.groups import accuracy_gap, group_counts, kinds, worst_accuracy
from zennit_isnet.functional.measures import Undefined
from zennit_isnet.metrics.base import SeparateMetric
from zennit_isnet.swap.predictions import swap_rates, swap_sums


class WorstGroupAccuracy(SeparateMetric):
    """Accuracy of the group with the lowest, see `zennit_isnet.functional.worst_group_accuracy`.

    Use `update`, and `compute` at the end. Called on one batch, it gives the batch's own value, in which groups are
    easily missing.

    Parameters
    ----------
    num_groups : int
        Number of groups, usually pairs of class and background.
    undefined : {"error", "skip"}, default="error"
        Groups without images are an error, or left out.
    **kwargs
        Options of `torchmetrics.Metric`.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If an option is not legal.

    References
    ----------
    Sagawa, Koh, Hashimoto, Liang, ICLR 2020, arXiv:1911.08731.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.metrics import WorstGroupAccuracy
    >>> metric = WorstGroupAccuracy(num_groups=2)
    >>> metric.update(torch.tensor([1, 0]), torch.tensor([1, 1]), torch.tensor([0, 0]))
    >>> metric.update(torch.tensor([2, 2]), torch.tensor([2, 2]), torch.tensor([1, 1]))
    >>> metric.compute()
    tensor(0.5000)
    """

    higher_is_better = True

    correct: Tensor
    total: Tensor

    def __init__(self, num_groups: int, *, undefined: Undefined = "error", **kwargs: Any) -> None:
        check_count("num_groups", num_groups)
        super().__init__(num_groups, undefined=undefined, **kwargs)
        self.num_groups = num_groups
        for name in ("correct", "total"):
            self.add_state(name, torch.zeros(num_groups, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, labels: Tensor, groups: Tensor) -> None:
        """Take a batch into account.

        Parameters
        ----------
        predictions : Tensor, shape (N, C) or (N,)
            Floating logits or probabilities, or integer classes.
        labels, groups : Tensor of integers, shape (N,)
            Classes from 0 to C - 1, and groups from 0 to ``num_groups - 1``.

        Raises
        ------
        InvalidTypeError, InvalidValueError
            If an argument is not allowed.
        """
        correct, total = group_counts(predictions, labels, groups, self.num_groups)
        self.correct += correct
        self.total += total

    def compute(self) -> Tensor:
        """Return the lowest accuracy, a scalar.

        Raises
        ------
        InvalidValueError
            If a group is empty and `undefined` is ``"error"``.
        """
        return worst_accuracy(self.correct, self.total, self.undefined)


class BiasGap(SeparateMetric):
    """Accuracy on biased minus accuracy on confounding images, see `zennit_isnet.functional.bias_gap`.

    Use `update` on the batches of both test sets, and `compute` at the end.

    Parameters
    ----------
    undefined : {"error", "skip"}, default="error"
        Without images of both kinds there is no gap: an error, or NaN.
    **kwargs
        Options of `torchmetrics.Metric`.

    Raises
    ------
    InvalidValueError
        If `undefined` is not legal.

    References
    ----------
    Like the BG-Gap of Xiao, Engstrom, Ilyas, Madry, ICLR 2021, arXiv:2006.09994.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.metrics import BiasGap
    >>> metric = BiasGap()
    >>> metric.update(torch.tensor([1, 2]), torch.tensor([1, 2]), confounding=False)
    >>> metric.update(torch.tensor([1, 0]), torch.tensor([1, 1]), confounding=True)
    >>> metric.compute()
    tensor(0.5000)
    """

    higher_is_better = False
    plot_lower_bound = -1.0

    correct: Tensor
    total: Tensor

    def __init__(self, *, undefined: Undefined = "error", **kwargs: Any) -> None:
        super().__init__(undefined=undefined, **kwargs)
        for name in ("correct", "total"):
            self.add_state(name, torch.zeros(2, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, labels: Tensor, confounding: Tensor | bool) -> None:
        """Take a batch into account.

        Parameters
        ----------
        predictions, labels
            As for `WorstGroupAccuracy`.
        confounding : Tensor of bool, shape (N,), or bool
            Whether the image's background is that of another class; one for all images of the batch.

        Raises
        ------
        InvalidTypeError, InvalidValueError
            If an argument is not allowed.
        """
        correct, total = group_counts(predictions, labels, kinds(confounding, labels), 2)
        self.correct += correct
        self.total += total

    def compute(self) -> Tensor:
        """Return the gap, a scalar.

        Raises
        ------
        InvalidValueError
            If one kind is missing and `undefined` is ``"error"``.
        """
        return accuracy_gap(self.correct, self.total, self.undefined)


class SwapGap(SeparateMetric):
    """Change of predictions between images and the same on other backgrounds, see `zennit_isnet.swap.swap_gap`.

    It needs masks of test images, but no other test set than the one at hand. Swap each batch with
    `zennit_isnet.swap.BackgroundSwap` of probability 1, and leave out images that kept their background or got one of
    their own class, which would make the gap look smaller.

    Parameters
    ----------
    multilabel : bool, default=False
        Whether each label is a decision of its own.
    undefined : {"error", "skip"}, default="error"
        Without images there are no figures: an error, or NaN.
    **kwargs
        Options of `torchmetrics.Metric`.

    Raises
    ------
    InvalidValueError
        If `undefined` is not legal.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.metrics import SwapGap
    >>> from zennit_isnet.swap import BackgroundSwap
    >>> model, swap = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 2)), BackgroundSwap(1.0)
    >>> metric = SwapGap()
    >>> images, masks, labels = torch.rand(4, 3, 8, 8), torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 1, 0])
    >>> masks[..., 2:6, 2:6] = 1
    >>> swapped, donors = swap.with_donors(images, masks)
    >>> other = labels != labels[donors]
    >>> metric.update(model(images)[other], model(swapped)[other], labels[other])
    >>> list(metric.compute())
    ['changed', 'total_variation', 'accuracy', 'swapped', 'gap']
    """

    higher_is_better = None
    plot_lower_bound = -1.0

    decisions: Tensor

    def __init__(self, *, multilabel: bool = False, undefined: Undefined = "error", **kwargs: Any) -> None:
        super().__init__(multilabel, undefined=undefined, **kwargs)
        self.multilabel = multilabel
        for name in ("changed", "accuracy", "swapped", "decisions"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total_variation", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, logits: Tensor, swapped_logits: Tensor, labels: Tensor) -> None:
        """Take a batch into account.

        Parameters
        ----------
        logits, swapped_logits : Tensor, shape (N, C)
            Of the images before and after the swap, finite; N may be 0.
        labels : Tensor of integers, shape (N,)
            Classes, from 0 to C - 1; with `multilabel` 0 or 1 for each label, ``(N, C)``.

        Raises
        ------
        InvalidTypeError, InvalidValueError
            If an argument is not allowed. The batch is then not taken into account.
        """
        for name, value in swap_sums(logits, swapped_logits, labels, multilabel=self.multilabel).items():
            # in place, so that the state keeps its dtype
            getattr(self, name).add_(value)

    def compute(self) -> dict[str, Tensor]:
        """Return the figures by name, scalars.

        Raises
        ------
        InvalidValueError
            If there were no images and `undefined` is ``"error"``.
        """
        if self.undefined == "error" and not self.decisions:
            raise InvalidValueError("the swap gap is undefined without images; pass undefined='skip' for NaN")
        return swap_rates({name: getattr(self, name) for name in self._defaults if name != "settings"})
