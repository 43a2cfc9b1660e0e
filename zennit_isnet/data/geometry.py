"""Geometric transforms of images with masks that never call foreground background, nor lose it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from zennit_isnet.errors import InvalidTypeError, InvalidValueError

Pair = tuple[tv_tensors.Image, tv_tensors.Mask]


class MaskFollows(nn.Module):
    """Transforms the mask as the image, such that no foreground is called background.

    `torchvision.transforms.v2` resizes masks by the nearest pixel, which lets thin foreground vanish. Here the mask
    is transformed with the image's own interpolation, and a pixel is background only if no foreground pixel
    contributes to its colour.

    Parameters
    ----------
    geometry : callable
        A transform of `torchvision.transforms.v2` that moves pixels and leaves colours alone.

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
        image, share = self.geometry(image, tv_tensors.Image(mask.float()))
        return image, tv_tensors.Mask(share != 0)


class KeepForeground(nn.Module):
    """Draws a random transform again as long as it leaves no foreground.

    Parameters
    ----------
    transform : callable
        ``transform(image, mask) -> (image, mask)``, random.
    fallback : callable
        Used after `attempts` draws without foreground; it must keep some, as `AroundForeground` does.
    attempts : int, default 10
        How often `transform` is drawn at most, at least once.

    Notes
    -----
    The results are distributed as those of `transform`, given that they have foreground. A mask without foreground is
    transformed once.

    Raises
    ------
    InvalidTypeError
        If `transform` or `fallback` is not callable, or `attempts` no int.
    InvalidValueError
        If `attempts` is less than 1.

    Examples
    --------
    >>> import torch
    >>> from torchvision import tv_tensors
    >>> from torchvision.transforms import v2
    >>> from zennit_isnet.data import AroundForeground, KeepForeground
    >>> image, mask = tv_tensors.Image(torch.rand(3, 64, 96)), torch.zeros(1, 64, 96, dtype=torch.bool)
    >>> mask[:, 0, 95] = True
    >>> crop = KeepForeground(v2.RandomCrop(8), fallback=AroundForeground(8))
    >>> image, mask = crop(image, tv_tensors.Mask(mask))
    >>> mask.any().item(), mask.shape
    (True, torch.Size([1, 8, 8]))
    """

    def __init__(self, transform: Callable[..., Pair], fallback: Callable[..., Pair], attempts: int = 10) -> None:
        super().__init__()
        for name, value in (("transform", transform), ("fallback", fallback)):
            if not callable(value):
                raise InvalidTypeError(f"{name} must be callable; got {value!r}")
        if not isinstance(attempts, int) or isinstance(attempts, bool):
            raise InvalidTypeError(f"attempts must be an int; got {attempts!r}")
        if attempts < 1:
            raise InvalidValueError(f"attempts must be at least 1; got {attempts}")
        self.transform, self.fallback, self.attempts = transform, fallback, attempts

    def forward(self, image: tv_tensors.Image, mask: tv_tensors.Mask) -> Pair:
        """Transform an image ``(C, H, W)`` and its mask ``(1, H, W)``."""
        has_foreground = bool(mask.any())
        for _ in range(self.attempts):
            pair = self.transform(image, mask)
            if not has_foreground or bool(pair[1].any()):
                return pair
        return self.fallback(image, mask)


class AroundForeground(nn.Module):
    """Crops a square around a foreground pixel that is drawn uniformly, as far as the image's border allows.

    Parameters
    ----------
    size : int, optional
        Height and width of the square in pixels, at most the image's shorter side, which is the default.

    Raises
    ------
    InvalidValueError
        When called with a mask without foreground, or an image smaller than `size`.

    Examples
    --------
    >>> import torch
    >>> from torchvision import tv_tensors
    >>> from zennit_isnet.data import AroundForeground
    >>> mask = torch.zeros(1, 60, 80, dtype=torch.bool)
    >>> mask[:, 50, 70] = True
    >>> image, mask = AroundForeground(16)(tv_tensors.Image(torch.zeros(3, 60, 80)), tv_tensors.Mask(mask))
    >>> image.shape, mask.any().item()
    (torch.Size([3, 16, 16]), True)
    """

    def __init__(self, size: int | None = None) -> None:
        super().__init__()
        self.size = size

    def forward(self, image: tv_tensors.Image, mask: tv_tensors.Mask) -> Pair:
        """Crop an image ``(C, H, W)`` and its mask ``(1, H, W)``, which must have foreground."""
        points = mask[0].nonzero()
        height, width = mask.shape[-2:]
        side = min(height, width) if self.size is None else self.size
        if not len(points):
            raise InvalidValueError("mask must have foreground to crop around; it has no foreground")
        if side > min(height, width):
            raise InvalidValueError(f"a square of size {side} does not fit into an image of {height}×{width} pixels")
        row, column = points[torch.randint(len(points), ())].tolist()
        top, left = (
            min(max(centre - side // 2, 0), length - side) for centre, length in ((row, height), (column, width))
        )
        image, mask = (functional.crop(part, top, left, side, side) for part in (image, mask))
        return image, mask
