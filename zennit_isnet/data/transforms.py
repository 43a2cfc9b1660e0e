"""Presets of augmentation and preparation that move images and masks together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from zennit_isnet.checks import check_number
from zennit_isnet.data.geometry import AroundForeground, KeepForeground, MaskFollows
from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.lrp.flex import box_from_normalization

Statistics = float | Sequence[float]

# torchvision's reference scripts crop 224 of 256 pixels.
RESIZED_PER_CROPPED = 256 / 224


class MaskedPreset(nn.Module):
    """Moves image and mask together, then brings the image to the floating-point range that the model expects.

    Made by `training_transform` and `evaluation_transform`.

    Attributes
    ----------
    box : tuple of torch.Tensor
        Lowest and highest value ``(low, high)`` that an image can have afterwards, for ``LRPFlex(box=…)`` (z^B).
    """

    def __init__(self, geometry: nn.Module, mean: Statistics | None, std: Statistics | None) -> None:
        super().__init__()
        if (mean is None) != (std is None):
            raise InvalidValueError(f"give mean and std, or neither; got mean={mean} and std={std}")
        self.geometry = geometry
        steps: list[nn.Module] = [v2.ToDtype(torch.float32, scale=True)]
        if mean is not None and std is not None:
            self.box = box_from_normalization(mean, std)
            steps.append(v2.Normalize(_sequence(mean), _sequence(std)))
        else:
            self.box = box_from_normalization(0.0, 1.0)
        self.preparation = v2.Compose(steps)

    def forward(self, image: tv_tensors.Image, mask: tv_tensors.Mask) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        """Transform an image ``(3, H, W)``, uint8 or floating in [0, 1], and its mask ``(1, H, W)``."""
        image, mask = self.geometry(image, mask)
        return self.preparation(image), mask


def training_transform(
    size: int = 224,
    mean: Statistics | None = None,
    std: Statistics | None = None,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip: float = 0.5,
    attempts: int = 10,
) -> MaskedPreset:
    """Random crop and flip, as in torchvision's references, such that foreground stays in the image.

    The heatmap loss is not defined for a mask without foreground, so a crop that misses it is drawn again; after
    `attempts` draws, a square of the image's shorter side around a random foreground pixel is taken. The distribution
    of crops is therefore that of `RandomResizedCrop`, given that some foreground is in the crop. Masks without
    foreground are transformed with the first draw.

    Parameters
    ----------
    size : int, default 224
        Height and width of the result in pixels.
    mean, std : float or sequence of float, optional
        Statistics for the normalisation, in units of images in [0, 1]. Default: none, images stay in [0, 1].
    scale, ratio : tuple of float, default (0.08, 1) and (3/4, 4/3)
        Share of the area and aspect of crops; torchvision's defaults.
    flip : float, default 0.5
        Probability of a horizontal flip, in [0, 1].
    attempts : int, default 10
        How many crops are drawn at most.

    Returns
    -------
    MaskedPreset
        ``preset(image, mask) -> (image, mask)``: float32 ``(3, size, size)`` and bool ``(1, size, size)``. In the
        mask, a pixel is background only if no foreground pixel contributes to its colour.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If an argument is not allowed.

    Examples
    --------
    >>> import torch
    >>> from torchvision import tv_tensors
    >>> from zennit_isnet.data import training_transform
    >>> image = tv_tensors.Image(torch.zeros(3, 60, 80, dtype=torch.uint8))
    >>> mask = torch.zeros(1, 60, 80, dtype=torch.bool)
    >>> mask[:, 3, 4] = True
    >>> preset = training_transform(32, mean=0.5, std=0.5)
    >>> image, mask = preset(image, tv_tensors.Mask(mask))
    >>> image.shape, mask.any().item(), preset.box[0].item()
    (torch.Size([3, 32, 32]), True, -1.0)
    """
    _check_size("size", size)
    check_number("flip", flip, high=1.0, include_low=True)
    for name, (low, high) in (("scale", scale), ("ratio", ratio)):
        check_number(f"{name}[0]", low)
        check_number(f"{name}[1]", high, low=low, include_low=True)
    mirror = v2.RandomHorizontalFlip(flip)
    crop = v2.Compose([v2.RandomResizedCrop(size, scale=scale, ratio=ratio, antialias=True), mirror])
    square = v2.Compose([v2.Resize((size, size), antialias=True), mirror])
    fallback = v2.Compose([AroundForeground(), MaskFollows(square)])
    return MaskedPreset(KeepForeground(MaskFollows(crop), fallback, attempts), mean, std)


def evaluation_transform(
    size: int = 224,
    mean: Statistics | None = None,
    std: Statistics | None = None,
    *,
    resize: int | None = None,
) -> MaskedPreset:
    """Resize and central crop, as in torchvision's references.

    The crop is that of any evaluation, so that accuracies can be compared. It may miss all foreground; data sets with
    ``empty="skip-penalty"`` yield ``has_mask`` False then, those with the default raise.

    Parameters
    ----------
    size : int, default 224
        Height and width of the result in pixels.
    mean, std : float or sequence of float, optional
        As for `training_transform`.
    resize : int, optional
        Length of the image's shorter side before the crop, at least `size`. Default: `size` times 256/224.

    Returns
    -------
    MaskedPreset
        As `training_transform` returns.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If an argument is not allowed.

    Examples
    --------
    >>> import torch
    >>> from torchvision import tv_tensors
    >>> from zennit_isnet.data import evaluation_transform
    >>> image = tv_tensors.Image(torch.full((3, 60, 80), 255, dtype=torch.uint8))
    >>> image, mask = evaluation_transform(32)(image, tv_tensors.Mask(torch.ones(1, 60, 80, dtype=torch.bool)))
    >>> image.shape, image.max().item(), mask.all().item()
    (torch.Size([3, 32, 32]), 1.0, True)
    """
    _check_size("size", size)
    resize = round(size * RESIZED_PER_CROPPED) if resize is None else resize
    _check_size("resize", resize, low=size)
    geometry = v2.Compose([v2.Resize(resize, antialias=True), v2.CenterCrop(size)])
    return MaskedPreset(MaskFollows(geometry), mean, std)


def _check_size(name: str, size: int, low: int = 1) -> None:
    if not isinstance(size, int) or isinstance(size, bool):
        raise InvalidTypeError(f"{name} must be an int; got {size!r}")
    if size < low:
        raise InvalidValueError(f"{name} must be at least {low}; got {size}")


def _sequence(statistics: Statistics) -> list[float]:
    return [float(value) for value in (statistics if isinstance(statistics, Sequence) else [statistics])]
