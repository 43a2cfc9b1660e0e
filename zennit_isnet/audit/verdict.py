"""Whether a model relies on the background, in words, with the criteria."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from zennit_isnet.audit.statistics import Drop, Proportion

Outcome: TypeAlias = Literal["relies on the background", "no reliance found", "undecided"]


@dataclass(frozen=True)
class Verdict:
    """The outcome of an audit.

    Attributes
    ----------
    outcome : {"relies on the background", "no reliance found", "undecided"}
    reason : str
        Why, in one or two sentences.
    criteria : tuple of str
        What was asked, with the figures that answered.
    """

    outcome: Outcome
    reason: str
    criteria: tuple[str, ...]


def judge(kept: Proportion, majority: float, swapped: Drop, same_class: Drop, tolerance: float) -> Verdict:
    """Decide by the accuracy on swapped backgrounds; the relevance takes no part.

    A share of relevance is no evidence: relevance with constant gates does not see a background that acts through the
    gates, and a model with clean heatmaps may still follow the background.

    Parameters
    ----------
    kept : Proportion
        Accuracy on unchanged images.
    majority : float
        Share of the most frequent class.
    swapped, same_class : Drop
        Loss of accuracy on the background of another class, and of the same class.
    tolerance : float
        The largest drop that counts as none.

    Returns
    -------
    Verdict
        *Undecided* if the model is not clearly better than naming the most frequent class, if chance could explain
        either answer, or if backgrounds of the same class do at least half of the harm: then seams, or any change at
        all, may be the cause. *Relies on the background* if the drop is above the tolerance with its whole 95 %
        interval; *no reliance found* if it is at most the tolerance with its whole interval.

    Examples
    --------
    >>> kept = Proportion(right=95, count=100)
    >>> swapped, same_class = Drop(lost=60, gained=0, count=100), Drop(lost=2, gained=1, count=100)
    >>> judge(kept, majority=0.1, swapped=swapped, same_class=same_class, tolerance=0.05).outcome
    'relies on the background'
    """
    criteria = [
        f"Is the model good enough to judge? Its accuracy must lie above {percent(majority)}, the share of the most "
        f"frequent class, with its whole 95 % interval: it is {percent(kept.value)} "
        f"({percent(kept.interval[0])} to {percent(kept.interval[1])}).",
        f"How much accuracy does it lose on the background of another class? Up to {percent(tolerance)} counts as "
        f"none: {_loss(swapped)}.",
        f"Is it the class in the background that matters? On another background of the same class the loss must be "
        f"less than half of that: {_loss(same_class)}.",
    ]
    outcome, reason = _decide(kept, majority, swapped, same_class, tolerance)
    return Verdict(outcome, reason, tuple(criteria))


def _decide(
    kept: Proportion, majority: float, swapped: Drop, same_class: Drop, tolerance: float
) -> tuple[Outcome, str]:
    if swapped.value is None:
        return "undecided", "No image of another class could lend its background, so nothing was tested."
    if kept.interval[0] <= majority:
        return "undecided", (
            "The model is not clearly better than always naming the most frequent class, so it has no accuracy that a "
            "changed background could take away."
        )
    low, high = swapped.interval
    if high <= tolerance:
        return "no reliance found", (
            f"Predictions stay right when the background comes from an image of another class (loss "
            f"{percent(swapped.value)}). This holds for backgrounds like those of these images."
        )
    if low <= tolerance:
        some = f" At least {percent(low)} are lost, so the background has some say." if low > 0 else ""
        return "undecided", (
            f"The loss of accuracy on the background of another class, {percent(swapped.value)}, may lie on either "
            f"side of {percent(tolerance)} by chance; more images would tell.{some}"
        )
    if same_class.value is not None and same_class.value >= swapped.value / 2:
        return "undecided", (
            f"Accuracy falls by {percent(swapped.value)} on the background of another class, but by "
            f"{percent(same_class.value)} on another background of the same class too. The model is disturbed by a "
            "changed background, or by the seams of the swap; whether it reads the class from it is open."
        )
    control = (
        ""
        if same_class.value is not None
        else (" No image had another one of its class to lend a background, so seams of the swap are not ruled out.")
    )
    return "relies on the background", (
        f"Accuracy falls from {percent(kept.value)} by {percent(swapped.value)} when the background comes from an "
        f"image of another class and the object stays.{control}"
    )


def _loss(drop: Drop) -> str:
    if drop.value is None:
        return "no image could be tested"
    low, high = drop.interval
    return f"it is {percent(drop.value)} ({percent(low)} to {percent(high)}, {drop.count} images)"


def percent(value: float | None) -> str:
    """Return a share as text that no line break divides; "undefined" for None."""
    return "undefined" if value is None else f"{100 * value:.1f}\u00a0%".replace("-", "−")
