"""Which values of a mask are foreground, and which are refused."""

from __future__ import annotations

import re

import pytest
import torch

from zennit_isnet.data import MaskPolicy
from zennit_isnet.data.decoding import Binarize, Levels, binarized
from zennit_isnet.errors import InvalidTypeError, InvalidValueError


def foreground(values: list[float], binarize: Binarize, top: float | None = 255) -> list[bool]:
    mask = binarized(Levels(torch.tensor([values]), top), binarize, "mask 1.png")
    assert (mask.dtype, mask.ndim) == (torch.bool, 3)
    return mask[0, 0].tolist()


@pytest.mark.parametrize("other", [1, 7, 255, 300])
def test_strict_accepts_zero_and_one_other_value(other: int) -> None:
    assert foreground([0, other, 0], "strict") == [False, True, False]


@pytest.mark.parametrize(("values", "expected"), [([0, 0], False), ([1, 1], True), ([255, 255], True)])
def test_strict_accepts_masks_that_are_all_one(values: list[float], expected: bool) -> None:
    assert foreground(values, "strict") == [expected] * 2


@pytest.mark.parametrize(
    ("values", "named"), [([0, 1, 2], "0, 1, 2"), ([1, 255], "1, 255"), ([3, 3], "3"), ([0.0, 0.25, 1.0], "0, 0.25, 1")]
)
def test_strict_refuses_everything_else_and_names_mask_and_values(values: list[float], named: str) -> None:
    with pytest.raises(InvalidValueError, match=re.escape(f"mask 1.png has the values {named};")):
        foreground(values, "strict")


def test_message_lists_few_of_many_values() -> None:
    with pytest.raises(InvalidValueError, match=r"6, 7, \.\.\. .*256"):
        foreground(list(range(256)), "strict")


@pytest.mark.parametrize(
    ("top", "values"), [(255, [0, 127, 128, 255]), (65535, [0, 32767, 32768, 65535]), (1, [0.0, 0.5, 0.6, 1.0])]
)
def test_half_is_half_of_the_range_of_the_format(top: float, values: list[float]) -> None:
    assert foreground(values, "half", top) == [False, False, True, True]


def test_half_of_an_unknown_range_is_refused() -> None:
    with pytest.raises(InvalidValueError, match=r"mask 1\.png .*unknown"):
        foreground([0, 1, 2], "half", top=None)
    with pytest.raises(InvalidValueError, match=r"up to 200,.* is 1;"):
        foreground([0.0, 200.0], "half", top=1)


def test_nonzero_takes_all_but_zero() -> None:
    assert foreground([0, 1, 2, 255], "nonzero") == [False, True, True, True]


@pytest.mark.parametrize("binarize", [{1, 3}, [3, 1]])
def test_collection_names_the_values_of_the_foreground(binarize: Binarize) -> None:
    assert foreground([1, 2, 3, 0], binarize) == [True, False, True, False]


def test_values_beyond_a_byte_are_not_taken_for_bytes() -> None:
    levels = Levels(torch.tensor([[300 - 256, 1]], dtype=torch.uint8), 255)
    assert binarized(levels, {300, 1}, "mask").tolist() == [[[False, True]]]


@pytest.mark.parametrize("binarize", ["strict", "half", "nonzero", {1}])
def test_values_that_are_not_finite_are_refused(binarize: Binarize) -> None:
    with pytest.raises(InvalidValueError, match="finite values"):
        foreground([0.0, float("nan")], binarize, top=1)


@pytest.mark.parametrize(
    ("binarize", "error"),
    [("otsu", InvalidValueError), (set(), InvalidTypeError), (3, InvalidTypeError), ({True}, InvalidTypeError)],
)
def test_other_policies_are_refused_with_the_legal_ones(binarize: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="binarize must"):
        MaskPolicy(binarize=binarize)  # type: ignore[arg-type]
