"""Masks from a segmenter: made once, saved as files, and shown on a contact sheet."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from pathlib import PurePath
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional
from tqdm import tqdm

from zennit_isnet.checks import check_callable
from zennit_isnet.data.decoding import TOP_8, Path, read_image, read_levels
from zennit_isnet.data.files import EXTENSIONS, by_stem, files_below
from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.model import eval_mode

SHOWN, COLUMNS = 48, 8
"""Images on a contact sheet, and per row."""

SIDE, CAPTION, LETTERS = 192, 14, 30
"""Size in pixels of an image on the contact sheet and of the text line below it, and characters per line."""


def masks_from_segmenter(
    segmenter: Callable[[Tensor], Any],
    images_root: Path,
    masks_root: Path,
    *,
    foreground: int | Collection[int] | None = None,
    preprocess: Callable[[Tensor], Tensor] | None = None,
    threshold: float = 0.0,
    device: torch.device | str = "cpu",
    contact_sheet: Path | None = None,
    progress: bool = True,
) -> list[str]:
    """Segment all images of a folder and save their masks in a parallel folder, for `MaskedImageFolder`.

    The mask of ``images_root/CLASS/NAME.jpg`` is ``masks_root/CLASS/NAME.png``, with the values 0 and 255 and the
    image's size. Existing masks are kept, so you can resume an interrupted call and correct masks by hand; delete the
    folder to start over.

    Parameters
    ----------
    segmenter : callable
        ``segmenter(images)`` for one image ``(1, C, H, W)``, such as a `torchvision.models.segmentation` model, used in
        eval mode and without gradients. It returns a tensor, or a mapping with the entry ``"out"``, of any height and
        width: floating scores ``(1, K, h, w)``, of which the highest counts; floating foreground scores ``(1, 1, h,
        w)`` or ``(1, h, w)``; or class indices or a mask in these shapes, integer or bool.
    images_root, masks_root : path
        The folder of images, at any depth, and the folder for the masks, which is created.
    foreground : int or collection of int, optional
        The classes that are foreground. If None, all but class 0, the background.
    preprocess : callable, optional
        Makes the input ``(C, H, W)`` from the image, uint8 ``(3, H, W)``; it must keep the whole image, without
        cropping. For torchvision's weights use ``weights.transforms()``. If None, the image in floating point, scaled
        to [0, 1].
    threshold : float, default=0
        Pixels with a higher score are foreground, if there is one score per pixel: 0 for logits, 0.5 for probabilities.
    device : torch.device or str, default="cpu"
        Device of the input; the segmenter must already be on it.
    contact_sheet : path, optional
        File for an overview of up to 48 evenly spaced images with their backgrounds in red: look at it before training.
        If None, the path `masks_root` followed by ``_contact_sheet.png``.
    progress : bool, default=True
        Whether to show a progress bar.

    Returns
    -------
    list of str
        The images whose mask has no foreground, to be checked; data sets refuse them unless ``empty="skip-penalty"``.

    Raises
    ------
    InvalidValueError
        If the folder has no image, two images would share a mask, an image cannot be read, or the segmenter returns
        another shape.
    InvalidTypeError
        If the segmenter, its output or `preprocess` has the wrong type.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from zennit_isnet.data import masks_from_segmenter
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for grey in (20, 200):
    ...         file = Path(folder) / "images" / "cat" / f"{grey}.png"
    ...         file.parent.mkdir(parents=True, exist_ok=True)
    ...         Image.new("L", (40, 30), grey).save(file)
    ...     brightness = lambda images: images.mean(1)
    ...     images, masks = Path(folder) / "images", Path(folder) / "masks"
    ...     without = masks_from_segmenter(brightness, images, masks, threshold=0.5, progress=False)
    ...     sorted(path.name for path in masks.rglob("*.png")), [Path(name).name for name in without]
    (['20.png', '200.png'], ['20.png'])
    """
    if not callable(segmenter):
        raise InvalidTypeError(f"segmenter must be callable; got {type(segmenter).__name__}")
    check_callable(preprocess=preprocess)
    preprocess = preprocess or v2.ToDtype(torch.float32, scale=True)
    images_root, masks_root = os.fspath(images_root), os.path.normpath(masks_root)
    if PurePath(os.path.abspath(masks_root)).is_relative_to(os.path.abspath(images_root)):
        raise InvalidValueError(f"masks_root must lie outside images_root={images_root!r}; got {masks_root!r}")
    image_of = by_stem(images_root, files_below(images_root, EXTENSIONS))
    if not image_of:
        raise InvalidValueError(f"images_root must be a folder that contains images; got {images_root!r}")
    without, cells, step = [], [], math.ceil(len(image_of) / SHOWN)
    with torch.no_grad(), eval_mode(segmenter) if isinstance(segmenter, nn.Module) else nullcontext():
        bar = tqdm(image_of.items(), desc="segmenting", unit="image", disable=not progress)
        for position, (stem, file) in enumerate(bar):
            image, path = read_image(file), os.path.join(masks_root, f"{stem}.png")
            if not os.path.isfile(path):
                output = segmenter(preprocess(image).as_subclass(Tensor).unsqueeze(0).to(device))
                _save(_segmented(output, file, image.shape[-2:], foreground, threshold), path)
            mask = read_levels(path).values != 0
            if not bool(mask.any()):
                without.append(file)
            if position % step == 0:
                cells.append(_cell(image, mask, stem))
    _sheet(cells).save(f"{masks_root}_contact_sheet.png" if contact_sheet is None else contact_sheet)
    return without


def _segmented(
    output: Any, file: str, size: torch.Size, foreground: int | Collection[int] | None, threshold: float
) -> Tensor:
    """Return the foreground ``(H, W)``, bool, from a segmenter's output for one image."""
    scores = output.get("out") if isinstance(output, Mapping) else output
    if not isinstance(scores, Tensor):
        legal = 'a tensor, or a mapping with a tensor as its entry "out"'
        raise InvalidTypeError(f"segmenter must return {legal}; got {type(scores).__name__} for {file}")
    scores = scores.unsqueeze(1) if scores.ndim == 3 else scores
    floating = scores.is_floating_point()
    if scores.ndim != 4 or len(scores) != 1 or not scores.numel() or not (floating or scores.shape[1] == 1):
        legal = "scores (1, K, h, w), or class indices (1, h, w) or (1, 1, h, w)"
        raise InvalidValueError(f"segmenter must return {legal}; got {tuple(scores.shape)} {scores.dtype} for {file}")
    if not bool(scores.isfinite().all()):
        raise InvalidValueError(f"segmenter must return finite scores; got NaN or Inf for {file}")
    # scores are interpolated before the decision, for smooth outlines; class indices cannot be
    mode = {"mode": "bilinear", "align_corners": False} if floating else {"mode": "nearest-exact"}
    scores = interpolate(scores.to("cpu", torch.float32), tuple(size), **mode)[0]
    if floating and len(scores) == 1:
        return scores[0] > threshold
    numbers = scores.argmax(0) if floating else scores[0].long()
    if foreground is None:
        return numbers != 0
    return torch.isin(numbers, torch.tensor([foreground] if isinstance(foreground, int) else [*foreground]))


def _save(mask: Tensor, path: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    # an interrupted call must not leave a partial file, which the next call would keep
    _picture(mask).save(f"{path}.part", format="PNG")
    os.replace(f"{path}.part", path)


def _cell(image: Tensor, mask: Tensor, caption: str) -> Image.Image:
    """Return one tile of the contact sheet: the image with a red background, and a line of text."""
    picture = ImageOps.contain(functional.to_pil_image(image), (SIDE, SIDE))
    red = Image.blend(picture, Image.new("RGB", picture.size, "red"), 0.4)
    cell = Image.new("RGB", (SIDE, SIDE + CAPTION), "white")
    cell.paste(Image.composite(picture, red, _picture(mask).resize(picture.size, Image.Resampling.NEAREST)))
    # the built-in font may lack other characters
    ImageDraw.Draw(cell).text((2, SIDE), caption[-LETTERS:].encode("ascii", "replace").decode(), fill="black")
    return cell


def _sheet(cells: Sequence[Image.Image]) -> Image.Image:
    rows, columns = math.ceil(len(cells) / COLUMNS), min(len(cells), COLUMNS)
    sheet = Image.new("RGB", (columns * SIDE, rows * (SIDE + CAPTION)), "white")
    for position, cell in enumerate(cells):
        row, column = divmod(position, COLUMNS)
        sheet.paste(cell, (column * SIDE, row * (SIDE + CAPTION)))
    return sheet


def _picture(mask: Tensor) -> Image.Image:
    picture: Image.Image = functional.to_pil_image(mask.to(torch.uint8) * TOP_8)
    return picture
