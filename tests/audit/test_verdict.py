"""The verdict follows from accuracies by stated criteria; intervals are those of their papers."""

from __future__ import annotations

import math

import pytest

from zennit_isnet.audit import Balanced, Drop, Proportion
from zennit_isnet.audit.verdict import Verdict, judge, percent, points

GOOD = Proportion(part=950, count=1000)
HARMLESS = Drop(right=950, lost=5, gained=5, count=1000)
HARM = Drop(right=950, lost=600, gained=0, count=1000)
NONE = Drop(right=0, lost=0, gained=0, count=0)


def judged(kept: Proportion, swapped: Drop, by_class: Drop, tolerance: float = 0.05, chance: float = 0.1) -> Verdict:
    """The verdict on the images of one class."""
    return judge(Balanced((kept,)), chance, Balanced((swapped,)), Balanced((by_class,)), tolerance)


@pytest.mark.parametrize(
    ("kept", "swapped", "by_class", "outcome", "reason"),
    [
        (GOOD, HARM, HARM, "relies on the background", "falls from 95.0 % to 35.0 %"),
        (GOOD, Drop(300, 20, 320, 1000), Drop(300, 0, 300, 1000), "relies on the background", "mislead the model"),
        (GOOD, HARMLESS, HARMLESS, "no reliance found", "stays at 95.0 %"),
        (GOOD, Drop(950, 30, 10, 1000), HARM, "no reliance found", "falls from 95.0 % to 93.0 %"),
        # the control: a change that another background of the same class, with its seams, makes too is no reliance
        (GOOD, HARM, HARMLESS, "undecided", "whether it reads the class from the background remains open"),
        (GOOD, HARM, Drop(400, 60, 0, 1000), "undecided", "does not clearly differ"),
        (GOOD, HARM, Drop(35, 0, 300, 1000), "undecided", "does not clearly differ"),
        (GOOD, HARM, Drop(3, 3, 0, 3), "undecided", "does not clearly differ"),
        (GOOD, HARM, NONE, "undecided", "the swap's seams may be the cause"),
        # accuracy stays where as many images turn right as wrong; that does not clear the model
        (GOOD, Drop(600, 200, 200, 1000), HARMLESS, "undecided", "40.0 % of the images change"),
        (GOOD, Drop(600, 45, 45, 1000), HARMLESS, "undecided", "too few images: about"),
        (GOOD, Drop(950, 60, 10, 1000), HARMLESS, "undecided", "The intervals contain both sides"),
        (GOOD, Drop(10, 0, 0, 10), HARMLESS, "undecided", "too few images: about 107 would decide"),
        (GOOD, NONE, HARMLESS, "undecided", "No image of another class"),
        (Proportion(115, 1000), HARM, HARM, "undecided", "not clearly better"),
        (Proportion(100, 1000), HARMLESS, HARMLESS, "undecided", "not clearly better"),
        (Proportion(20, 1000), HARM, HARM, "undecided", "the order of its classes"),
    ],
)
def test_outcome(kept: Proportion, swapped: Drop, by_class: Drop, outcome: str, reason: str) -> None:
    verdict = judged(kept, swapped, by_class)
    assert verdict.outcome == outcome
    assert reason in verdict.reason.replace("\u00a0", " ")
    assert len(verdict.criteria) == 3


def test_criteria_give_every_figure_with_its_interval() -> None:
    verdict = judged(GOOD, HARM, NONE)
    good, swap, control = (criterion.replace("\u00a0", " ") for criterion in verdict.criteria)
    assert "above 10.0 %" in good
    low, high = (f"{100 * end:.1f}" for end in GOOD.interval)
    assert f"it is 95.0 % ({low} % to {high} %)" in good
    assert "by up to 5.0 points" in swap
    assert "up to 10.0 % of the images" in swap
    low, high = (f"{100 * end:.1f}" for end in HARM.interval)
    assert f"falls from 95.0 % to 35.0 %; 60.0 points lost ({low} points to {high} points)" in swap
    low, high = (f"{100 * end:.1f}" for end in HARM.turned.interval)
    assert f"60.0 % ({low} % to {high} %) of 1000 images change" in swap
    assert "no image could be tested" in control


def test_forty_images_are_the_fewest_that_clear_a_model_without_any_error() -> None:
    outcomes = [judged(Proportion(n, n), Drop(n, 0, 0, n), Drop(n, 0, 0, n)).outcome for n in (30, 40)]
    assert outcomes == ["undecided", "no reliance found"]


def test_a_small_class_counts_as_much_as_a_large_one() -> None:
    kept = Balanced((Proportion(495, 500), Proportion(48, 50)))
    # a tenth of all images turns, but nearly all of the small class
    swapped = Balanced((Drop(495, 5, 0, 500), Drop(48, 45, 0, 50)))
    assert swapped.value == pytest.approx((5 / 500 + 45 / 50) / 2)
    verdict = judge(kept, 0.5, swapped, swapped, 0.05)
    assert verdict.outcome == "relies on the background"
    # naming the large class always is right for 91 % of all images, and worth nothing
    constant = Balanced((Proportion(500, 500), Proportion(0, 50)))
    assert judge(constant, 0.5, swapped, swapped, 0.05).outcome == "undecided"


def test_the_interval_over_classes_joins_theirs_and_leaves_out_those_without_images() -> None:
    one, two = Proportion(180, 200), Proportion(14, 20)
    joined = Balanced((one, two, Proportion(0, 0)))
    assert joined.value == pytest.approx(0.8)
    low = joined.value - math.hypot(0.9 - one.interval[0], 0.7 - two.interval[0]) / 2
    assert joined.interval[0] == pytest.approx(low)
    assert Balanced((one,)).interval == pytest.approx(one.interval)
    assert Balanced((Proportion(0, 0),)).interval == (0, 1)


def test_the_number_of_images_that_is_said_to_tell_does() -> None:
    few = Drop(right=57, lost=1, gained=1, count=60)
    reason = judged(Proportion(58, 60), few, few).reason
    needed = math.ceil(int(reason.partition("about ")[2].split()[0]) / 60)
    many = Drop(57 * needed, needed, needed, 60 * needed)
    assert judged(Proportion(58 * needed, 60 * needed), many, many).outcome == "no reliance found"


def test_tolerance_moves_the_verdict() -> None:
    drop = Drop(right=950, lost=100, gained=0, count=1000)
    outcomes = [judged(GOOD, drop, drop, tolerance).outcome for tolerance in (0.05, 0.1, 0.2)]
    assert outcomes == ["relies on the background", "undecided", "no reliance found"]


@pytest.mark.parametrize(("right", "count"), [(0, 10), (10, 10), (3, 10), (500, 1000)])
def test_interval_of_a_proportion_holds_all_shares_that_the_score_test_accepts(right: int, count: int) -> None:
    share = right / count
    for end in Proportion(right, count).interval:
        distance = abs(end - share)
        assert distance == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / count), abs=1e-7)


def test_interval_of_a_drop_does_not_vanish_where_all_images_agree() -> None:
    assert Drop.of([(True, True)] * 10) == Drop(right=10, lost=0, gained=0, count=10)
    low, high = Drop(10, 0, 0, 10).interval
    assert high == -low == pytest.approx(1.959964 / 12)
    assert Drop(10, 10, 0, 10).interval[1] <= 1


def test_drop_counts_what_is_lost_gained_and_turned() -> None:
    drop = Drop.of([(True, True), (True, False), (True, False), (False, True)])
    assert drop == Drop(right=3, lost=2, gained=1, count=4)
    assert (drop.value, drop.turned.value) == (0.25, 0.75)


def test_nothing_counted_is_undefined() -> None:
    assert Proportion(0, 0).value is None
    assert Proportion(0, 0).interval == (0, 1)
    assert NONE.value is None
    assert (percent(None), percent(-0.5)) == ("undefined", "−50.0\u00a0%")
    assert (points(None), points(-0.5)) == ("undefined", "−50.0\u00a0points")
