"""Joint transforms: foreground is neither lost nor called background."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms import v2

from zennit_isnet.data import evaluation_transform, training_transform
from zennit_isnet.data.transforms import KeepForeground, MaskFollows, around_foreground
from zennit_isnet.errors import InvalidTypeError, InvalidValueError

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
PRESETS = (training_transform, evaluation_transform)


def pair(height: int, width: int, *points: tuple[int, int]) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    """An image that is white on the foreground and black elsewhere, and its mask."""
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    for row, column in points:
        mask[0, row, column] = True
    return tv_tensors.Image(mask.expand(3, -1, -1).to(torch.uint8) * 255), tv_tensors.Mask(mask)


@pytest.mark.parametrize("preset", PRESETS)
def test_results_are_float_images_and_boolean_masks(preset: Any) -> None:
    image, mask = preset(32)(*pair(50, 70, (25, 35)))
    assert (type(image), image.shape, image.dtype) == (tv_tensors.Image, (3, 32, 32), torch.float32)
    assert (type(mask), mask.shape, mask.dtype) == (tv_tensors.Mask, (1, 32, 32), torch.bool)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("statistics", [{}, {"mean": 0.5, "std": 0.25}, IMAGENET])
def test_images_fill_the_box_and_do_not_leave_it(preset: Any, statistics: dict[str, Any]) -> None:
    transform = preset(32, **statistics)
    low, high = transform.box
    for value, bound in ((0, low), (255, high)):
        image = tv_tensors.Image(torch.full((3, 40, 40), value, dtype=torch.uint8))
        image, _ = transform(image, tv_tensors.Mask(torch.ones(1, 40, 40, dtype=torch.bool)))
        assert torch.allclose(image, bound.float().expand_as(image), atol=1e-6)


def test_floating_point_images_are_taken_too() -> None:
    image, mask = pair(40, 40, (20, 20))
    result, _ = evaluation_transform(32)(tv_tensors.Image(image.float() / 255), mask)
    expected, _ = evaluation_transform(32)(image, mask)
    assert torch.allclose(result, expected, atol=2 / 255)


@settings(deadline=None, max_examples=25)
@given(st.integers(8, 90), st.integers(8, 90), st.integers(0, 10**6), st.sampled_from([8, 16, 64]))
def test_no_pixel_with_colour_of_the_foreground_is_called_background(
    height: int, width: int, place: int, size: int
) -> None:
    point = (place // width % height, place % width)
    image, mask = pair(height, width, point)
    image, mask = training_transform(size, scale=(0.2, 1.0))(tv_tensors.Image(image.float() / 255), mask)
    assert bool(mask.any())
    assert not bool((image[:1] > 1e-6)[~mask].any())


def test_thin_foreground_survives_where_nearest_pixels_lose_it() -> None:
    image, mask = pair(64, 64, *((row, 33) for row in range(64)))
    resize = v2.Resize((8, 8))
    assert not resize(image, mask)[1].any()
    _, kept = MaskFollows(resize)(image, mask)
    assert kept[0].any(1).all()
    assert kept.float().mean() < 0.5


def test_mask_follows_the_very_crop_of_the_image() -> None:
    image, mask = pair(40, 40, *((row, column) for row in range(10, 30) for column in range(5, 20)))
    for _ in range(20):
        crop = MaskFollows(v2.Compose([v2.RandomCrop(20), v2.RandomHorizontalFlip()]))
        moved, follows = crop(image, mask)
        assert torch.equal(moved[:1] == 255, follows)


@pytest.mark.parametrize("geometry", [v2.Pad(4, fill=0.5), v2.RandomRotation((45, 45), fill=1), v2.RandomZoomOut(0.5)])
def test_what_is_filled_is_background(geometry: Any) -> None:
    image, empty = pair(16, 16)
    _, mask = pair(16, 16, (8, 8))
    assert not MaskFollows(geometry)(image, empty)[1].any()
    assert 1 <= MaskFollows(geometry)(image, mask)[1].sum() <= 9


def test_other_transforms_of_a_pair_are_followed() -> None:
    crop = MaskFollows(v2.Compose([around_foreground, v2.Resize((8, 8))]))
    assert crop(*pair(16, 32, (8, 30)))[1].sum() > 0


def test_every_training_crop_has_foreground() -> None:
    transform = training_transform(16, scale=(0.01, 0.05))
    assert all(transform(*pair(60, 80, (0, 79)))[1].any() for _ in range(100))


def test_crops_are_those_of_torchvision_where_all_is_foreground() -> None:
    image = tv_tensors.Image(torch.randint(0, 256, (3, 50, 60), dtype=torch.uint8))
    torch.manual_seed(3)
    result, _ = training_transform(16)(image, tv_tensors.Mask(torch.ones(1, 50, 60, dtype=torch.bool)))
    torch.manual_seed(3)
    crop = [v2.RandomResizedCrop(16), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)]
    assert torch.equal(result, v2.Compose(crop)(image))


def test_evaluation_is_that_of_torchvision() -> None:
    image = tv_tensors.Image(torch.randint(0, 256, (3, 300, 400), dtype=torch.uint8))
    mask = tv_tensors.Mask(torch.ones(1, 300, 400, dtype=torch.bool))
    reference = v2.Compose([v2.Resize(256), v2.CenterCrop(224), v2.ToDtype(torch.float32, scale=True)])
    assert torch.equal(evaluation_transform(224)(image, mask)[0], reference(image))


def test_masks_without_foreground_pass() -> None:
    for preset in PRESETS:
        assert not preset(16)(*pair(30, 40))[1].any()


def test_draws_end_with_the_first_that_has_foreground() -> None:
    left, right = (tv_tensors.Mask(torch.tensor([[flags]])) for flags in ([False, False], [True, False]))
    draws = iter([left, left, right, left])
    image = tv_tensors.Image(torch.zeros(3, 1, 2))
    keep = KeepForeground(lambda image, mask: (image, next(draws)), fallback=pytest.fail, attempts=3)
    assert keep(image, right)[1] is right


def test_fallback_follows_after_the_last_attempt() -> None:
    image, mask = pair(10, 10, (2, 3))
    nothing = tv_tensors.Mask(torch.zeros(1, 10, 10, dtype=torch.bool))
    drawn = []

    def lose(image: Any, mask: Any) -> Any:
        drawn.append(mask)
        return image, nothing

    kept_image, kept = KeepForeground(lose, fallback=around_foreground, attempts=5)(image, mask)
    assert len(drawn) == 5
    assert (kept.shape, int(kept.sum())) == ((1, 10, 10), 1)
    assert torch.equal(kept_image[:1] == 255, kept)


@pytest.mark.parametrize("point", [(0, 0), (0, 49), (29, 0), (29, 49), (15, 25)])
def test_square_around_foreground_stays_in_the_image(point: tuple[int, int]) -> None:
    image, mask = pair(30, 50, point)
    image.fill_(1)
    image, mask = around_foreground(image, mask)
    assert (mask.shape, int(mask.sum())) == ((1, 30, 30), 1)
    assert bool((image == 1).all())


def test_square_needs_foreground() -> None:
    with pytest.raises(InvalidValueError, match="no foreground"):
        around_foreground(*pair(8, 8))


@pytest.mark.parametrize(
    ("preset", "options", "error", "message"),
    [
        (training_transform, {"size": 0}, InvalidValueError, "size .*0"),
        (training_transform, {"size": 224.0}, InvalidTypeError, "size .*224.0"),
        (training_transform, {"flip": 1.5}, InvalidValueError, "flip must lie in"),
        (training_transform, {"scale": (0.5, 0.2)}, InvalidValueError, "scale"),
        (training_transform, {"mean": 0.5}, InvalidValueError, "pass both mean and std, or neither"),
        (evaluation_transform, {"mean": 0.5, "std": 0.0}, InvalidValueError, "std must be positive"),
        (evaluation_transform, {"size": 0}, InvalidValueError, "size .*0"),
    ],
)
def test_illegal_options_are_named(preset: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        preset(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transform": "crop"}, "transform must be callable"),
        ({"fallback": 3}, "fallback must be callable"),
        ({"fallback": None}, "fallback must be callable"),
        ({"attempts": True}, "attempts must be an int"),
    ],
)
def test_parts_must_be_callable(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidTypeError, match=message):
        KeepForeground(**{"transform": v2.RandomCrop(8), "fallback": around_foreground, **options})
