"""The verdict follows from accuracies by stated criteria; intervals are those of their papers."""

from __future__ import annotations

import math

import pytest

from zennit_isnet.audit import Drop, Proportion
from zennit_isnet.audit.verdict import judge, percent

GOOD = Proportion(right=950, count=1000)
HARMLESS = Drop(lost=5, gained=5, count=1000)
HARM = Drop(lost=600, gained=0, count=1000)


@pytest.mark.parametrize(
    ("kept", "swapped", "same_class", "outcome", "reason"),
    [
        (GOOD, HARM, HARMLESS, "relies on the background", "falls from 95.0 % by 60.0 %"),
        (GOOD, HARM, Drop(0, 0, 0), "relies on the background", "seams of the swap are not ruled out"),
        (GOOD, HARMLESS, HARMLESS, "no reliance found", "stay right"),
        (GOOD, Drop(20, 80, 1000), HARMLESS, "no reliance found", "stay right"),
        (GOOD, HARM, Drop(300, 0, 1000), "undecided", "on another background of the same class too"),
        (GOOD, HARM, Drop(299, 0, 1000), "relies on the background", "falls"),
        (GOOD, Drop(60, 10, 1000), HARMLESS, "undecided", "by chance"),
        (GOOD, Drop(60, 10, 1000), HARMLESS, "undecided", "so the background has some say"),
        (GOOD, Drop(0, 0, 10), HARMLESS, "undecided", "more images would tell."),
        (GOOD, Drop(0, 0, 0), HARMLESS, "undecided", "No image of another class"),
        (Proportion(115, 1000), HARM, HARMLESS, "undecided", "not clearly better"),
        (Proportion(100, 1000), HARMLESS, HARMLESS, "undecided", "not clearly better"),
    ],
)
def test_outcome(kept: Proportion, swapped: Drop, same_class: Drop, outcome: str, reason: str) -> None:
    verdict = judge(kept, majority=0.1, swapped=swapped, same_class=same_class, tolerance=0.05)
    assert verdict.outcome == outcome
    assert reason in verdict.reason.replace("\u00a0", " ")
    assert len(verdict.criteria) == 3


def test_tolerance_moves_the_verdict() -> None:
    drop = Drop(lost=100, gained=0, count=1000)
    outcomes = [judge(GOOD, 0.1, drop, HARMLESS, tolerance).outcome for tolerance in (0.05, 0.1, 0.2)]
    assert outcomes == ["relies on the background", "undecided", "no reliance found"]


@pytest.mark.parametrize(("right", "count"), [(0, 10), (10, 10), (3, 10), (500, 1000)])
def test_interval_of_a_proportion_holds_all_shares_that_the_score_test_accepts(right: int, count: int) -> None:
    share = right / count
    for end in Proportion(right, count).interval:
        distance = abs(end - share)
        assert distance == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / count), abs=1e-7)


def test_interval_of_a_drop_does_not_vanish_where_all_images_agree() -> None:
    assert Drop.of([True] * 10, [True] * 10) == Drop(lost=0, gained=0, count=10)
    low, high = Drop(0, 0, 10).interval
    assert high == -low == pytest.approx(1.959964 / 12)
    assert Drop(10, 0, 10).interval[1] <= 1
    assert Drop.of([True, True, False, False], [True, False, True, False]) == Drop(lost=1, gained=1, count=4)


def test_nothing_counted_is_undefined() -> None:
    assert Proportion(0, 0).value is None
    assert Proportion(0, 0).interval == (0, 1)
    assert Drop(0, 0, 0).value is None
    assert (percent(None), percent(-0.5)) == ("undefined", "−50.0\u00a0%")
