"""Patches: where they lie."""

import pytest
import torch

from zennit_isnet.data.patches import patch_mask, patch_places
from zennit_isnet.errors import InvalidValueError

SIZES = [32, 33, 40, 57, 64]


@pytest.mark.parametrize("size", SIZES)
def test_every_cue_has_a_square_of_its_own(size: int) -> None:
    squares = patch_mask(torch.arange(10), size)
    assert squares.shape == (10, 1, size, size)
    assert squares.sum(dim=0).max() == 1
    for square, (row, column) in zip(squares, patch_places(size).tolist(), strict=True):
        expected = torch.zeros(1, size, size, dtype=torch.bool)
        expected[0, row : row + 2, column : column + 2] = True
        assert expected.sum() == 4
        assert torch.equal(square, expected)


@pytest.mark.parametrize("size", SIZES)
def test_places_lie_on_the_outermost_pixels_at_equal_distances(size: int) -> None:
    places = patch_places(size)
    on_border = (places == 0) | (places == size - 2)
    assert bool(on_border.any(dim=1).all())
    assert places[0].tolist() == [0, 0]
    steps = (places - places.roll(1, dims=0)).abs().sum(dim=1)
    assert steps.max() - steps.min() <= 1
    assert steps.sum() == 4 * (size - 2)


@pytest.mark.parametrize("size", SIZES)
def test_no_place_reaches_the_28_pixels_in_the_centre(size: int) -> None:
    before = (size - 28) // 2
    centre = patch_mask(torch.arange(10), size)[..., before : before + 28, before : before + 28]
    assert not bool(centre.any())


def test_canvas_without_a_border_is_rejected() -> None:
    with pytest.raises(InvalidValueError, match="at least 32 pixels, got 31"):
        patch_places(31)
