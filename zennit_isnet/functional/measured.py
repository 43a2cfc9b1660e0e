"""Heatmaps and masks as the measures of localization take them, and what they do where a measure is undefined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from zennit_isnet.checks import check_choice, check_count
from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.functional.channels import ChannelPooling, pool_channels
from zennit_isnet.functional.masks import named_images, validate_foreground

Undefined = Literal["error", "skip"]
"""Whether an undefined value is an error, or NaN, which the metrics skip and count."""


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
    foreground = _as_masks(foreground, heatmaps)
    values = pool_channels(_scaled(heatmaps).flatten(3, -2), pooling)
    return MeasuredMaps(values.flatten(2), _grown(foreground, tolerance).flatten(2), several)


def _as_several(heatmaps: Tensor) -> tuple[Tensor, bool]:
    """Heatmaps as (N, K, C, *spatial) in float32 or float64, and whether they came like this."""
    if not isinstance(heatmaps, Tensor) or not heatmaps.is_floating_point():
        kind = heatmaps.dtype if isinstance(heatmaps, Tensor) else type(heatmaps).__name__
        raise InvalidTypeError(f"heatmaps must be a floating tensor; got {kind}")
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
    return heatmaps if heatmaps.dtype == torch.float64 else heatmaps.to(torch.float32), several


def _as_masks(foreground: Tensor, heatmaps: Tensor) -> Tensor:
    """Boolean masks (N, 1, *spatial) of the heatmaps' size."""
    if not isinstance(foreground, Tensor):
        raise InvalidTypeError(f"foreground must be a tensor; got {type(foreground).__name__}")
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
