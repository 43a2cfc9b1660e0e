"""Measures of localization that are shares of the relevance."""

from __future__ import annotations

from torch import Tensor

from zennit_isnet.functional.channels import NonNegativePooling
from zennit_isnet.functional.measured import Undefined, measured_maps


def background_share(
    heatmaps: Tensor, foreground: Tensor, *, pooling: NonNegativePooling = "l1_norm", undefined: Undefined = "error"
) -> Tensor:
    r"""Share of the relevance that lies on the background.

    .. math::
        \frac{\sum_p (1 - M_p) A_p}{\sum_p A_p}, \qquad A = \text{pooled } R

    Parameters
    ----------
    heatmaps : Tensor, shape (N, C, H, W), (N, K, C, H, W) or (N, H, W); (N, K, C, T, H, W) for videos
        Signed.
    foreground : Tensor, shape (N, 1, H, W) or (N, H, W), with T for videos
        1 on the object, 0 elsewhere, of the heatmaps' size and on their device.
    pooling : {"l1_norm", "sum_pos", "sum_abs", "l2_norm", "l2_norm_sq", "max_norm"}, default="l1_norm"
        How channels become one value, see `pool_channels`. The default is the measure of the heatmap loss, in which
        nothing cancels.
    undefined : {"error", "skip"}, default="error"
        Heatmaps without relevance (after pooling) and masks without foreground have no share: an error, or NaN.

    Returns
    -------
    Tensor, shape (N,) or (N, K)
        Between 0 and 1; lower is better.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If an argument is not allowed, or a share is undefined and `undefined` is ``"error"``.

    References
    ----------
    1 minus the relevance mass accuracy of Arras, Osman, Samek, Information Fusion 81 (2022) 14, arXiv:2003.07258.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.functional import background_share
    >>> background_share(torch.tensor([[[3.0, -1.0]]]), torch.tensor([[[1, 0]]]))
    tensor([0.2500])
    """
    maps = measured_maps(heatmaps, foreground, pooling, NonNegativePooling, undefined)
    share = (maps.values * ~maps.foreground).sum(dim=2) / maps.values.sum(dim=2)
    return maps.settled(share, undefined)


def relevance_mass_accuracy(
    heatmaps: Tensor, foreground: Tensor, *, pooling: NonNegativePooling = "sum_pos", undefined: Undefined = "error"
) -> Tensor:
    r"""Share of the relevance that lies on the foreground.

    .. math::
        \frac{\sum_p M_p A_p}{\sum_p A_p}, \qquad A = \text{pooled } R

    With the same pooling it is 1 minus the `background_share`.

    Parameters
    ----------
    heatmaps, foreground, undefined
        As for `background_share`.
    pooling : {"sum_pos", "sum_abs", "l1_norm", "l2_norm", "l2_norm_sq", "max_norm"}, default="sum_pos"
        How channels become one value. The paper compares these; the default counts what speaks for the quantity.

    Returns
    -------
    Tensor, shape (N,) or (N, K)
        Between 0 and 1; higher is better.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        As for `background_share`.

    References
    ----------
    Arras, Osman, Samek, Information Fusion 81 (2022) 14, arXiv:2003.07258, relevance mass accuracy.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.functional import relevance_mass_accuracy
    >>> relevance_mass_accuracy(torch.tensor([[[3.0, 1.0]]]), torch.tensor([[[1, 0]]]))
    tensor([0.7500])
    """
    maps = measured_maps(heatmaps, foreground, pooling, NonNegativePooling, undefined)
    share = (maps.values * maps.foreground).sum(dim=2) / maps.values.sum(dim=2)
    return maps.settled(share, undefined)


def energy_pointing_game(heatmaps: Tensor, foreground: Tensor, *, undefined: Undefined = "error") -> Tensor:
    r"""Share of the positive relevance that lies in the foreground, or in the box of the object.

    .. math::
        \frac{\sum_p M_p A^+_p}{\sum_p A^+_p}, \qquad A^+_p = \max\Bigl(0, \sum_c R_{cp}\Bigr)

    It is the `relevance_mass_accuracy` with its default pooling, under the name it has for boxes.

    Parameters
    ----------
    heatmaps, undefined
        As for `background_share`.
    foreground : Tensor, shape (N, 1, H, W) or (N, H, W), with T for videos
        1 in the object's bounding box, as in the paper, or on the object.

    Returns
    -------
    Tensor, shape (N,) or (N, K)
        Between 0 and 1; higher is better.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        As for `background_share`.

    References
    ----------
    Wang et al., "Score-CAM", CVPR Workshops 2020, arXiv:1910.01279, section 4.3.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.functional import energy_pointing_game
    >>> energy_pointing_game(torch.tensor([[[3.0, -1.0, 1.0]]]), torch.tensor([[[1, 0, 0]]]))
    tensor([0.7500])
    """
    return relevance_mass_accuracy(heatmaps, foreground, pooling="sum_pos", undefined=undefined)
