"""Metrics of where relevance lies: means of the measures in `zennit_isnet.functional` over heatmaps."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zennit_isnet import functional
from zennit_isnet.checks import check_choice, check_count
from zennit_isnet.errors import InvalidValueError
from zennit_isnet.functional.measures import ChannelPooling, NonNegativePooling, Undefined
from zennit_isnet.metrics.base import SeparateMetric


class LocalizationMetric(SeparateMetric):
    """Mean of a measure over all heatmaps.

    With ``undefined="skip"`` the state `skipped` counts the heatmaps that were left out, in this process; inside of
    ``with metric.sync_context():`` it is that of all processes. The mean of none is NaN.

    Parameters
    ----------
    measure : callable
        ``measure(heatmaps, foreground, undefined=..., **options)``, one of `zennit_isnet.functional`.
    options : dict
        What else the measure takes.
    **kwargs
        As for `SeparateMetric`.
    """

    higher_is_better = True
    _poolings: Any = ChannelPooling

    total: Tensor
    count: Tensor
    skipped: Tensor

    def __init__(self, measure: Callable[..., Tensor], options: dict[str, Any], **kwargs: Any) -> None:
        check_choice("pooling", options["pooling"], self._poolings)
        super().__init__(*options.values(), **kwargs)
        self.measure = measure
        self.options = options
        for name, nothing in {"total": 0.0, "count": 0, "skipped": 0}.items():
            self.add_state(name, torch.tensor(nothing), dist_reduce_fx="sum")

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
        heatmaps = heatmaps.detach() if isinstance(heatmaps, Tensor) else heatmaps
        scores = self.measure(heatmaps, foreground, undefined=self.undefined, **self.options)
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


class BackgroundShare(LocalizationMetric):
    """Mean share of the relevance that lies on the background, see `zennit_isnet.functional.background_share`.

    A low share says where relevance lies, not that the model ignores the background.

    Parameters
    ----------
    pooling : {"l1_norm", "sum_pos", "sum_abs", "l2_norm", "l2_norm_sq", "max_norm"}, default="l1_norm"
        How channels become one value, see `zennit_isnet.functional.pool_channels`.
    undefined : {"error", "skip"}, default="error"
        Heatmaps without relevance and masks without foreground are an error, or skipped and counted in `skipped`.
    **kwargs
        Options of `torchmetrics.Metric`.

    Raises
    ------
    InvalidValueError
        If an option is not legal.

    References
    ----------
    1 minus the relevance mass accuracy of Arras, Osman, Samek, Information Fusion 81 (2022) 14, arXiv:2003.07258.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.metrics import BackgroundShare
    >>> metric = BackgroundShare()
    >>> metric.update(torch.tensor([[[3.0, -1.0]]]), torch.tensor([[[1, 0]]]))
    >>> metric.compute()
    tensor(0.2500)
    """

    higher_is_better = False
    _poolings = NonNegativePooling

    def __init__(
        self, pooling: NonNegativePooling = "l1_norm", *, undefined: Undefined = "error", **kwargs: Any
    ) -> None:
        super().__init__(functional.background_share, {"pooling": pooling}, undefined=undefined, **kwargs)


class RelevanceMassAccuracy(LocalizationMetric):
    """Mean share of the relevance on the foreground, see `zennit_isnet.functional.relevance_mass_accuracy`.

    Parameters
    ----------
    pooling : {"sum_pos", "sum_abs", "l1_norm", "l2_norm", "l2_norm_sq", "max_norm"}, default="sum_pos"
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
    >>> from zennit_isnet.metrics import RelevanceMassAccuracy
    >>> RelevanceMassAccuracy()(torch.tensor([[[3.0, 1.0]]]), torch.tensor([[[1, 0]]]))
    tensor(0.7500)
    """

    _poolings = NonNegativePooling

    def __init__(
        self, pooling: NonNegativePooling = "sum_pos", *, undefined: Undefined = "error", **kwargs: Any
    ) -> None:
        super().__init__(functional.relevance_mass_accuracy, {"pooling": pooling}, undefined=undefined, **kwargs)


class EnergyPointingGame(RelevanceMassAccuracy):
    """Mean share of positive relevance in boxes, see `zennit_isnet.functional.energy_pointing_game`.

    Parameters
    ----------
    pooling, undefined, **kwargs
        As for `RelevanceMassAccuracy`; the default pooling is the paper's.

    Raises
    ------
    InvalidValueError
        If an option is not legal.

    References
    ----------
    Wang et al., "Score-CAM", CVPR Workshops 2020, arXiv:1910.01279, section 4.3.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.metrics import EnergyPointingGame
    >>> EnergyPointingGame()(torch.tensor([[[3.0, -1.0, 1.0]]]), torch.tensor([[[1, 0, 0]]]))
    tensor(0.7500)
    """


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

    def __init__(self, pooling: ChannelPooling = "sum", *, undefined: Undefined = "error", **kwargs: Any) -> None:
        super().__init__(functional.relevance_rank_accuracy, {"pooling": pooling}, undefined=undefined, **kwargs)


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

    def __init__(
        self, pooling: ChannelPooling = "sum", *, tolerance: int = 0, undefined: Undefined = "error", **kwargs: Any
    ) -> None:
        check_count("tolerance", tolerance, low=0)
        options = {"pooling": pooling, "tolerance": tolerance}
        super().__init__(functional.pointing_game, options, undefined=undefined, **kwargs)


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

    def __init__(
        self, k: int, pooling: ChannelPooling = "sum", *, undefined: Undefined = "error", **kwargs: Any
    ) -> None:
        check_count("k", k)
        super().__init__(functional.top_k_intersection, {"k": k, "pooling": pooling}, undefined=undefined, **kwargs)
