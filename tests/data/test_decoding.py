"""Image and mask files of every kind, decoded to what they show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from masked_files import ORIENTATION, saved
from PIL import Image, ImageOps

from zennit_isnet.data.decoding import read_image, read_levels
from zennit_isnet.errors import InvalidValueError

HEIGHT, WIDTH = 6, 8
# EXIF's orientations, each with what undoes it.
UPRIGHT = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}


@pytest.fixture
def colours() -> np.ndarray:
    return np.random.randint(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def as_rows(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()


def test_colours_stay_as_they_are(tmp_path: Path, colours: np.ndarray) -> None:
    image = read_image(saved(Image.fromarray(colours), tmp_path / "1.png"))
    assert (image.shape, image.dtype) == ((3, HEIGHT, WIDTH), torch.uint8)
    assert (as_rows(image) == colours).all()


@pytest.mark.parametrize(
    ("mode", "extension", "tolerance"),
    [("L", "png", 0), ("1", "png", 0), ("P", "png", 0), ("P", "gif", 0), ("CMYK", "tif", 0), ("LAB", "tif", 1)],
)
def test_other_modes_become_the_colours_that_they_show(
    tmp_path: Path, mode: str, extension: str, tolerance: int
) -> None:
    shown = np.full((HEIGHT, WIDTH, 3), 255, dtype=np.uint8) * (np.arange(WIDTH) % 2)[None, :, None].astype(np.uint8)
    image = read_image(saved(Image.fromarray(shown).convert(mode), tmp_path / f"1.{extension}"))
    assert np.abs(as_rows(image).astype(int) - shown).max() <= tolerance


def test_palette_with_colours_becomes_these_colours(tmp_path: Path) -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.putpixel((1, 0), 1)
    assert as_rows(read_image(saved(picture, tmp_path / "1.png"))).tolist() == [[[10, 20, 30], [200, 100, 50]]]


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path, extension: str) -> None:
    values = np.array([[0, 128, 129, 257, 32896, 65535]], dtype=np.uint16)
    image = read_image(saved(Image.fromarray(values), tmp_path / f"1.{extension}"))
    assert image.tolist() == [[[0, 0, 1, 1, 128, 255]]] * 3


@pytest.mark.parametrize("values", [np.full((2, 2), 0.5, dtype=np.float32), np.full((2, 2), 70000, dtype=np.int32)])
def test_images_without_an_agreed_range_are_refused(tmp_path: Path, values: np.ndarray) -> None:
    path = saved(Image.fromarray(values), tmp_path / "1.tif")
    with pytest.raises(InvalidValueError, match=r"1\.tif .*without a standard range"):
        read_image(path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(11, 10), (100, 100)], ids=["Pillow warns", "Pillow refuses"])
@pytest.mark.parametrize("read", [read_image, read_levels])
def test_decompression_bombs_are_refused(tmp_path: Path, read, size, monkeypatch) -> None:
    Image.new("L", size).save(tmp_path / "bomb.png")
    Image.new("L", (10, 10)).save(tmp_path / "small.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    read(tmp_path / "small.png")
    with pytest.raises(InvalidValueError, match=r"bomb\.png cannot be read.*decompression bomb"):
        read(tmp_path / "bomb.png")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_images_lie_over_white(tmp_path: Path, mode: str) -> None:
    picture = Image.new("LA", (2, 1), (0, 255)).convert("RGBA")
    picture.putpixel((1, 0), (0, 0, 0, 0))
    picture = picture.quantize(2) if mode == "P" else picture.convert(mode)
    assert read_image(saved(picture, tmp_path / "1.png")).tolist() == [[[0, 255]]] * 3


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied_to_images_and_masks(tmp_path: Path, colours: np.ndarray, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image = read_image(saved(Image.fromarray(colours), tmp_path / "1.png", exif=exif))
    levels = read_levels(saved(Image.fromarray(colours[..., 0]), tmp_path / "2.png", exif=exif))
    assert (as_rows(image) == UPRIGHT[orientation](colours)).all()
    assert (levels.values.numpy() == UPRIGHT[orientation](colours[..., 0])).all()


def test_damaged_files_are_named(tmp_path: Path, colours: np.ndarray) -> None:
    whole = saved(Image.fromarray(colours), tmp_path / "whole.png").read_bytes()
    files = {"cut.png": whole[: len(whole) // 2], "text.png": b"no image", "empty.jpg": b""}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    for name in (*files, "absent.png"):
        for read in (read_image, read_levels):
            with pytest.raises(InvalidValueError, match=f"{name} cannot be read"):
                read(tmp_path / name)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK"])
def test_black_and_white_masks_have_the_same_levels_in_all_modes(tmp_path: Path, mode: str) -> None:
    picture = Image.new("L", (3, 1))
    picture.putpixel((1, 0), 255)
    levels = read_levels(saved(picture.convert(mode), tmp_path / f"1.{'tif' if mode == 'CMYK' else 'png'}"))
    assert (levels.values.tolist(), levels.top) == ([[0, 255, 0]], 255)


def test_sixteen_bit_masks_keep_their_levels(tmp_path: Path) -> None:
    levels = read_levels(saved(Image.fromarray(np.array([[0, 7, 65535]], dtype=np.uint16)), tmp_path / "1.png"))
    assert (levels.values.tolist(), levels.top) == ([[0, 7, 65535]], 65535)


def test_palette_that_begins_with_black_gives_its_indices(tmp_path: Path) -> None:
    picture = Image.new("P", (3, 1))
    picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    for column in range(3):
        picture.putpixel((column, 0), column)
    levels = read_levels(saved(picture, tmp_path / "1.png"))
    assert (levels.values.tolist(), levels.top) == ([[0, 1, 2]], None)


def test_grey_palette_gives_what_it_shows_not_its_indices(tmp_path: Path) -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 255, 255, 0, 0, 0])
    picture.putpixel((1, 0), 1)
    assert read_levels(saved(picture, tmp_path / "1.png")).values.tolist() == [[255, 0]]


def test_each_colour_of_a_mask_is_a_value_of_its_own(tmp_path: Path) -> None:
    pixels = np.array([[[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], dtype=np.uint8)
    levels = read_levels(saved(Image.fromarray(pixels), tmp_path / "1.png"))
    assert (levels.values.tolist(), levels.top) == ([[0, 0xFF0000, 0x00FF00, 0x0000FF]], None)


def test_transparent_pixels_of_a_mask_are_background(tmp_path: Path) -> None:
    pixels = np.array([[[255, 255, 255, 255], [255, 255, 255, 0], [255, 255, 255, 127]]], dtype=np.uint8)
    assert read_levels(saved(Image.fromarray(pixels), tmp_path / "1.png")).values.tolist() == [[255, 0, 0]]


def test_transparent_colours_of_a_mask_are_background(tmp_path: Path) -> None:
    """PNGs without an alpha channel name one colour or level, or some palette indices, as transparent."""
    white = np.full((1, 2, 4), 255, dtype=np.uint8)
    white[0, 1, 3] = 0
    few_colours = saved(Image.fromarray(white).quantize(4), tmp_path / "p.png")
    assert read_levels(few_colours).values.tolist() == [[255, 0]]
    for levels in (np.array([[0, 255]], dtype=np.uint8), np.array([[0, 65535]], dtype=np.uint16)):
        grey = saved(Image.fromarray(levels), tmp_path / "l.png", transparency=int(levels.max()))
        assert read_levels(grey).values.tolist() == [[0, 0]]
    indices = Image.new("P", (3, 1))
    indices.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    for column in range(3):
        indices.putpixel((column, 0), column)
    assert read_levels(saved(indices, tmp_path / "i.png", transparency=2)).values.tolist() == [[0, 1, 0]]


def test_colours_that_were_transparent_before_a_change_are_not(tmp_path: Path) -> None:
    """Pillow keeps the entry when it inverts an image."""
    grey = saved(Image.fromarray(np.array([[0, 255]], dtype=np.uint8)), tmp_path / "l.png", transparency=255)
    with Image.open(grey) as picture:
        assert read_levels(ImageOps.invert(picture)).values.tolist() == [[255, 0]]
