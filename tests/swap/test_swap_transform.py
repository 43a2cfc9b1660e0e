"""The batch transform: who takes part, who gives to whom, and what can be repeated."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from swap_batches import batch, counts, seeds, sizes, some

from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.swap import BackgroundSwap, swap_backgrounds

probabilities = st.sampled_from([0.0, 0.3, 1.0])


def seeded(seed: int = 0, **options: Any) -> BackgroundSwap:
    return BackgroundSwap(generator=torch.Generator().manual_seed(seed), **options)


@some
@given(counts, sizes, seeds, probabilities, st.sampled_from([0.0, 1.0]))
def test_result_is_the_swap_with_the_donors_that_are_told(count, size, seed, probability, feather):
    images, masks = batch(count, size, seed)
    swapped, donors = seeded(seed, probability=probability, feather=feather).with_donors(images, masks)
    assert torch.equal(swapped, swap_backgrounds(images, masks, donors, feather=feather))
    assert torch.equal(swapped, seeded(seed, probability=probability, feather=feather)(images, masks))


@some
@given(counts, seeds, st.lists(st.booleans(), min_size=6, max_size=6), st.lists(st.booleans(), min_size=6, max_size=6))
def test_images_with_mask_and_background_form_one_circle(count, seed, with_mask, full):
    images, masks = batch(count, (4, 4), seed)
    has_mask, full = torch.tensor(with_mask[:count]), torch.tensor(full[:count])
    masks |= full.view(-1, 1, 1, 1)
    _, donors = seeded(seed, probability=1.0).with_donors(images, masks, has_mask)
    part = has_mask & ~full
    assert torch.equal(donors[~part], torch.arange(count)[~part])
    if members := part.nonzero().flatten().tolist():
        way = [members[0]]
        while (following := int(donors[way[-1]])) != way[0]:
            way.append(following)
        assert sorted(way) == members


def test_batch_of_one_stays_as_it_is():
    images, masks = batch(1, (4, 4), seed=0)
    assert torch.equal(seeded(probability=1.0)(images, masks), images)


def test_probability_is_the_share_of_swapped_images():
    images, masks = batch(1000, (2, 2), seed=0)
    _, donors = seeded(probability=0.3).with_donors(images, masks)
    share = (donors != torch.arange(1000)).double().mean().item()
    # four standard deviations
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / 1000) ** 0.5


@pytest.mark.parametrize(("probability", "swapped"), [(0.0, 0), (1.0, 50)])
def test_probability_zero_swaps_none_and_one_swaps_all(probability, swapped):
    images, masks = batch(50, (2, 2), seed=0)
    _, donors = seeded(probability=probability).with_donors(images, masks)
    assert int((donors != torch.arange(50)).sum()) == swapped


def test_every_other_image_is_equally_likely_as_donor():
    images, masks = batch(4, (2, 2), seed=0)
    swap, draws = seeded(probability=1.0), 600
    first = torch.stack([swap.with_donors(images, masks)[1][0] for _ in range(draws)]).bincount(minlength=4)
    assert first[0] == 0
    assert bool(((first[1:] - draws / 3).abs() < 4 * (draws * 2 / 9) ** 0.5).all())


def test_what_stands_in_a_mask_that_is_not_given_does_not_matter():
    images, masks = batch(4, (4, 4), seed=1)
    has_mask = torch.tensor([True, False, True, True])
    expected = seeded(probability=1.0)(images, masks, has_mask)
    masks = masks.float()
    masks[1] = torch.nan
    assert torch.equal(seeded(probability=1.0)(images, masks, has_mask), expected)
    assert torch.equal(expected[1], images[1])


def test_same_seed_same_batches_and_another_seed_others():
    images, masks = batch(16, (4, 4), seed=2)
    first, second, other = seeded(3), seeded(3), seeded(4)
    for _ in range(3):
        assert torch.equal(first(images, masks), second(images, masks))
    assert not torch.equal(first(images, masks), other(images, masks))


def test_restored_state_goes_on_as_it_would_have():
    images, masks = batch(16, (4, 4), seed=2)
    swap, restored = seeded(3), seeded(9)
    swap(images, masks)
    restored.load_state_dict(swap.state_dict())
    assert torch.equal(swap(images, masks), restored(images, masks))


def test_global_generator_is_used_without_an_own_and_left_alone_with_one():
    images, masks = batch(16, (4, 4), seed=2)
    before = torch.get_rng_state()
    seeded()(images, masks)
    assert torch.equal(torch.get_rng_state(), before)
    swap = BackgroundSwap()
    first = swap(images, masks)
    torch.set_rng_state(before)
    assert torch.equal(swap(images, masks), first)
    assert swap.state_dict() == {}


def test_gradients_reach_the_images_except_hidden_foreground():
    images, masks = batch(2, (6, 6), seed=3)
    images.requires_grad_()
    seeded(probability=1.0)(images, masks).sum().backward()
    assert images.grad is not None
    assert bool((images.grad[masks.expand_as(images)] == 1).all())
    assert bool((images.grad >= 0).all())


def test_bad_batch_draws_nothing():
    images, masks = batch(4, (4, 4), seed=4)
    swap = seeded()
    before = swap.state_dict()["generator"]
    with pytest.raises(InvalidValueError, match="no foreground in the masks of image"):
        swap(images, masks & False)
    with pytest.raises(InvalidTypeError, match="has_mask must be boolean"):
        swap(images, masks, [1, 0, 1, 1])
    with pytest.raises(InvalidValueError, match=r"masks must have the images' size"):
        swap(images, masks[..., 1:])
    assert torch.equal(swap.state_dict()["generator"], before)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"probability": 1.5}, InvalidValueError, r"probability must lie in \[0, 1\]; got 1.5"),
        ({"probability": "half"}, InvalidTypeError, "probability must be a number"),
        ({"feather": -0.1}, InvalidValueError, "feather must lie in"),
        ({"generator": 7}, InvalidTypeError, "generator must be a torch.Generator or None; got int"),
    ],
)
def test_bad_option_shows_what_came_and_what_is_allowed(options: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        BackgroundSwap(**options)


def test_state_of_another_kind_of_swap_is_refused():
    with pytest.raises(InvalidValueError, match=r"with the keys \['generator'\]; got \[\]"):
        seeded().load_state_dict({})
