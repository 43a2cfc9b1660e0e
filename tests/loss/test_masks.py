"""Foreground masks: conservative resizing, and what counts as a valid mask."""

import loss_oracle
import numpy as np
import pytest
import torch

from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.functional import resize_foreground, validate_foreground


@pytest.mark.parametrize(
    ("before", "after"),
    [((8, 8), (4, 4)), ((8, 8), (3, 5)), ((7, 5), (3, 2)), ((4, 4), (8, 8)), ((3, 5), (7, 8)), ((6, 3), (2, 7))],
)
def test_a_cell_is_background_only_without_any_foreground_in_it(before, after, generator):
    foreground = torch.rand(3, 1, *before, generator=generator) < 0.15
    resized = resize_foreground(foreground, after)
    for mask, result in zip(foreground[:, 0].numpy(), resized[:, 0].numpy(), strict=True):
        expected = loss_oracle.resized(mask, after)
        assert {cell: result[cell] for cell in np.ndindex(*after)} == expected


def test_a_single_pixel_survives_any_reduction():
    foreground = torch.zeros(1, 1, 224, 224)
    foreground[..., 111, 3] = 1
    for size in (112, 56, 28, 14, 7, 5, 1):
        assert resize_foreground(foreground, (size, size)).sum() >= 1


def test_enlarging_by_a_whole_factor_repeats_pixels(generator):
    foreground = (torch.rand(2, 1, 4, 4, generator=generator) < 0.5).float()
    expected = foreground.repeat_interleave(3, dim=-1).repeat_interleave(3, dim=-2)
    torch.testing.assert_close(resize_foreground(foreground, (12, 12)), expected, rtol=0, atol=0)


def test_video_masks_are_resized_in_time_too():
    foreground = torch.zeros(1, 4, 2, 2)
    foreground[0, 3, 0, 0] = 1
    resized = resize_foreground(foreground, (2, 1, 1))
    assert resized.flatten().tolist() == [0.0, 1.0]
    assert resized.shape == (1, 1, 2, 1, 1)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", [(4, 4), (2, 2)])
def test_any_real_dtype_and_both_layouts_are_understood(dtype, size):
    foreground = torch.eye(4).expand(2, 1, 4, 4)
    expected = resize_foreground(foreground, size)
    for layout in (foreground, foreground[:, 0]):
        resized = resize_foreground(layout.to(dtype), size)
        assert resized.dtype == torch.float32
        torch.testing.assert_close(resized, expected, rtol=0, atol=0)
    assert resize_foreground(foreground.double(), size).dtype == torch.float64


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (4, 4), (2, 1, 1, 4, 4), (2, 1, 0, 4)])
def test_a_shape_that_is_no_image_mask_is_refused(shape):
    with pytest.raises(InvalidValueError, match=r"foreground must have .*got (shape )?\("):
        resize_foreground(torch.ones(shape), (4, 4))


@pytest.mark.parametrize("size", [(4,), (4, 4, 4, 4), (0, 4), ()])
def test_a_size_that_is_neither_image_nor_video_is_refused(size):
    with pytest.raises(InvalidValueError, match="size must be"):
        resize_foreground(torch.ones(2, 1, 4, 4), size)


@pytest.mark.parametrize("check", [validate_foreground, lambda mask: resize_foreground(mask, (4, 4))])
@pytest.mark.parametrize("foreground", [[[1, 0]], None, torch.ones(2, 1, 4, 4, dtype=torch.complex64)])
def test_what_is_no_real_tensor_is_refused(check, foreground):
    with pytest.raises(InvalidTypeError, match=r"foreground must be .*; got"):
        check(foreground)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_masks_of_zero_and_one_are_valid_and_may_have_no_background(dtype):
    foreground = torch.ones(2, 1, 4, 4)
    foreground[0, 0, 0] = 0
    before = foreground.clone()
    assert validate_foreground(foreground.to(dtype)) is None
    assert validate_foreground(foreground[:0].to(dtype)) is None
    assert torch.equal(foreground, before)


@pytest.mark.parametrize(
    ("values", "shown"), [((255.0,), "255.0"), ((0.5,), "0.5"), ((-1.0,), "-1.0"), ((float("nan"),), "nan")]
)
def test_other_values_are_refused_with_image_and_value(values, shown):
    foreground = torch.ones(4, 1, 2, 2)
    foreground[1, 0, 0, 0] = foreground[3, 0, 1, 1] = values[0]
    with pytest.raises(InvalidValueError, match=rf"images 1, 3 of 4 have other values, such as {shown}; threshold"):
        validate_foreground(foreground)


def test_images_without_foreground_are_named():
    foreground = torch.ones(5, 8, 8, dtype=torch.bool)
    foreground[[1, 4]] = False
    with pytest.raises(InvalidValueError, match="no foreground in the masks of images 1, 4 of 5"):
        validate_foreground(foreground)


def test_a_long_list_of_images_is_cut():
    with pytest.raises(InvalidValueError, match=r"images 0, 1, .*15, \.\.\. of 64"):
        validate_foreground(torch.zeros(64, 2, 2))


def test_a_batch_dimension_is_needed():
    with pytest.raises(InvalidValueError, match=r"one mask per image; got \(4,\)"):
        validate_foreground(torch.ones(4))
