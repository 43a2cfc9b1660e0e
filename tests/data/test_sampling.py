"""What is random about the benchmark, and where its patches lie."""

import pytest
import torch

from zennit_isnet.data.background_bias import Split, draw, patch_mask, patch_places, stratified_split

LABELS = torch.arange(10).repeat_interleave(torch.tensor([100, 50, 200, 100, 100, 100, 100, 100, 100, 100]))
MANY = torch.arange(10).repeat(2000)
SIZES = [32, 33, 57]


def test_splits_have_their_share_of_every_class_and_hold_every_digit_once() -> None:
    splits = stratified_split(LABELS, torch.Generator().manual_seed(0))
    assert torch.equal(torch.cat(list(splits.values())).sort().values, torch.arange(len(LABELS)))
    shares: dict[Split, float] = {"train": 0.7, "validation": 0.1, "test": 0.2}
    for name, share in shares.items():
        assert LABELS[splits[name]].bincount().tolist() == (LABELS.bincount() * share).round().tolist()


def test_splits_are_shuffled_over_the_classes() -> None:
    train = LABELS[stratified_split(LABELS, torch.Generator().manual_seed(0))["train"]]
    assert len(train[:100].unique()) == 10


def test_biased_cue_is_the_label_and_none_has_no_cue() -> None:
    _, cues, _ = draw(MANY, seed=0)
    assert torch.equal(cues["biased"], MANY)
    assert torch.equal(cues["none"], torch.full_like(MANY, -1))


def test_unbiased_cue_is_uniform_for_every_class() -> None:
    counts = (10 * MANY + draw(MANY, seed=0)[1]["unbiased"]).bincount(minlength=100)
    # 200 expected in each of the 100 cells; five standard deviations of a binomial count.
    assert (counts - 200).abs().max() < 5 * 200**0.5


def test_confounding_cue_is_uniform_over_the_nine_wrong_classes() -> None:
    counts = (10 * MANY + draw(MANY, seed=0)[1]["confounding"]).bincount(minlength=100).reshape(10, 10)
    assert counts.diagonal().tolist() == [0] * 10
    wrong = counts[~torch.eye(10, dtype=torch.bool)]
    assert (wrong - 2000 / 9).abs().max() < 5 * (2000 / 9) ** 0.5


def test_draws_belong_to_the_seed_and_leave_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    splits, cues, positions = draw(LABELS, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    again, other = draw(LABELS, seed=0), draw(LABELS, seed=1)
    assert torch.equal(again[2], positions)
    assert not torch.equal(other[2], positions)
    for found, expected in ((again[0], splits), (again[1], cues)):
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert not torch.equal(other[0]["train"], splits["train"])
    assert not torch.equal(other[1]["unbiased"], cues["unbiased"])
    assert not torch.equal(other[1]["confounding"], cues["confounding"])


@pytest.mark.parametrize("size", SIZES)
def test_every_cue_has_a_square_of_its_own_outside_of_the_digit(size: int) -> None:
    squares = patch_mask(torch.arange(10), size)
    assert squares.shape == (10, 1, size, size)
    assert squares.sum(dim=0).max() == 1
    for square, (row, column) in zip(squares, patch_places(size).tolist(), strict=True):
        expected = torch.zeros(1, size, size, dtype=torch.bool)
        expected[0, row : row + 2, column : column + 2] = True
        assert expected.sum() == 4
        assert torch.equal(square, expected)
    before = (size - 28) // 2
    assert not bool(squares[..., before : before + 28, before : before + 28].any())


@pytest.mark.parametrize("size", SIZES)
def test_places_lie_on_the_outermost_pixels_at_equal_distances(size: int) -> None:
    places = patch_places(size)
    assert bool(((places == 0) | (places == size - 2)).any(dim=1).all())
    assert places[0].tolist() == [0, 0]
    steps = (places - places.roll(1, dims=0)).abs().sum(dim=1)
    assert steps.max() - steps.min() <= 1
    assert steps.sum() == 4 * (size - 2)
