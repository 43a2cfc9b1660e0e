"""Metrics that are mean shares of the relevance."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from zennit_isnet.checks import check_choice
from zennit_isnet.functional.channels import NonNegativePooling
from zennit_isnet.functional.measured import Undefined
from zennit_isnet.functional.shares import background_share, energy_pointing_game, relevance_mass_accuracy
from zennit_isnet.metrics.localization import LocalizationMetric


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

    def __init__(
        self, pooling: NonNegativePooling = "l1_norm", *, undefined: Undefined = "error", **kwargs: Any
    ) -> None:
        check_choice("pooling", pooling, NonNegativePooling)
        super().__init__(pooling, undefined=undefined, **kwargs)
        self.pooling: NonNegativePooling = pooling

    def scores(self, heatmaps: Tensor, foreground: Tensor) -> Tensor:
        """Return the share of each heatmap."""
        return background_share(heatmaps, foreground, pooling=self.pooling, undefined=self.undefined)


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

    higher_is_better = True

    def __init__(
        self, pooling: NonNegativePooling = "sum_pos", *, undefined: Undefined = "error", **kwargs: Any
    ) -> None:
        check_choice("pooling", pooling, NonNegativePooling)
        super().__init__(pooling, undefined=undefined, **kwargs)
        self.pooling: NonNegativePooling = pooling

    def scores(self, heatmaps: Tensor, foreground: Tensor) -> Tensor:
        """Return the accuracy of each heatmap."""
        return relevance_mass_accuracy(heatmaps, foreground, pooling=self.pooling, undefined=self.undefined)


class EnergyPointingGame(LocalizationMetric):
    """Mean share of positive relevance in boxes, see `zennit_isnet.functional.energy_pointing_game`.

    Parameters
    ----------
    undefined, **kwargs
        As for `BackgroundShare`.

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

    higher_is_better = True

    def __init__(self, *, undefined: Undefined = "error", **kwargs: Any) -> None:
        super().__init__(undefined=undefined, **kwargs)

    def scores(self, heatmaps: Tensor, foreground: Tensor) -> Tensor:
        """Return the share of each heatmap."""
        return energy_pointing_game(heatmaps, foreground, undefined=self.undefined)
