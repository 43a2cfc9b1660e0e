"""Metrics of background reliance and background bias, based on torchmetrics (extra ``metrics``).

The formulas are pure functions in `zennit_isnet.functional`; these classes average them over batches and processes. The
location of relevance is not evidence that a model ignores the background: also report `WorstGroupAccuracy`, `BiasGap`
or `SwapGap`.

Examples
--------
Heatmaps of a model, batch by batch, in one collection:

>>> import torch
>>> from torchmetrics import MetricCollection
>>> from zennit_isnet import ISNetRegularizer
>>> from zennit_isnet.metrics import BackgroundShare, PointingGame
>>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 2))
>>> images, masks, labels = torch.rand(4, 3, 8, 8), torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 1, 0])
>>> masks[..., 2:6, 2:6] = 1
>>> metrics = MetricCollection([BackgroundShare(), PointingGame(tolerance=1)])
>>> explain = ISNetRegularizer(model).heatmap
>>> for batch in torch.arange(4).split(2):
...     metrics.update(explain(images[batch], labels[batch]), masks[batch])
>>> sorted(metrics.compute())
['BackgroundShare', 'PointingGame']
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from zennit_isnet import functional
from zennit_isnet.checks import check_choice, check_count
from zennit_isnet.errors import InvalidTypeError, InvalidValueError, import_optional
from zennit_isnet.functional.groups import accuracy_gap, group_counts, kinds, worst_accuracy
from zennit_isnet.functional.measures import ChannelPooling, SharePooling, Undefined
from zennit_isnet.swap.predictions import swap_rates, swap_sums

import_optional("torchmetrics", package="torchmetrics", extra="metrics")

from torchmetrics import Metric  # noqa: E402

__all__ = [
    "BackgroundShare",
    "BiasGap",
    "EnergyPointingGame",
    "PointingGame",
    "RelevanceMassAccuracy",
    "RelevanceRankAccuracy",
    "SwapGap",
    "TopKIntersection",
    "WorstGroupAccuracy",
]


class SeparateMetric(Metric):
    """A metric that `MetricCollection` never confuses with another one, and that errors leave unchanged.

    The collection shares states among metrics whose states are equal after the first batch. Here equal states prove
    nothing: two pointing games can agree on one batch. A constant state made from the settings distinguishes metrics.

    Parameters
    ----------
    *settings : object
        Settings that the value depends on, compared by their ``repr``.
    undefined : {"error", "skip"}
        How undefined values are handled.
    **kwargs
        Options of `torchmetrics.Metric`.
    """

    is_differentiable = False
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    def __init__(self, *settings: object, undefined: Undefined, **kwargs: Any) -> None:
        check_choice("undefined", undefined, Undefined)
        super().__init__(**kwargs)
        self.undefined: Undefined = undefined
        fingerprint = repr((type(self).__name__, *settings, undefined)).encode()
        self.add_state("settings", torch.tensor(list(fingerprint)), dist_reduce_fx="max")

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Add a batch like `update`, and return the batch's own value like `compute`.

        After an error the metric is unchanged.
        """
        before = dict(self.__dict__)
        try:
            return super().forward(*args, **kwargs)
        except BaseException:
            # torchmetrics clears the states for the batch's value, and leaves them cleared after an error
            self.__dict__.update(before)
            raise

    @contextmanager
    def sync_context(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Synchronise the states of all processes inside the block, and restore this process's own after it."""
        with super().sync_context(*args, **kwargs):
            try:
                yield
            except BaseException:
                if self._is_synced:
                    self.unsync()
                raise

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add the data of a metric of the same kind and settings, for example from another program.

        Parameters
        ----------
        incoming_state : Metric or dict
            The other metric, or its `metric_state`.

        Raises
        ------
        InvalidTypeError
            If it is neither a metric nor a dict.
        InvalidValueError
            If it comes from a metric with other settings.
        """
        if not isinstance(incoming_state, dict | Metric):
            raise InvalidTypeError(f"incoming_state must be a metric or its state; got {type(incoming_state).__name__}")
        incoming = incoming_state.metric_state if isinstance(incoming_state, Metric) else incoming_state
        self._check_settings("incoming_state", incoming.get("settings", ()))
        super().merge_state(incoming)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        if f"{prefix}settings" in state_dict:
            self._check_settings("state_dict", state_dict[f"{prefix}settings"])
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _check_settings(self, name: str, settings: Iterable[Any]) -> None:
        own, other = (bytes(map(int, values)).decode() for values in (self.metric_state["settings"], settings))
        if own != other:
            raise InvalidValueError(f"{name} must come from a metric with the settings {own}; got {other or 'none'}")

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw one or several values, like all torchmetrics metrics; needs matplotlib.

        Parameters
        ----------
        val : Tensor, dict, or sequence of them, optional
            Results of `compute` or of calls. If None, `compute()`.
        ax : matplotlib.axes.Axes, optional
            Where to draw. If None, a new figure.

        Returns
        -------
        figure, axes
        """
        return self._plot(val, ax)


class LocalizationMetric(SeparateMetric):
    """Mean of a measure over all heatmaps.

    With ``undefined="skip"`` the state `skipped` counts the heatmaps left out in this process; inside ``with
    metric.sync_context():`` it counts those of all processes. The mean of no heatmaps is NaN.

    Parameters
    ----------
    measure : callable
        ``measure(heatmaps, foreground, undefined=..., **options)``, one of `zennit_isnet.functional`.
    options : dict
        Further arguments of the measure.
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
        self.measure, self.options = measure, options
        for name, nothing in {"total": 0.0, "count": 0, "skipped": 0}.items():
            self.add_state(name, torch.tensor(nothing), dist_reduce_fx="sum")

    def update(self, heatmaps: Tensor, foreground: Tensor) -> None:
        """Add a batch.

        Parameters
        ----------
        heatmaps : Tensor, shape (N, C, H, W), (N, K, C, H, W) or (N, H, W); (N, K, C, T, H, W) for videos
            Signed, of any floating dtype.
        foreground : Tensor, shape (N, 1, H, W) or (N, H, W), with T for videos
            1 on the object, 0 elsewhere, of the heatmaps' size and on their device.

        Raises
        ------
        InvalidTypeError, InvalidValueError
            If an argument is not allowed, or the measure is undefined for a heatmap and `undefined` is ``"error"``.
            The batch is then not added.
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
            raise InvalidValueError(f"{type(self).__name__} has no value before update() with at least one heatmap")
        return self.total / self.count


class BackgroundShare(LocalizationMetric):
    """Mean share of the relevance that lies on the background, see `zennit_isnet.functional.background_share`.

    A low share shows where relevance lies, not that the model ignores the background.

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
    .. [1] Arras, L., Osman, A., Samek, W. "CLEVR-XAI: a benchmark dataset for the ground truth evaluation of neural
       network explanations". Inf. Fusion 81, 14 (2022). arXiv:2003.07258. This is 1 minus the paper's relevance mass
       accuracy.

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
    _poolings = SharePooling

    def __init__(self, pooling: SharePooling = "l1_norm", *, undefined: Undefined = "error", **kwargs: Any) -> None:
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
    .. [1] Arras, L., Osman, A., Samek, W. "CLEVR-XAI: a benchmark dataset for the ground truth evaluation of neural
       network explanations". Inf. Fusion 81, 14 (2022). arXiv:2003.07258.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.metrics import RelevanceMassAccuracy
    >>> RelevanceMassAccuracy()(torch.tensor([[[3.0, 1.0]]]), torch.tensor([[[1, 0]]]))
    tensor(0.7500)
    """

    _poolings = SharePooling

    def __init__(self, pooling: SharePooling = "sum_pos", *, undefined: Undefined = "error", **kwargs: Any) -> None:
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
    .. [1] Wang, H. et al. "Score-CAM: score-weighted visual explanations for convolutional neural networks". CVPR
       Workshops 2020. arXiv:1910.01279. Section 4.3.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.metrics import EnergyPointingGame
    >>> EnergyPointingGame()(torch.tensor([[[3.0, -1.0, 1.0]]]), torch.tensor([[[1, 0, 0]]]))
    tensor(0.7500)
    """


class RelevanceRankAccuracy(LocalizationMetric):
    """Mean share of foreground among the top pixels, see `zennit_isnet.functional.relevance_rank_accuracy`.

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
    .. [1] Arras, L., Osman, A., Samek, W. "CLEVR-XAI: a benchmark dataset for the ground truth evaluation of neural
       network explanations". Inf. Fusion 81, 14 (2022). arXiv:2003.07258.

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
        Distance in pixels to the foreground that still counts as a hit. The paper uses 15.
    undefined, **kwargs
        As for `BackgroundShare`.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If an option is not legal.

    References
    ----------
    .. [1] Zhang, J. et al. "Top-down neural attention by excitation backprop". Int. J. Comput. Vis. 126, 1084 (2018).
       arXiv:1608.00507. Section 4.1.

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
    .. [1] Theiner, J., Müller-Budack, E., Ewerth, R. "Interpretable semantic photo geolocation". WACV 2022.
       arXiv:2104.14995.

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


class WorstGroupAccuracy(SeparateMetric):
    """Lowest accuracy of any group, see `zennit_isnet.functional.worst_group_accuracy`.

    Use `update`, and `compute` at the end. A call on one batch gives the batch's own value, where groups are often
    missing.

    Parameters
    ----------
    num_groups : int
        Number of groups, usually combinations of class and background.
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
    .. [1] Sagawa, S., Koh, P. W., Hashimoto, T. B., Liang, P. "Distributionally robust neural networks for group
       shifts". ICLR 2020. arXiv:1911.08731.

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

    counts: Tensor

    def __init__(self, num_groups: int, *, undefined: Undefined = "error", **kwargs: Any) -> None:
        check_count("num_groups", num_groups)
        super().__init__(num_groups, undefined=undefined, **kwargs)
        self.num_groups = num_groups
        # correct predictions and images of each group
        self.add_state("counts", torch.zeros(2, num_groups, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, labels: Tensor, groups: Tensor) -> None:
        """Add a batch.

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
        self.counts += torch.stack(group_counts(predictions, labels, groups, self.num_groups))

    def compute(self) -> Tensor:
        """Return the lowest accuracy, a scalar.

        Raises
        ------
        InvalidValueError
            If a group is empty and `undefined` is ``"error"``.
        """
        return worst_accuracy(self.counts[0], self.counts[1], self.undefined)


class BiasGap(SeparateMetric):
    """Accuracy on biased minus accuracy on confounding images, see `zennit_isnet.functional.bias_gap`.

    Use `update` on the batches of both test sets, and `compute` at the end.

    Parameters
    ----------
    undefined : {"error", "skip"}, default="error"
        Without images of both kinds there is no gap: raise an error, or return NaN.
    **kwargs
        Options of `torchmetrics.Metric`.

    Raises
    ------
    InvalidValueError
        If `undefined` is not legal.

    References
    ----------
    .. [1] Xiao, K., Engstrom, L., Ilyas, A., Madry, A. "Noise or signal: the role of image backgrounds in object
       recognition". ICLR 2021. arXiv:2006.09994. Similar to its BG-Gap.

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

    counts: Tensor

    def __init__(self, *, undefined: Undefined = "error", **kwargs: Any) -> None:
        super().__init__(undefined=undefined, **kwargs)
        # correct predictions on biased and on confounding images, and the numbers of images
        self.add_state("counts", torch.zeros(2, 2, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, labels: Tensor, confounding: Tensor | bool) -> None:
        """Add a batch.

        Parameters
        ----------
        predictions, labels
            As for `WorstGroupAccuracy`.
        confounding : Tensor of bool, shape (N,), or bool
            Whether the image has another class's background; a single bool applies to the whole batch.

        Raises
        ------
        InvalidTypeError, InvalidValueError
            If an argument is not allowed.
        """
        self.counts += torch.stack(group_counts(predictions, labels, kinds(confounding, labels), 2))

    def compute(self) -> Tensor:
        """Return the gap, a scalar.

        Raises
        ------
        InvalidValueError
            If one kind is missing and `undefined` is ``"error"``.
        """
        return accuracy_gap(self.counts[0], self.counts[1], self.undefined)


class SwapGap(SeparateMetric):
    """Change of predictions when images get other backgrounds, see `zennit_isnet.swap.swap_gap`.

    It needs masks for test images, but no additional test set. Swap each batch by `zennit_isnet.swap.BackgroundSwap`
    with probability 1, and leave out images that kept their background or got one from their own class: they would make
    the gap look smaller.

    Parameters
    ----------
    num_classes : int
        Number of classes or labels; each counts equally.
    multilabel : bool, default=False
        Whether each label is a separate decision.
    undefined : {"error", "skip"}, default="error"
        Without images there are no figures: raise an error, or return NaN.
    **kwargs
        Options of `torchmetrics.Metric`.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If an option is not legal.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.metrics import SwapGap
    >>> from zennit_isnet.swap import BackgroundSwap
    >>> model, swap = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 2)), BackgroundSwap(1.0)
    >>> metric = SwapGap(num_classes=2)
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

    def __init__(
        self, num_classes: int, *, multilabel: bool = False, undefined: Undefined = "error", **kwargs: Any
    ) -> None:
        check_count("num_classes", num_classes)
        super().__init__(num_classes, multilabel, undefined=undefined, **kwargs)
        self.num_classes, self.multilabel = num_classes, multilabel
        for name in ("changed", "accuracy", "swapped", "decisions"):
            self.add_state(name, torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("total_variation", torch.zeros(num_classes), dist_reduce_fx="sum")

    def update(self, logits: Tensor, swapped_logits: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Parameters
        ----------
        logits, swapped_logits : Tensor, shape (N, C)
            Finite logits of the images before and after the swap; N may be 0.
        labels : Tensor of integers, shape (N,)
            Classes, from 0 to C - 1; with `multilabel` 0 or 1 for each label, ``(N, C)``.

        Raises
        ------
        InvalidTypeError, InvalidValueError
            If an argument is not allowed. The batch is then not added.
        """
        found = swap_sums(logits, swapped_logits, labels, multilabel=self.multilabel)
        if logits.shape[1] != self.num_classes:
            raise InvalidValueError(f"logits must have {self.num_classes} classes; got shape {tuple(logits.shape)}")
        for name, value in found.items():
            # in place, so that the state keeps its dtype
            getattr(self, name).add_(value)

    def compute(self) -> dict[str, Tensor]:
        """Return the figures by name, scalars.

        Raises
        ------
        InvalidValueError
            If there were no images and `undefined` is ``"error"``.
        """
        if self.undefined == "error" and not self.decisions.any():
            raise InvalidValueError("the swap gap is undefined without images; pass undefined='skip' for NaN")
        return swap_rates({name: getattr(self, name) for name in self._defaults})
