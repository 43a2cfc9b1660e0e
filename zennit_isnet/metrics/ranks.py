"""Metrics that look at the pixels with the most relevance."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from zennit_isnet.checks import check_choice, check_count
from zennit_isnet.functional.channels import ChannelPooling
from zennit_isnet.functional.measured import Undefined
from zennit_isnet.functional.ranks import pointing_game, relevance_rank_accuracy, top_k_intersection
from zennit_isnet.metrics.localization import LocalizationMetric


class RelevanceRankAccuracy(LocalizationMetric):
    """Mean share of the foreground among the top pixels, see `zennit_isnet.functional.relevance_rank_accuracy`.

    Parameters
    ----------
    pooling : {"sum", "sum_pos", "sum_abs", "l1_norm", "l2_norm", "l2_norm_sq", "max_norm"}, default="sum"
        How channels become one value.
    undefined, **kwargs
        As for `BackgroundShare`.

    Raises
    ------
    InvalidValueError
        If an option is not legal.

    References
    ----------
    Arras, Osman, Samek, Information Fusion 81 (2022) 14, arXiv:2003.07258.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.metrics import RelevanceRankAccuracy
    >>> RelevanceRankAccuracy()(torch.tensor([[[3.0, 1.0, 2.0]]]), torch.tensor([[[1, 1, 0]]]))
    tensor(0.5000)
    """

    higher_is_better = True

    def __init__(self, pooling: ChannelPooling = "sum", *, undefined: Undefined = "error", **kwargs: Any) -> None:
        check_choice("pooling", pooling, ChannelPooling)
        super().__init__(pooling, undefined=undefined, **kwargs)
        self.pooling: ChannelPooling = pooling

    def scores(self, heatmaps: Tensor, foreground: Tensor) -> Tensor:
        """Return the accuracy of each heatmap."""
        return relevance_rank_accuracy(heatmaps, foreground, pooling=self.pooling, undefined=self.undefined)


class PointingGame(LocalizationMetric):
    """Share of heatmaps whose maximum is on the foreground, see `zennit_isnet.functional.pointing_game`.

    Parameters
    ----------
    pooling : {"sum", "sum_pos", "sum_abs", "l1_norm", "l2_norm", "l2_norm_sq", "max_norm"}, default="sum"
        How channels become one value.
    tolerance : int, default=0
        Distance in pixels to the foreground that still is a hit. The paper has 15.
    undefined, **kwargs
        As for `BackgroundShare`.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If an option is not legal.

    References
    ----------
    Zhang et al., Int. J. Comput. Vis. 126 (2018) 1084, arXiv:1608.00507, section 4.1.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.metrics import PointingGame
    >>> PointingGame()(torch.tensor([[[3.0, 1.0, 2.0]]]), torch.tensor([[[1, 1, 0]]]))
    tensor(1.)
    """

    higher_is_better = True

    def __init__(
        self,
        pooling: ChannelPooling = "sum",
        *,
        tolerance: int = 0,
        undefined: Undefined = "error",
        **kwargs: Any,
    ) -> None:
        check_choice("pooling", pooling, ChannelPooling)
        check_count("tolerance", tolerance, low=0)
        super().__init__(pooling, tolerance, undefined=undefined, **kwargs)
        self.pooling: ChannelPooling = pooling
        self.tolerance = tolerance

    def scores(self, heatmaps: Tensor, foreground: Tensor) -> Tensor:
        """Return 1 for each hit and 0 for each miss."""
        return pointing_game(
            heatmaps, foreground, pooling=self.pooling, tolerance=self.tolerance, undefined=self.undefined
        )


class TopKIntersection(LocalizationMetric):
    """Mean share of the top k pixels on the foreground, see `zennit_isnet.functional.top_k_intersection`.

    Parameters
    ----------
    k : int
        Number of pixels.
    pooling : {"sum", "sum_pos", "sum_abs", "l1_norm", "l2_norm", "l2_norm_sq", "max_norm"}, default="sum"
        How channels become one value.
    undefined, **kwargs
        As for `BackgroundShare`.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If an option is not legal.

    References
    ----------
    Theiner, Müller-Budack, Ewerth, WACV 2022, arXiv:2104.14995.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.metrics import TopKIntersection
    >>> TopKIntersection(k=2)(torch.tensor([[[3.0, 1.0, 2.0]]]), torch.tensor([[[1, 0, 0]]]))
    tensor(0.5000)
    """

    higher_is_better = True

    def __init__(
        self, k: int, pooling: ChannelPooling = "sum", *, undefined: Undefined = "error", **kwargs: Any
    ) -> None:
        check_count("k", k)
        check_choice("pooling", pooling, ChannelPooling)
        super().__init__(k, pooling, undefined=undefined, **kwargs)
        self.k = k
        self.pooling: ChannelPooling = pooling

    def scores(self, heatmaps: Tensor, foreground: Tensor) -> Tensor:
        """Return the intersection of each heatmap."""
        return top_k_intersection(heatmaps, foreground, k=self.k, pooling=self.pooling, undefined=self.undefined)
