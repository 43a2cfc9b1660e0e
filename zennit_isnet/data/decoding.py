"""Decoding of image and mask files, and which values of a mask are foreground."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from os import PathLike
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from zennit_isnet.data.dicom import is_dicom, read_dicom
from zennit_isnet.data.limits import check_pixels
from zennit_isnet.errors import InvalidValueError

Path: TypeAlias = str | PathLike[str]
Binarization: TypeAlias = Literal["strict", "half", "nonzero"]
Binarize: TypeAlias = Binarization | Collection[int]

TOP_8, TOP_16 = 255, 65535

NAMED = 8
"""Most names or values that a message lists."""

EXAMPLES = 3
"""Most that a message lists of long entries, or entries with one cause."""


class Levels(NamedTuple):
    """The values of a mask before they are classified as foreground or background.

    Attributes
    ----------
    values : torch.Tensor
        Shape ``(H, W)``, dtype uint8, int64 or float64; or bool if the foreground is already known.
    top : float or None
        The brightest value that the file's format can hold: 255, 65535, or 1 for floating-point files. None if it is
        unknown: for palette indices, colours as ``65536·red + 256·green + blue``, wide integers.
    """

    values: Tensor
    top: float | None


def read_image(source: Path | Image.Image, name: str = "") -> tv_tensors.Image:
    """Read an image as RGB, upright.

    Parameters
    ----------
    source : path or Pillow image
        A file in any format that Pillow reads (the first of several frames); a DICOM file (``.dcm``, ``.dicom``), see
        `read_dicom`; or an image of any mode.
    name : str, optional
        Name for messages. If None, the path.

    Returns
    -------
    torchvision.tv_tensors.Image
        Shape ``(3, H, W)``, dtype uint8. The EXIF orientation is applied, grey becomes three equal channels, 16 bits
        are scaled to 8, and transparent images are composited over white, because the colours of transparent pixels are
        arbitrary.

    Raises
    ------
    InvalidValueError
        If the file cannot be read, or holds floating-point or 32-bit values, which have no standard range; the message
        names it.

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
    name = f"image {name or source}"
    if isinstance(source, Image.Image) or not is_dicom(source):
        picture = _upright(source, name)
    else:
        picture = read_dicom(source, name)
    if picture.mode[0] in "IF":  # more than 8 bits
        values = np.asarray(picture)
        if picture.mode == "F" or values.min() < 0 or values.max() > TOP_16:
            raise InvalidValueError(
                f"{name} has float or 32-bit values without a standard range; save it with 8 or 16 bits"
            )
        grey = torch.from_numpy((values.astype(np.int64) * TOP_8 + TOP_16 // 2) // TOP_16).to(torch.uint8)
        return tv_tensors.Image(grey.expand(3, -1, -1).contiguous())
    if picture.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in picture.info:
        opaque = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque)
    return tv_tensors.Image(functional.pil_to_tensor(picture.convert("RGB")))


def read_levels(source: Path | Image.Image) -> Levels:
    """Read a mask, upright, without deciding what is foreground.

    Parameters
    ----------
    source : path or Pillow image
        A file in any format that Pillow reads, or an image of any mode.

    Returns
    -------
    Levels
        Grey levels, whether the file is grey, black and white, or colour with equal channels. A palette with colours
        gives its indices if index 0 is black, as in PASCAL VOC; other colours give one number per colour. Pixels that
        are more transparent than opaque count as 0.

    Raises
    ------
    InvalidValueError
        If the file cannot be read; the message names it.
    """
    picture = _upright(source, f"mask {source}")
    # one colour, or a share for each palette index; Pillow keeps it when it changes the colours of an image
    transparent = "transparency" in picture.info and (picture.mode == "P" or not isinstance(source, Image.Image))
    if picture.mode == "P":
        used = np.unique(np.asarray(picture))
        colours = np.asarray(picture.getpalette("RGB")).reshape(-1, 3)[used]
        coloured = bool((colours != colours[:, :1]).any())
        if coloured and (used[0] != 0 or not colours[0].any()):
            indices = functional.pil_to_tensor(picture)[0]
            if transparent:
                opacity = functional.pil_to_tensor(picture.convert("RGBA").getchannel("A"))[0]
                indices = indices.masked_fill(opacity <= TOP_8 // 2, 0)
            return Levels(indices, None)
        picture = picture.convert("RGBA" if transparent else "RGB")
    if picture.mode == "F":
        return Levels(torch.from_numpy(np.asarray(picture, dtype=np.float64)), 1.0)
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        # PyTorch does not support all wide integer types
        values = torch.from_numpy(np.asarray(picture).astype(np.int64))
        return Levels(values.masked_fill(values == picture.info["transparency"], 0) if transparent else values, TOP_16)
    if picture.mode in ("1", "L") and not transparent:
        return Levels(functional.pil_to_tensor(picture.convert("L"))[0], TOP_8)
    pixels = functional.pil_to_tensor(picture.convert("RGBA")).long()
    red, green, blue = pixels[:3].masked_fill(pixels[3:] <= TOP_8 // 2, 0)
    if bool(((red == green) & (green == blue)).all()):
        return Levels(red.to(torch.uint8), TOP_8)
    return Levels((red << 16) + (green << 8) + blue, None)


def _upright(source: Path | Image.Image, name: str) -> Image.Image:
    if isinstance(source, Image.Image):
        return ImageOps.exif_transpose(source)
    # Pillow: torchvision's decoder cannot read BMP, TIFF or PPM, ignores transparency and does not scale 16 bits
    try:
        with Image.open(source) as picture:
            check_pixels(picture.width, picture.height)
            return ImageOps.exif_transpose(picture)
    except Exception as error:  # Pillow's decoders raise many kinds of errors for damaged files
        raise InvalidValueError(f"{name} cannot be read: {error}") from error


def binarized(levels: Levels, binarize: Binarize, name: str) -> Tensor:
    """Decide which pixels of a mask are foreground.

    Parameters
    ----------
    levels : Levels
        What `read_levels` returns.
    binarize : {"strict", "half", "nonzero"} or collection of int
        ``"strict"`` accepts only masks with 0 and one other value; an all-foreground mask must have the value 1 or the
        brightest one. ``"half"``: values above half of the brightest value. ``"nonzero"``: all values but 0. A
        collection: the foreground values.
    name : str
        The mask's name, for messages.

    Returns
    -------
    torch.Tensor
        True on the foreground, shape ``(1, H, W)``, dtype bool.

    Raises
    ------
    InvalidValueError
        If the mask has values that the policy does not allow; the message names the mask and the values.

    Examples
    --------
    >>> trimap = Levels(torch.tensor([[1, 3, 2, 2]]), top=255)
    >>> binarized(trimap, {1, 3}, "trimap").int()
    tensor([[[1, 1, 0, 0]]], dtype=torch.int32)
    >>> binarized(trimap, "strict", "trimap")
    Traceback (most recent call last):
        ...
    zennit_isnet.errors.InvalidValueError: trimap has the values 1, 2, 3; ...
    """
    values, top = levels
    if values.dtype == torch.bool:
        return values.unsqueeze(0)
    if values.is_floating_point() and not bool(values.isfinite().all()):
        raise InvalidValueError(f"{name} must have finite values; got NaN or Inf")
    if binarize == "nonzero":
        foreground = values != 0
    elif binarize == "half":
        highest = values.max().item()
        # colours, indices and wide integers have no known range
        if top is None or highest > top:
            problem = f"{name} has values up to {highest:g}, but its format's highest value is {top or 'unknown'}"
            raise InvalidValueError(f'{problem}; use binarize="nonzero" or pass the foreground values')
        foreground = values > top / 2
    elif binarize == "strict":
        # not by `unique`, which sorts all pixels of every mask
        foreground, other = values != 0, values.max().item()
        single = bool((values == other).logical_or_(~foreground).all())
        if not single or (other not in (0, 1, top) and bool(foreground.all())):
            found = listed([f"{value:g}" for value in values.unique().tolist()])
            problem = (
                f"{name} has the values {found}; it must have 0 on the background and one other value on the foreground"
            )
            raise InvalidValueError(f'{problem}; for others use binarize="half", "nonzero" or the foreground values')
    else:
        # wide, because PyTorch wraps numbers to bytes before comparing them with bytes
        foreground = torch.isin(values.double(), torch.tensor([*binarize], dtype=torch.float64))
    return foreground.unsqueeze(0)


def listed(names: Sequence[object], most: int = NAMED) -> str:
    """Return the first few names or values, for a message."""
    more = f", ... ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
