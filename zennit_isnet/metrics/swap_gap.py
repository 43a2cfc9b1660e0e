"""The metric of how far predictions move when only the background moves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zennit_isnet.errors import InvalidValueError
from zennit_isnet.functional.measured import Undefined
from zennit_isnet.metrics.base import SeparateMetric
from zennit_isnet.swap.predictions import swap_rates, swap_sums


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
    plot_upper_bound = 1.0

    changed: Tensor
    total_variation: Tensor
    accuracy: Tensor
    swapped: Tensor
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
