"""Splits and cues."""

from typing import get_args

import pytest
import torch

from zennit_isnet.data.options import Background, Split
from zennit_isnet.data.sampling import Draws, stratified_split

LABELS = torch.arange(10).repeat_interleave(torch.tensor([100, 50, 200, 100, 100, 100, 100, 100, 100, 100]))
MANY = torch.arange(10).repeat(2000)


def test_splits_are_disjoint_and_hold_every_digit() -> None:
    splits = stratified_split(LABELS, torch.Generator().manual_seed(0))
    everything = torch.cat(list(splits.values()))
    assert torch.equal(everything.sort().values, torch.arange(len(LABELS)))


def test_splits_have_their_share_of_every_class() -> None:
    splits = stratified_split(LABELS, torch.Generator().manual_seed(0))
    counts = LABELS.bincount()
    shares: dict[Split, float] = {"train": 0.7, "validation": 0.1, "test": 0.2}
    for name, share in shares.items():
        assert LABELS[splits[name]].bincount().tolist() == (counts * share).round().tolist()


def test_splits_are_shuffled_over_the_classes() -> None:
    train = LABELS[stratified_split(LABELS, torch.Generator().manual_seed(0))["train"]]
    assert len(train[:100].unique()) == 10


def test_biased_cue_is_the_label_and_none_has_no_cue() -> None:
    draws = Draws.from_seed(MANY, seed=0)
    assert torch.equal(draws.cues(MANY, "biased"), MANY)
    assert torch.equal(draws.cues(MANY, "none"), torch.full_like(MANY, -1))


def test_unbiased_cue_is_uniform_for_every_class() -> None:
    table = 10 * MANY + Draws.from_seed(MANY, seed=0).cues(MANY, "unbiased")
    counts = table.bincount(minlength=100)
    # 200 expected in each of the 100 cells; five standard deviations of a binomial count.
    assert (counts - 200).abs().max() < 5 * 200**0.5


def test_confounding_cue_is_uniform_over_the_nine_wrong_classes() -> None:
    cues = Draws.from_seed(MANY, seed=0).cues(MANY, "confounding")
    counts = (10 * MANY + cues).bincount(minlength=100).reshape(10, 10)
    assert counts.diagonal().tolist() == [0] * 10
    wrong = counts[~torch.eye(10, dtype=torch.bool)]
    assert (wrong - 2000 / 9).abs().max() < 5 * (2000 / 9) ** 0.5


@pytest.mark.parametrize("background", get_args(Background))
def test_same_seed_same_draws(background: Background) -> None:
    first, second = (Draws.from_seed(LABELS, seed=3) for _ in range(2))
    assert torch.equal(first.cues(LABELS, background), second.cues(LABELS, background))
    assert torch.equal(first.positions, second.positions)
    assert all(torch.equal(first.splits[name], second.splits[name]) for name in first.splits)


def test_another_seed_gives_other_draws() -> None:
    first, second = (Draws.from_seed(LABELS, seed=seed) for seed in (0, 1))
    assert not torch.equal(first.independent, second.independent)
    assert not torch.equal(first.wrong, second.wrong)
    assert not torch.equal(first.positions, second.positions)
    assert not torch.equal(first.splits["train"], second.splits["train"])


def test_global_generator_is_neither_read_nor_moved() -> None:
    torch.manual_seed(0)
    first = Draws.from_seed(LABELS, seed=0)
    state = torch.get_rng_state()
    second = Draws.from_seed(LABELS, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    third = Draws.from_seed(LABELS, seed=0)
    assert torch.equal(first.positions, second.positions)
    assert torch.equal(first.positions, third.positions)
