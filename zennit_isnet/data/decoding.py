"""Image and mask files, decoded to what they show."""

from __future__ import annotations

from os import PathLike
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from zennit_isnet.errors import InvalidValueError

Path: TypeAlias = str | PathLike[str]

TOP_8, TOP_16 = 255, 65535
WHITE = (255, 255, 255, 255)


class Levels(NamedTuple):
    """The values of a mask before they are called foreground or background.

    Attributes
    ----------
    values : torch.Tensor
        Shape ``(H, W)``, dtype uint8, int64 or float64.
    top : float or None
        The brightest value that the file's format can hold: 255, 65535, or 1 for floating-point files. None where it
        is unknown: for indices of a palette, colours as ``65536·red + 256·green + blue``, wide integers.
    """

    values: Tensor
    top: float | None


def read_image(path: Path) -> tv_tensors.Image:
    """Read an image file as RGB, upright.

    Parameters
    ----------
    path : path
        Any format that Pillow reads; of several frames the first.

    Returns
    -------
    torchvision.tv_tensors.Image
        Shape ``(3, H, W)``, dtype uint8. The EXIF orientation is applied, grey becomes three equal channels, 16 bits
        are scaled to 8, and transparent images are composited over white, because the colours that lie below
        transparent pixels are arbitrary.

    Raises
    ------
    InvalidValueError
        If the file cannot be read, or holds floating-point or 32-bit values, which have no agreed range; the message
        names the file.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("L", (8, 6), 128).save(Path(folder) / "grey.png")
    ...     read_image(Path(folder) / "grey.png").shape
    torch.Size([3, 6, 8])
    """
    return picture_as_image(_decoded(path, "image"), f"image {path}")


def read_levels(path: Path) -> Levels:
    """Read a mask file, upright, without a decision on what is foreground.

    Parameters
    ----------
    path : path
        Any format that Pillow reads.

    Returns
    -------
    Levels
        Grey levels, whether the file is grey, black and white, or colour with equal channels. A palette with colours
        gives its indices if index 0 is black, as in PASCAL VOC; other colours give one number a colour. Pixels that
        are more transparent than opaque count as 0.

    Raises
    ------
    InvalidValueError
        If the file cannot be read; the message names it.
    """
    return picture_as_levels(_decoded(path, "mask"))


def picture_as_image(picture: Image.Image, name: str) -> tv_tensors.Image:
    """Convert an upright Pillow image of any mode to uint8 RGB; `name` is for the message of an error."""
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > TOP_16:
            raise InvalidValueError(
                f"{name} has 32-bit values from {values.min()} to {values.max()}, which have no agreed range; "
                f"save it with 8 or 16 bits"
            )
        grey = torch.from_numpy((values * TOP_8 + TOP_16 // 2) // TOP_16).to(torch.uint8)
        return tv_tensors.Image(grey.expand(3, -1, -1).contiguous())
    if picture.mode == "F":
        raise InvalidValueError(
            f"{name} has floating-point values, which have no agreed range; save it with 8 or 16 bits"
        )
    if picture.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in picture.info:
        opaque = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", opaque.size, WHITE), opaque)
    return tv_tensors.Image(functional.pil_to_tensor(picture.convert("RGB")))


def picture_as_levels(picture: Image.Image) -> Levels:
    """Read the values of an upright Pillow image of any mode as a mask's."""
    if picture.mode == "P":
        indices = np.asarray(picture)
        used = np.unique(indices)
        colours = np.asarray(picture.getpalette("RGB")).reshape(-1, 3)[used]
        coloured = bool((colours != colours[:, :1]).any())
        if coloured and (used[0] != 0 or not colours[0].any()):
            return Levels(_tensor(indices), None)
        picture = picture.convert("RGB")
    if picture.mode == "F":
        return Levels(torch.from_numpy(np.asarray(picture, dtype=np.float64)), 1.0)
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        return Levels(_tensor(picture), TOP_16)
    if picture.mode in ("1", "L"):
        return Levels(_tensor(picture.convert("L")), TOP_8)
    pixels = _tensor(picture.convert("RGBA")).long()
    red, green, blue = pixels[..., :3].masked_fill(pixels[..., 3:] <= TOP_8 // 2, 0).unbind(-1)
    if bool(((red == green) & (green == blue)).all()):
        return Levels(red.to(torch.uint8), TOP_8)
    return Levels((red << 16) + (green << 8) + blue, None)


def _decoded(path: Path, kind: str) -> Image.Image:
    try:
        with Image.open(path) as picture:
            return ImageOps.exif_transpose(picture)
    except Exception as error:  # Pillow's decoders raise many kinds of errors on files that are damaged
        raise InvalidValueError(f"{kind} {path} cannot be read: {error}") from error


def _tensor(pixels: Any) -> Tensor:
    # bytes stay bytes, which are read by the million; the wider types of files are not all known to PyTorch
    array = np.asarray(pixels)
    return torch.from_numpy(array.copy() if array.dtype == np.uint8 else array.astype(np.int64))
