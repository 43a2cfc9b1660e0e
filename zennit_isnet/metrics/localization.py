"""Metrics of where relevance lies: means of the measures in `zennit_isnet.functional` over heatmaps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from zennit_isnet.errors import InvalidValueError
from zennit_isnet.functional.measured import Undefined
from zennit_isnet.metrics.base import SeparateMetric


class LocalizationMetric(SeparateMetric, ABC):
    """Mean of a measure over all heatmaps. Subclasses write `scores`.

    With ``undefined="skip"`` the state `skipped` counts the heatmaps that were left out, in this process; inside of
    ``with metric.sync_context():`` it is that of all processes. The mean of none is NaN.
    """

    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    total: Tensor
    count: Tensor
    skipped: Tensor

    def __init__(self, *settings: object, undefined: Undefined, **kwargs: Any) -> None:
        super().__init__(*settings, undefined=undefined, **kwargs)
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("skipped", torch.tensor(0), dist_reduce_fx="sum")

    @abstractmethod
    def scores(self, heatmaps: Tensor, foreground: Tensor) -> Tensor:
        """Return the measure of each heatmap, NaN where it is undefined and skipped."""

    def update(self, heatmaps: Tensor, foreground: Tensor) -> None:
        """Take a batch into account.

        Parameters
        ----------
        heatmaps : Tensor, shape (N, C, H, W), (N, K, C, H, W) or (N, H, W); (N, K, C, T, H, W) for videos
            Signed; of any floating dtype.
        foreground : Tensor, shape (N, 1, H, W) or (N, H, W), with T for videos
            1 on the object, 0 elsewhere, of the heatmaps' size and on their device.

        Raises
        ------
        InvalidTypeError, InvalidValueError
            If an argument is not allowed, or the measure is undefined for a heatmap and `undefined` is ``"error"``.
            The batch is then not taken into account.
        """
        scores = self.scores(heatmaps.detach() if isinstance(heatmaps, Tensor) else heatmaps, foreground)
        defined = ~scores.isnan()
        self.total += scores.nan_to_num(0.0).sum()
        self.count += defined.sum()
        self.skipped += (~defined).sum()

    def compute(self) -> Tensor:
        """Return the mean over all defined heatmaps, a scalar.

        Raises
        ------
        InvalidValueError
            If there was no heatmap at all and `undefined` is ``"error"``.
        """
        if self.undefined == "error" and not bool(self.count):
            raise InvalidValueError(f"{type(self).__name__} has no value before update() saw a heatmap")
        return self.total / self.count
