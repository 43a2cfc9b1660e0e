"""Images on other images' backgrounds: what comes from whom."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from swap_batches import batch, counts, seeds, sizes, some

from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.swap import swap_backgrounds

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.uint8, torch.int16, torch.int32]
feathers = st.sampled_from([0.0, 0.7, 3.0])


def drawn_donors(count: int, seed: int) -> torch.Tensor:
    return torch.randint(count, (count,), generator=torch.Generator().manual_seed(seed))


@some
@given(counts, sizes, seeds, st.sampled_from(DTYPES), feathers)
def test_foreground_stays_bit_by_bit(count, size, seed, dtype, feather):
    images, masks = batch(count, size, seed, dtype)
    swapped = swap_backgrounds(images, masks, drawn_donors(count, seed), feather=feather)
    assert (swapped.shape, swapped.dtype) == (images.shape, images.dtype)
    assert torch.equal(swapped.masked_fill(~masks, 0), images.masked_fill(~masks, 0))


@some
@given(counts, sizes, seeds, st.sampled_from(DTYPES))
def test_background_is_the_donors_bit_by_bit_where_the_donor_has_background(count, size, seed, dtype):
    images, masks = batch(count, size, seed, dtype)
    donors = drawn_donors(count, seed)
    swapped = swap_backgrounds(images, masks, donors)
    taken = ~masks & ~masks[donors]
    assert torch.equal(swapped.masked_fill(~taken, 0), images[donors].masked_fill(~taken, 0))


@some
@given(counts, sizes, seeds, feathers)
def test_nothing_of_the_donors_object_shows(count, size, seed, feather):
    images, masks = batch(count, size, seed)
    donors = drawn_donors(count, seed)
    for receiver in range(count):
        others = masks.clone()
        others[receiver] = False
        elsewhere = images.masked_fill(others, torch.nan)
        expected, swapped = (swap_backgrounds(x, masks, donors, feather=feather) for x in (images, elsewhere))
        assert torch.equal(swapped[receiver], expected[receiver])


@some
@given(counts, sizes, seeds)
def test_hole_is_filled_within_the_range_of_the_donors_background(count, size, seed):
    images, masks = batch(count, size, seed)
    donors = drawn_donors(count, seed)
    swapped = swap_backgrounds(images, masks, donors)
    for receiver, donor in enumerate(donors.tolist()):
        if donor != receiver:
            around = images[donor].flatten(1)[:, ~masks[donor].flatten()]
            new = swapped[receiver].flatten(1)[:, ~masks[receiver].flatten()]
            assert bool((new >= around.amin(1, keepdim=True) - 1e-6).all())
            assert bool((new <= around.amax(1, keepdim=True) + 1e-6).all())


@some
@given(counts, sizes, seeds, st.sampled_from(DTYPES), feathers)
def test_image_that_is_its_own_donor_stays_as_it_is(count, size, seed, dtype, feather):
    images, masks = batch(count, size, seed, dtype)
    assert torch.equal(swap_backgrounds(images, masks, torch.arange(count), feather=feather), images)


def test_large_integers_are_kept_too():
    images = torch.tensor([2**31 - 1, 2**31 - 2], dtype=torch.int32).view(2, 1, 1, 1).repeat(1, 1, 4, 4)
    masks = torch.zeros(2, 1, 4, 4)
    masks[..., 1:3, 1:3] = 1
    swapped = swap_backgrounds(images, masks, torch.tensor([1, 0]))
    assert torch.equal(swapped, torch.where(masks == 1, images, images.flip(0)))


def test_hole_in_a_plain_background_is_not_to_be_seen():
    images, masks = batch(2, (16, 12), seed=0)
    images[1] = torch.where(masks[1], images[1], 0.25)
    swapped = swap_backgrounds(images, masks, torch.tensor([1, 1]))
    assert torch.equal(swapped[0].masked_fill(masks[0], 0.25), torch.full_like(images[0], 0.25))


def test_hole_takes_after_what_is_near():
    images, masks = torch.zeros(2, 1, 16, 16), torch.zeros(2, 1, 16, 16, dtype=torch.bool)
    images[1, :, :, 8:] = 1
    masks[0, :, :1, :1] = masks[1, :, 6:10, 1:3] = masks[1, :, 6:10, 13:15] = True
    swapped = swap_backgrounds(images, masks, torch.tensor([1, 1]))[0, 0]
    assert swapped[6:10, 1:3].max() < 0.5 < swapped[6:10, 13:15].min()


def test_soft_edge_falls_from_the_own_image_to_the_donors():
    images = torch.stack([torch.ones(3, 1, 33), torch.zeros(3, 1, 33)])
    masks = torch.zeros(2, 1, 1, 33, dtype=torch.bool)
    masks[..., 0] = masks[0, ..., :8] = True
    row = swap_backgrounds(images, masks, torch.tensor([1, 1]), feather=2.0)[0, 0, 0]
    assert bool((row.diff() <= 0).all())
    assert bool((row[:8] == 1).all())
    assert 0.1 < row[9] < 0.9
    assert not bool(row[8 + 3 * 2 :].any())


@pytest.mark.parametrize("feather", [0.0, 1.5])
def test_gradients_are_those_of_finite_differences(feather):
    images, masks = batch(3, (3, 4), seed=1, dtype=torch.float64)
    donors = torch.tensor([1, 2, 2])
    assert torch.autograd.gradcheck(
        lambda x: swap_backgrounds(x, masks, donors, feather=feather), images.requires_grad_()
    )


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32])
@pytest.mark.parametrize("channel", [True, False])
def test_masks_of_every_form_say_the_same(dtype, channel):
    images, masks = batch(4, (6, 7), seed=2)
    donors = torch.tensor([1, 2, 3, 0])
    given_masks = (masks if channel else masks[:, 0]).to(dtype)
    assert torch.equal(swap_backgrounds(images, given_masks, donors), swap_backgrounds(images, masks, donors))


def test_video_with_one_mask_for_all_frames():
    images, masks = batch(3, (2, 5, 6), seed=3)
    one, donors = masks[:, :, :1], torch.tensor([2, 0, 1])
    repeated = one.expand_as(masks)
    assert torch.equal(swap_backgrounds(images, one, donors), swap_backgrounds(images, repeated, donors))


def test_arguments_are_not_changed():
    images, masks = batch(3, (5, 5), seed=4)
    before = images.clone(), masks.clone()
    swap_backgrounds(images, masks, torch.tensor([1, 2, 0]), feather=1.0)
    assert torch.equal(images, before[0])
    assert torch.equal(masks, before[1])


IMAGES, MASKS = batch(2, (4, 4), seed=5)
DONORS = torch.tensor([1, 0])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": [1]}, InvalidTypeError, "images must be a Tensor .*; got list"),
        ({"images": MASKS}, InvalidTypeError, "integer or floating; got torch.bool"),
        ({"images": IMAGES + 0j}, InvalidTypeError, "integer or floating; got torch.complex64"),
        ({"images": IMAGES[0]}, InvalidValueError, r"\(N, C, H, W\) .* got \(3, 4, 4\)"),
        ({"images": IMAGES[:0]}, InvalidValueError, r"got \(0, 3, 4, 4\)"),
        ({"masks": None}, InvalidTypeError, "masks must be a Tensor"),
        ({"masks": MASKS[:1]}, InvalidValueError, r"got \(1, 1, 4, 4\)"),
        ({"masks": MASKS[..., :3]}, InvalidValueError, r"images' size \(4, 4\); got \(.*4, 3\)"),
        ({"masks": MASKS * 0.5}, InvalidValueError, "other values, such as 0.5"),
        ({"masks": MASKS & False}, InvalidValueError, "no foreground in the masks of images 0, 1 of 2"),
        ({"masks": MASKS | torch.tensor([True, False]).view(2, 1, 1, 1)}, InvalidValueError, r"background.*\[0\]"),
        ({"donors": [1, 0]}, InvalidTypeError, "donors must be a tensor of integers; got list"),
        ({"donors": DONORS.bool()}, InvalidTypeError, "donors must be a tensor of integers; got torch.bool"),
        ({"donors": DONORS[:1]}, InvalidValueError, r"donors .*\(2,\).*\(1,\)"),
        ({"donors": DONORS - 1}, InvalidValueError, r"donors .*\[-1\]"),
        ({"donors": DONORS + 1}, InvalidValueError, r"donors .*\[2\]"),
        ({"feather": -1}, InvalidValueError, "feather must lie in"),
        ({"feather": "soft"}, InvalidTypeError, "feather must be a number"),
    ],
)
def test_bad_argument_shows_what_came_and_what_is_allowed(change: dict[str, Any], error: Any, message: str) -> None:
    arguments = {"images": IMAGES, "masks": MASKS, "donors": DONORS, **change}
    with pytest.raises(error, match=message):
        swap_backgrounds(**arguments)
