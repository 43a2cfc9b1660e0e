"""Masks that a segmenter makes, their files, and the contact sheet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from masked_files import saved
from PIL import Image
from torch import Tensor

from zennit_isnet.data import MaskedImageFolder, masks_from_segmenter
from zennit_isnet.errors import InvalidTypeError, InvalidValueError

HEIGHT, WIDTH = 12, 16
INSIDE = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
INSIDE[2:8, 4:10] = True


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A bright rectangle, in two images, and a black image."""
    bright = Image.fromarray(INSIDE.numpy().astype(np.uint8) * 200)
    saved(bright, tmp_path / "images" / "cat" / "1.png")
    saved(bright.convert("RGB"), tmp_path / "images" / "dog" / "old" / "2.bmp")
    saved(Image.new("L", (WIDTH, HEIGHT)), tmp_path / "images" / "dog" / "3.png")
    return tmp_path / "images"


def segment(images: Path, segmenter: Any, **options: Any) -> list[str]:
    return masks_from_segmenter(segmenter, images, images.parent / "masks", progress=False, **options)


def mask(images: Path, name: str = "cat/1.png") -> list[list[int]]:
    with Image.open(images.parent / "masks" / name) as picture:
        return np.asarray(picture).tolist()


def brightness(images: Tensor) -> Tensor:
    return images.mean(1, keepdim=True)


def one_of_three(images: Tensor) -> Tensor:
    """Scores of background, left and right half of what is bright."""
    left = (torch.arange(WIDTH) < 7).float()
    bright = brightness(images)
    return torch.cat([torch.full_like(bright, 0.2), bright * left, bright * (1 - left)], 1)


EXPECTED = (INSIDE * 255).tolist()


@pytest.mark.parametrize(
    "segmenter",
    [
        one_of_three,
        lambda images: {"out": one_of_three(images), "aux": None},
        lambda images: one_of_three(images).argmax(1),
        lambda images: one_of_three(images).argmax(1, keepdim=True).to(torch.uint8),
        lambda images: brightness(images) > 0.5,
        lambda images: brightness(images) - 0.5,
        lambda images: brightness(images)[:, 0] - 0.5,
    ],
    ids=["scores", "out", "numbers", "bytes", "mask", "logit", "logit without channel"],
)
def test_masks_have_the_names_and_sizes_of_their_images(images: Path, segmenter: Any) -> None:
    without = segment(images, segmenter)
    assert mask(images) == mask(images, "dog/old/2.png") == EXPECTED
    assert without == [str(images / "dog" / "3.png")]
    assert not np.any(mask(images, "dog/3.png"))
    data = MaskedImageFolder(images, images.parent / "masks", empty="skip-penalty")
    assert ([item[3] for item in data], data.unused_masks) == ([True, False, True], [])


@pytest.mark.parametrize("foreground", [1, {1}, [1, 1]])
def test_classes_of_the_foreground_can_be_given(images: Path, foreground: Any) -> None:
    segment(images, one_of_three, foreground=foreground)
    assert mask(images) == (INSIDE * (torch.arange(WIDTH) < 7) * 255).tolist()


def test_probabilities_need_a_threshold(images: Path) -> None:
    segment(images, brightness, threshold=0.5)
    assert mask(images) == EXPECTED


def test_smaller_outputs_are_brought_to_the_size_of_the_image(images: Path) -> None:
    segment(images, lambda images: one_of_three(images)[..., ::2, ::2])
    found = torch.tensor(mask(images)) > 0
    assert found[3:7, 5:9].all()
    assert not (found & ~INSIDE)[[0, -1]].any()


def test_preprocess_makes_the_input(images: Path) -> None:
    seen = []
    segment(images, lambda images: seen.append(images) or brightness(images), preprocess=lambda image: image / 51 - 1)
    assert (seen[0].shape, seen[0].min().item(), seen[0].max().item()) == (
        (1, 3, HEIGHT, WIDTH),
        -1,
        pytest.approx(149 / 51),
    )


def test_model_of_torchvision_is_used_in_eval_mode_and_left_as_it_was(images: Path) -> None:
    model = torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights_backbone=None, num_classes=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    segment(images, model)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    first = mask(images)
    (images.parent / "masks" / "cat" / "1.png").unlink()
    segment(images, model.eval())
    assert mask(images) == first


def test_masks_that_exist_are_kept(images: Path) -> None:
    corrected = saved(Image.new("L", (WIDTH, HEIGHT), 255), images.parent / "masks" / "cat" / "1.png").read_bytes()
    calls = []
    segment(images, lambda images: calls.append(images) or brightness(images))
    assert (images.parent / "masks" / "cat" / "1.png").read_bytes() == corrected
    assert len(calls) == 2


def test_contact_sheet_shows_the_background_in_red(images: Path, tmp_path: Path) -> None:
    segment(images, lambda images: brightness(images) - 0.5)
    with Image.open(tmp_path / "masks_contact_sheet.png") as sheet:
        first = np.asarray(sheet)[:144, :192].astype(int)  # 16×12 pixels, twelve times as large
    inside, outside = first[40:80, 60:110], first[110:140, 130:190]
    assert np.abs(inside - 200).max() < 20  # it is enlarged
    assert np.abs(outside - [102, 0, 0]).max() < 20
    segment(images, brightness, contact_sheet=tmp_path / "look.png")
    assert (tmp_path / "look.png").is_file()


def test_contact_sheet_of_many_images_shows_some(tmp_path: Path) -> None:
    for number in range(100):
        saved(Image.new("L", (4, 4), 255), tmp_path / "images" / f"{number}-{'ä' * 40}.png")
    segment(tmp_path / "images", brightness)
    with Image.open(tmp_path / "masks_contact_sheet.png") as sheet:
        assert sheet.size == (8 * 192, 5 * (192 + 14))  # every third image


@pytest.mark.parametrize(
    ("output", "error", "message"),
    [
        (None, InvalidTypeError, "NoneType"),
        ({"logits": torch.zeros(1, 2, 4, 4)}, InvalidTypeError, 'entry "out"'),
        (torch.zeros(2, 3, 4, 4), InvalidValueError, r"\(2, 3, 4, 4\)"),
        (torch.zeros(1, 3, 4, 4).long(), InvalidValueError, r"\(1, 3, 4, 4\) torch.int64"),
        (torch.zeros(4, 4), InvalidValueError, r"\(4, 4\)"),
        (torch.full((1, 1, 4, 4), torch.nan), InvalidValueError, "finite scores"),
    ],
)
def test_other_outputs_are_refused_with_the_image(
    images: Path, output: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=rf"(?s)segmenter .*{message}.*1\.png"):
        segment(images, lambda _: output)
    assert not list(images.parent.rglob("masks/**/*.*"))


def test_images_that_would_share_a_mask_are_refused(images: Path) -> None:
    saved(Image.new("L", (4, 4)), images / "cat" / "1.bmp")
    with pytest.raises(InvalidValueError, match=r"1\.bmp and .*1\.png"):
        segment(images, brightness)


def test_illegal_arguments_are_named(images: Path) -> None:
    for segmenter in ("model", None):
        with pytest.raises(InvalidTypeError, match="segmenter must be callable"):
            segment(images, segmenter)
    with pytest.raises(InvalidTypeError, match="preprocess must be callable"):
        segment(images, brightness, preprocess=1)
    with pytest.raises(InvalidValueError, match=r"images_root must be a folder that contains images; got .*absent"):
        segment(images / "absent", brightness)
    with pytest.raises(InvalidValueError, match="masks_root must lie outside images_root="):
        masks_from_segmenter(brightness, images, images / "masks")
