"""Measures of localization: shares of the relevance, and those that look at the pixels with the most of it.

Pixels of equal relevance have no order. Each measure of ranks is the expected value over all orders of them, so it
depends neither on the device nor on where a pixel lies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from zennit_isnet.checks import as_floats, check_choice, check_count
from zennit_isnet.errors import InvalidValueError
from zennit_isnet.functional.masks import check_real, named_images, validate_foreground

ChannelPooling = Literal["sum", "sum_pos", "sum_abs", "l1_norm", "l2_norm", "l2_norm_sq", "max_norm"]
"""Ways to pool channels; all but ``"sum"`` give nothing negative."""

NonNegativePooling = Literal["sum_pos", "sum_abs", "l1_norm", "l2_norm", "l2_norm_sq", "max_norm"]
"""Ways to pool channels into shares of a total."""

Undefined = Literal["error", "skip"]
"""Whether an undefined value is an error, or NaN, which the metrics skip and count."""


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


def relevance_rank_accuracy(
    heatmaps: Tensor, foreground: Tensor, *, pooling: ChannelPooling = "sum", undefined: Undefined = "error"
) -> Tensor:
    r"""Share of the foreground among as many pixels of the highest relevance as the foreground has.

    .. math::
        \frac{|P_{\mathrm{top}\,K} \cap G|}{K}, \qquad K = |G|, \qquad G = \{p : M_p = 1\}

    Parameters
    ----------
    heatmaps, foreground, undefined
        As for `background_share`.
    pooling : {"sum", "sum_pos", "sum_abs", "l1_norm", "l2_norm", "l2_norm_sq", "max_norm"}, default="sum"
        How channels become one value, see `pool_channels`. The default ranks pixels by how much they speak for the
        quantity; the paper's poolings are the others, which give nothing negative.

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
    Arras, Osman, Samek, Information Fusion 81 (2022) 14, arXiv:2003.07258, relevance rank accuracy.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.functional import relevance_rank_accuracy
    >>> relevance_rank_accuracy(torch.tensor([[[3.0, 1.0, 2.0]]]), torch.tensor([[[1, 1, 0]]]))
    tensor([0.5000])
    """
    maps = measured_maps(heatmaps, foreground, pooling, ChannelPooling, undefined)
    return maps.settled(_share_of_top(maps, maps.foreground.sum(dim=2).clamp(min=1)), undefined)


def pointing_game(
    heatmaps: Tensor,
    foreground: Tensor,
    *,
    pooling: ChannelPooling = "sum",
    tolerance: int = 0,
    undefined: Undefined = "error",
) -> Tensor:
    """Whether the pixel of the highest relevance lies on the foreground, 1 or 0; between them for tied pixels.

    Parameters
    ----------
    heatmaps, foreground, undefined
        As for `background_share`.
    pooling
        As for `relevance_rank_accuracy`.
    tolerance : int, default=0
        Distance in pixels to the foreground that still is a hit. The paper has 15.

    Returns
    -------
    Tensor, shape (N,) or (N, K)
        Between 0 and 1; higher is better. Its mean over images of one class is the paper's accuracy.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        As for `background_share`, and if `tolerance` is not an int of at least 0.

    References
    ----------
    Zhang et al., "Top-Down Neural Attention by Excitation Backprop", Int. J. Comput. Vis. 126 (2018) 1084,
    arXiv:1608.00507, section 4.1.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.functional import pointing_game
    >>> heatmaps, foreground = torch.tensor([[[3.0, 1.0, 2.0]]]), torch.tensor([[[0, 1, 1]]])
    >>> pointing_game(heatmaps, foreground), pointing_game(heatmaps, foreground, tolerance=1)
    (tensor([0.]), tensor([1.]))
    """
    maps = measured_maps(heatmaps, foreground, pooling, ChannelPooling, undefined, tolerance)
    return maps.settled(_share_of_top(maps, 1), undefined)


def top_k_intersection(
    heatmaps: Tensor, foreground: Tensor, *, k: int, pooling: ChannelPooling = "sum", undefined: Undefined = "error"
) -> Tensor:
    r"""Share of the k pixels of the highest relevance that lies on the foreground.

    .. math::
        \frac{|P_{\mathrm{top}\,k} \cap G|}{k}, \qquad G = \{p : M_p = 1\}

    Parameters
    ----------
    heatmaps, foreground, undefined
        As for `background_share`.
    k : int
        Number of pixels, from 1 to ``H·W``. A fixed k is hard to reach for objects of fewer pixels.
    pooling
        As for `relevance_rank_accuracy`.

    Returns
    -------
    Tensor, shape (N,) or (N, K)
        Between 0 and 1; higher is better.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        As for `background_share`, and if `k` is not an int from 1 to the number of pixels.

    References
    ----------
    Theiner, Müller-Budack, Ewerth, "Interpretable Semantic Photo Geolocation", WACV 2022, arXiv:2104.14995.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.functional import top_k_intersection
    >>> top_k_intersection(torch.tensor([[[3.0, 1.0, 2.0]]]), torch.tensor([[[1, 0, 0]]]), k=2)
    tensor([0.5000])
    """
    check_count("k", k)
    maps = measured_maps(heatmaps, foreground, pooling, ChannelPooling, undefined)
    pixels = maps.values.shape[2]
    if k > pixels:
        raise InvalidValueError(f"k must be at most {pixels}, the number of pixels of a heatmap; got {k}")
    return maps.settled(_share_of_top(maps, k), undefined)


def pool_channels(heatmaps: Tensor, pooling: ChannelPooling) -> Tensor:
    r"""Pool the channels :math:`R_c` of each pixel.

    ============== =================================
    pooling        value
    ============== =================================
    ``sum``        :math:`\sum_c R_c`, signed
    ``sum_pos``    :math:`\max(0, \sum_c R_c)`
    ``sum_abs``    :math:`|\sum_c R_c|`
    ``l1_norm``    :math:`\sum_c |R_c|`
    ``l2_norm``    :math:`\sqrt{\sum_c R_c^2}`
    ``l2_norm_sq`` :math:`\sum_c R_c^2`
    ``max_norm``   :math:`\max_c |R_c|`
    ============== =================================

    Parameters
    ----------
    heatmaps : Tensor, shape (..., C, H, W)
        Signed.
    pooling : ChannelPooling
        The first column of the table.

    Returns
    -------
    Tensor, shape (..., H, W)
        In float32 or float64.

    Raises
    ------
    InvalidTypeError
        If `heatmaps` is no floating tensor.
    InvalidValueError
        If `pooling` is unknown, or `heatmaps` has fewer than three dimensions or no channel.

    References
    ----------
    Arras, Osman, Samek, "CLEVR-XAI: A benchmark dataset for the ground truth evaluation of neural network
    explanations", Information Fusion 81 (2022) 14, arXiv:2003.07258, on pooling; all but ``sum``.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.functional import pool_channels
    >>> pool_channels(torch.tensor([1.0, -3.0]).reshape(2, 1, 1), "l1_norm")
    tensor([[4.]])
    """
    check_choice("pooling", pooling, ChannelPooling)
    heatmaps = as_floats("heatmaps", heatmaps)
    if heatmaps.dim() < 3 or heatmaps.shape[-3] == 0:
        raise InvalidValueError(f"heatmaps must have shape (..., C, H, W) with C >= 1; got {tuple(heatmaps.shape)}")
    pools = {
        "sum": lambda r: r.sum(dim=-3),
        "sum_pos": lambda r: r.sum(dim=-3).clamp(min=0),
        "sum_abs": lambda r: r.sum(dim=-3).abs(),
        "l1_norm": lambda r: r.abs().sum(dim=-3),
        "l2_norm": lambda r: r.square().sum(dim=-3).sqrt(),
        "l2_norm_sq": lambda r: r.square().sum(dim=-3),
        "max_norm": lambda r: r.abs().amax(dim=-3),
    }
    pooled: Tensor = pools[pooling](heatmaps)
    return pooled


@dataclass(frozen=True)
class MeasuredMaps:
    """Pooled heatmaps and their masks. Index letters: N images, K heatmaps per image, P pixels.

    Parameters
    ----------
    values : Tensor, shape (N, K, P)
        Pooled heatmaps in float32 or float64, finite.
    foreground : Tensor of bool, shape (N, 1, P)
        True on the object.
    several : bool
        Whether the heatmaps came with a dimension K.
    """

    values: Tensor
    foreground: Tensor
    several: bool

    def settled(self, scores: Tensor, undefined: Undefined) -> Tensor:
        """Put NaN, or raise, where there is no foreground or no relevance.

        Parameters
        ----------
        scores : Tensor, shape (N, K)
            One value for each heatmap; arbitrary where it is undefined.
        undefined : {"error", "skip"}
            What to do there.

        Returns
        -------
        Tensor, shape (N, K), or (N,) for heatmaps without a dimension K

        Raises
        ------
        InvalidValueError
            If a score is undefined and `undefined` is ``"error"``.
        """
        no_foreground = ~self.foreground.any(dim=2)
        no_relevance = (self.values == 0).all(dim=2)
        if undefined == "error":
            reasons = {"no foreground in the masks": no_foreground, "no relevance in the pooled heatmaps": no_relevance}
            found = [f"{reason} of {_named(flags)}" for reason, flags in reasons.items() if bool(flags.any())]
            if found:
                raise InvalidValueError(
                    f'the measure is undefined: {" and ".join(found)}; leave them out, or pass undefined="skip"'
                )
        scores = scores.masked_fill(no_foreground | no_relevance, torch.nan)
        return scores if self.several else scores.squeeze(1)


def measured_maps(
    heatmaps: Tensor,
    foreground: Tensor,
    pooling: ChannelPooling,
    legal: object,
    undefined: Undefined,
    tolerance: int = 0,
) -> MeasuredMaps:
    """Check heatmaps, masks and options, and pool the channels.

    Parameters
    ----------
    heatmaps, foreground : Tensor
        As for `background_share`.
    pooling : ChannelPooling
        How channels are pooled.
    legal : typing.Literal
        The poolings that the measure allows.
    undefined : {"error", "skip"}
        Only checked here.
    tolerance : int, default=0
        Radius in pixels by which the foreground grows.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If an argument is not allowed; values are read, so an accelerator waits.
    """
    check_choice("pooling", pooling, legal)
    check_choice("undefined", undefined, Undefined)
    check_count("tolerance", tolerance, low=0)
    heatmaps, several = _as_several(heatmaps)
    foreground = _grown(_as_masks(foreground, heatmaps), tolerance)
    values = pool_channels(_scaled(heatmaps).flatten(3, -2), pooling)
    return MeasuredMaps(values.flatten(2), foreground.flatten(2), several)


def _share_of_top(maps: MeasuredMaps, count: Tensor | int) -> Tensor:
    """Expected share of foreground among the `count`, int or (N, 1), highest pixels, of shape (N, K)."""
    values, foreground = maps.values, maps.foreground
    count = torch.as_tensor(count, device=values.device).expand(len(values), 1)
    ranked = values.sort(dim=2, descending=True).values
    threshold = ranked.gather(2, (count.unsqueeze(2) - 1).expand(-1, values.shape[1], 1))
    above, tied = values > threshold, values == threshold
    # of the pixels that are tied for the remaining places, each takes part with the same probability
    places = count - above.sum(dim=2)
    hits = (above & foreground).sum(dim=2) + places * (tied & foreground).sum(dim=2) / tied.sum(dim=2)
    return hits / count


def _as_several(heatmaps: Tensor) -> tuple[Tensor, bool]:
    """Heatmaps as (N, K, C, *spatial) in float32 or float64, and whether they came like this."""
    heatmaps = as_floats("heatmaps", heatmaps)
    if heatmaps.dim() not in (3, 4, 5, 6) or heatmaps.numel() == 0:
        raise InvalidValueError(
            "heatmaps must have shape (N, C, H, W), (N, K, C, H, W) or (N, H, W), or (N, K, C, T, H, W) for videos, "
            f"none of them 0; got {tuple(heatmaps.shape)}"
        )
    broken = ~heatmaps.isfinite().flatten(1).all(dim=1)
    if bool(broken.any()):
        raise InvalidValueError(f"heatmaps must be finite; got NaN or Inf in {_named(broken)}")
    several = heatmaps.dim() >= 5
    if not several:
        heatmaps = heatmaps.reshape(len(heatmaps), 1, -1, *heatmaps.shape[-2:])
    return heatmaps, several


def _as_masks(foreground: Tensor, heatmaps: Tensor) -> Tensor:
    """Boolean masks (N, 1, *spatial) of the heatmaps' size."""
    check_real(foreground)
    if foreground.device != heatmaps.device:
        raise InvalidValueError(
            f"foreground must be on the heatmaps' device {heatmaps.device}; got {foreground.device}"
        )
    size = tuple(heatmaps.shape[3:])
    masks = foreground.unsqueeze(1) if foreground.dim() == len(size) + 1 else foreground
    expected = (len(heatmaps), 1, *size)
    if masks.shape != expected:
        raise InvalidValueError(
            f"foreground must have shape {expected} or without the 1, for heatmaps of this size; got "
            f"{tuple(foreground.shape)}; resize_foreground(foreground, {size}) brings masks to "
            "the size of heatmaps; heatmaps of videos have shape (N, K, C, T, H, W)"
        )
    # masks without any foreground are legal here: whether that is an error is for the measure to say
    empty = (masks == 0).flatten(1).all(dim=1)
    validate_foreground(torch.where(empty.view(-1, *(1,) * (masks.dim() - 1)), torch.ones_like(masks), masks))
    return masks == 1


def _scaled(heatmaps: Tensor) -> Tensor:
    """Heatmaps (N, K, C, *spatial) with maxima near 1: no measure depends on the scale, but squares have a range."""
    largest = heatmaps.detach().abs().flatten(2).amax(dim=2)
    # a power of two, which rounds nothing
    scale = torch.exp2(-largest.log2().floor().clamp(-100, 100))
    return heatmaps * scale.view(*scale.shape, *(1,) * (heatmaps.dim() - 2))


def _grown(foreground: Tensor, radius: int) -> Tensor:
    """Masks with every pixel of the same frame within a distance of the foreground."""
    if radius == 0:
        return foreground
    steps = torch.arange(-radius, radius + 1, device=foreground.device)
    disc = (steps[:, None].square() + steps.square() <= radius**2).float()
    frames = foreground.float().flatten(0, -3).unsqueeze(1)
    return (F.conv2d(frames, disc[None, None], padding=radius) > 0.5).view_as(foreground)


def _named(flags: Tensor) -> str:
    """Name the images with a flag, (N,) or (N, K)."""
    return named_images(flags.view(len(flags), -1).any(dim=1).tolist())
