"""Transforms that move images and masks together and keep the foreground."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from zennit_isnet.checks import check_choice, check_count, check_number
from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.lrp.flex import box_from_normalization

Pair = tuple[tv_tensors.Image, tv_tensors.Mask]
Statistics = float | Sequence[float]
Fit: TypeAlias = Literal["crop", "whole"]

# torchvision's reference scripts crop 224 of 256 pixels.
RESIZED_PER_CROPPED = 256 / 224


class MaskFollows(nn.Module):
    """Transforms the mask like the image, without turning foreground into background.

    `torchvision.transforms.v2` resizes masks by nearest-neighbour interpolation, in which thin foreground can vanish.
    Here the mask is transformed with the image's own interpolation, and a pixel is background only if no foreground
    pixel contributes to its colour. What the transform fills outside the image is background.

    Parameters
    ----------
    geometry : callable
        A transform of `torchvision.transforms.v2` that moves pixels without changing colours.

    Examples
    --------
    >>> import torch
    >>> from torchvision import tv_tensors
    >>> from torchvision.transforms import v2
    >>> image, mask = tv_tensors.Image(torch.rand(3, 64, 64)), tv_tensors.Mask(torch.eye(64, dtype=torch.bool)[None])
    >>> resize = v2.Resize((8, 8))
    >>> MaskFollows(resize)(image, mask)[1][0].diagonal().tolist()
    [True, True, True, True, True, True, True, True]
    """

    def __init__(self, geometry: Callable[..., Any]) -> None:
        super().__init__()
        self.geometry = geometry

    def forward(self, image: tv_tensors.Image, mask: tv_tensors.Mask) -> Pair:
        """Transform an image ``(C, H, W)`` and its mask ``(1, H, W)``, bool."""
        share = mask.float()
        # beside an empty mask, which equals it where the geometry fills
        image, both = self.geometry(image, tv_tensors.Image(torch.cat([share, torch.zeros_like(share)])))
        return image, tv_tensors.Mask(both[:1] != both[1:])


class KeepForeground(nn.Module):
    """Redraws a random transform until it keeps some foreground.

    Parameters
    ----------
    transform : callable
        ``transform(image, mask) -> (image, mask)``, random.
    fallback : callable
        Used after `attempts` draws without foreground; it must keep some foreground, as `around_foreground` does.
    attempts : int, default=10
        Largest number of draws of `transform`, at least 1.

    Notes
    -----
    The results follow the distribution of `transform`, conditioned on containing foreground. A mask without foreground
    is transformed once.

    Raises
    ------
    InvalidTypeError
        If `transform` or `fallback` is not callable, or `attempts` is not an int.
    InvalidValueError
        If `attempts` is less than 1.

    Examples
    --------
    >>> import torch
    >>> from torchvision import tv_tensors
    >>> from torchvision.transforms import v2
    >>> from zennit_isnet.data.transforms import KeepForeground, MaskFollows, around_foreground
    >>> image, mask = tv_tensors.Image(torch.rand(3, 64, 96)), torch.zeros(1, 64, 96, dtype=torch.bool)
    >>> mask[:, 0, 95] = True
    >>> crop = KeepForeground(v2.RandomCrop(8), fallback=v2.Compose([around_foreground, MaskFollows(v2.Resize(8))]))
    >>> image, mask = crop(image, tv_tensors.Mask(mask))
    >>> mask.any().item(), mask.shape
    (True, torch.Size([1, 8, 8]))
    """

    def __init__(self, transform: Callable[..., Pair], fallback: Callable[..., Pair], attempts: int = 10) -> None:
        super().__init__()
        for name, part in {"transform": transform, "fallback": fallback}.items():
            if not callable(part):
                raise InvalidTypeError(f"{name} must be callable; got {type(part).__name__}")
        check_count("attempts", attempts)
        self.transform, self.fallback, self.attempts = transform, fallback, attempts

    def forward(self, image: tv_tensors.Image, mask: tv_tensors.Mask) -> Pair:
        """Transform an image ``(C, H, W)`` and its mask ``(1, H, W)``."""
        has_foreground = bool(mask.any())
        for _ in range(self.attempts):
            pair = self.transform(image, mask)
            if not has_foreground or bool(pair[1].any()):
                return pair
        return self.fallback(image, mask)


def around_foreground(image: tv_tensors.Image, mask: tv_tensors.Mask) -> Pair:
    """Crop the largest square around a random foreground pixel, shifted to stay inside the image.

    Parameters
    ----------
    image, mask : torchvision.tv_tensors.Image, torchvision.tv_tensors.Mask
        ``(C, H, W)`` and ``(1, H, W)``, with some foreground.

    Returns
    -------
    image, mask : torchvision.tv_tensors.Image, torchvision.tv_tensors.Mask
        Square, with the length of the image's shorter side.

    Raises
    ------
    InvalidValueError
        If the mask has no foreground.

    Examples
    --------
    >>> import torch
    >>> from torchvision import tv_tensors
    >>> from zennit_isnet.data.transforms import around_foreground
    >>> mask = torch.zeros(1, 60, 80, dtype=torch.bool)
    >>> mask[:, 50, 70] = True
    >>> image, mask = around_foreground(tv_tensors.Image(torch.zeros(3, 60, 80)), tv_tensors.Mask(mask))
    >>> image.shape, mask.any().item()
    (torch.Size([3, 60, 60]), True)
    """
    points = mask[0].nonzero()
    if not len(points):
        raise InvalidValueError("mask must have foreground to crop around; got no foreground")
    height, width = mask.shape[-2:]
    side = min(height, width)
    row, column = points[torch.randint(len(points), ())].tolist()
    top, left = (min(max(at - side // 2, 0), end - side) for at, end in ((row, height), (column, width)))
    return functional.crop(image, top, left, side, side), functional.crop(mask, top, left, side, side)


class MaskedPreset(nn.Module):
    """Transforms image and mask together, then converts the image to the model's floating-point range.

    Made by `training_transform` and `evaluation_transform`.

    Attributes
    ----------
    box : tuple of torch.Tensor
        Lowest and highest value ``(low, high)`` of a transformed image, for ``LRPFlex(box=…)`` (z^B).
    """

    def __init__(self, geometry: nn.Module, mean: Statistics | None, std: Statistics | None) -> None:
        super().__init__()
        if (mean is None) != (std is None):
            raise InvalidValueError(f"pass both mean and std, or neither; got mean={mean} and std={std}")
        mean, std = (0.0, 1.0) if mean is None or std is None else (mean, std)
        self.geometry = geometry
        self.box = box_from_normalization(mean, std)
        normalize = v2.Normalize(np.atleast_1d(mean).tolist(), np.atleast_1d(std).tolist())
        self.preparation = v2.Compose([v2.ToDtype(torch.float32, scale=True), normalize])

    def forward(self, image: tv_tensors.Image, mask: tv_tensors.Mask) -> Pair:
        """Transform an image ``(3, H, W)``, uint8 or floating in [0, 1], and its mask ``(1, H, W)``."""
        image, mask = self.geometry(image, mask)
        return self.preparation(image), mask


def training_transform(
    size: int = 224,
    mean: Statistics | None = None,
    std: Statistics | None = None,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    flip: float = 0.5,
) -> MaskedPreset:
    """Random crop and flip, as in torchvision's references, that keep foreground in the image.

    The heatmap loss is undefined for a mask without foreground, so a crop that misses it is drawn again. After ten
    draws, the fallback is a square of the image's shorter side around a random foreground pixel. Crops therefore follow
    the distribution of `RandomResizedCrop`, conditioned on containing foreground. Masks without foreground are
    transformed with the first draw.

    Parameters
    ----------
    size : int, default=224
        Height and width of the result in pixels.
    mean, std : float or sequence of float, optional
        Statistics for the normalisation of images in [0, 1]. If None, images stay in [0, 1].
    scale : tuple of float, default=(0.08, 1)
        Smallest and largest area of a crop, as a fraction of the image; this and the aspect ratio are torchvision's
        defaults.
    flip : float, default=0.5
        Probability of a horizontal flip, in [0, 1].

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
    check_count("size", size)
    check_number("flip", flip, high=1.0, include_low=True)
    check_number("scale[0]", scale[0])
    check_number("scale[1]", scale[1], low=scale[0], include_low=True)
    mirror = v2.RandomHorizontalFlip(flip)
    crop = v2.Compose([v2.RandomResizedCrop(size, scale=scale, antialias=True), mirror])
    square = v2.Compose([v2.Resize((size, size), antialias=True), mirror])
    fallback = v2.Compose([around_foreground, MaskFollows(square)])
    return MaskedPreset(KeepForeground(MaskFollows(crop), fallback), mean, std)


def evaluation_transform(
    size: int = 224, mean: Statistics | None = None, std: Statistics | None = None, *, fit: Fit = "crop"
) -> MaskedPreset:
    """Resize and central crop, as in torchvision's references: 256 pixels of the shorter side for a crop of 224.

    The crop is the usual one for evaluation, so that accuracies are comparable. It may miss all foreground; data sets
    with ``empty="skip-penalty"`` then yield ``has_mask`` False, and the default raises.

    Parameters
    ----------
    size : int, default=224
        Height and width of the result in pixels.
    mean, std : float or sequence of float, optional
        As for `training_transform`.
    fit : {"crop", "whole"}, default="crop"
        ``"whole"`` squeezes the whole image into the square instead. The crop cuts off the corners, where medical
        images have markers and tags. A classifier that relies on them is then tested without them.

    Returns
    -------
    MaskedPreset
        As for `training_transform`.

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
    check_count("size", size)
    check_choice("fit", fit, Fit)
    geometry: nn.Module = v2.Resize((size, size), antialias=True)
    if fit == "crop":
        geometry = v2.Compose([v2.Resize(round(size * RESIZED_PER_CROPPED), antialias=True), v2.CenterCrop(size)])
    return MaskedPreset(MaskFollows(geometry), mean, std)
