"""Whether a model relies on the background: proportions of images, their intervals, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, TypeAlias

from zennit_isnet.errors import import_optional

Outcome: TypeAlias = Literal["relies on the background", "no reliance found", "undecided"]

Z = 1.959964
"""Quantile of the normal distribution: 95 % lie within ± Z."""

DISTURBED = "A changed background or the seams of the swap disturb the model"


@dataclass(frozen=True)
class Proportion:
    """Proportion of images with a property, such as a correct prediction.

    Parameters
    ----------
    part, count : int
        ``0 <= part <= count``.

    Examples
    --------
    >>> found = Proportion(part=90, count=100)
    >>> found.value, [round(end, 3) for end in found.interval]
    (0.9, [0.826, 0.945])
    """

    part: int
    count: int

    @property
    def value(self) -> float | None:
        """The proportion; None without images."""
        return self.part / self.count if self.count else None

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval; (0, 1) without images.

        Raises
        ------
        MissingDependencyError
            If SciPy is not installed.

        References
        ----------
        .. [1] Wilson, E. B. "Probable inference, the law of succession, and statistical inference". J. Am. Stat. Assoc.
           22 (1927).
        """
        if not self.count:
            return 0.0, 1.0
        test = import_optional("scipy.stats", "scipy", extra="audit").binomtest(self.part, self.count)
        low, high = test.proportion_ci(method="wilson")
        return float(low), float(high)


@dataclass(frozen=True)
class Drop:
    """How much accuracy is lost when each of some images is altered.

    Parameters
    ----------
    right : int
        Images classified correctly before.
    lost, gained : int
        Images whose outcome changes: correct only before, and correct only after.
    count : int
        All images.

    Examples
    --------
    >>> drop = Drop(right=90, lost=30, gained=10, count=100)
    >>> drop.value, [round(end, 3) for end in drop.interval]
    (0.2, [0.079, 0.313])
    """

    right: int
    lost: int
    gained: int
    count: int

    @classmethod
    def of(cls, pairs: Sequence[tuple[bool | None, bool | None]]) -> Drop:
        """Compare outcomes before and after, one pair per image; pairs with None are ignored."""
        lost, gained = pairs.count((True, False)), pairs.count((False, True))
        right, wrong = pairs.count((True, True)) + lost, pairs.count((False, False)) + gained
        return cls(right, lost, gained, right + wrong)

    @property
    def turned(self) -> Proportion:
        """Share of images that change from correct to wrong or back; changes both ways can cancel in the accuracy."""
        return Proportion(self.lost + self.gained, self.count)

    @property
    def value(self) -> float | None:
        """Accuracy before minus accuracy after; None without images."""
        return (self.lost - self.gained) / self.count if self.count else None

    @property
    def interval(self) -> tuple[float, float]:
        """Agresti and Min's 95 % interval for matched pairs, which adds half an image to each outcome; clipped to ± 1.

        Unlike the textbook interval, it does not collapse when a few images all agree.

        References
        ----------
        .. [1] Agresti, A., Min, Y. "Simple improved confidence intervals for comparing matched proportions". Stat. Med.
           24 (2005).
        """
        n, lost, gained = self.count + 2, self.lost + 0.5, self.gained + 0.5
        centre = (lost - gained) / n
        half = Z * math.sqrt(lost + gained - (lost - gained) ** 2 / n) / n
        return max(-1.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Balanced:
    """Mean of a proportion or a drop over the classes, each with equal weight.

    For proportions of correct predictions this is the balanced accuracy. Small classes count as much as large ones, and
    always predicting the most frequent class scores no better than chance.

    Parameters
    ----------
    parts : tuple of Proportion, or tuple of Drop
        One for each class; classes without images are ignored.

    Examples
    --------
    >>> accuracy = Balanced((Proportion(part=180, count=200), Proportion(part=14, count=20)))
    >>> round(accuracy.value, 3), [round(end, 3) for end in accuracy.interval]
    (0.8, [0.688, 0.879])
    """

    parts: tuple[Proportion, ...] | tuple[Drop, ...]

    @property
    def count(self) -> int:
        """Images of all classes."""
        return sum(part.count for part in self.parts)

    @property
    def value(self) -> float | None:
        """The mean; None without images."""
        values = [part.value for part in self.parts if part.value is not None]
        return fmean(values) if values else None

    @property
    def turned(self) -> Balanced:
        """For drops, the share of images that change from correct to wrong or back."""
        return Balanced(tuple(part.turned for part in self.parts if isinstance(part, Drop)))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval, from the intervals of the classes: squared distances from the value are added.

        References
        ----------
        .. [1] Zou, G. Y., Donner, A. "Construction of confidence limits about effect measures: a general approach".
           Stat. Med. 27 (2008).
        """
        tested = [part for part in self.parts if part.count]
        if not tested or self.value is None:
            return 0.0, 1.0
        below = [(part.value or 0.0) - part.interval[0] for part in tested]
        above = [part.interval[1] - (part.value or 0.0) for part in tested]
        return self.value - math.hypot(*below) / len(tested), self.value + math.hypot(*above) / len(tested)


@dataclass(frozen=True)
class Verdict:
    """The verdict of an audit.

    Attributes
    ----------
    outcome : {"relies on the background", "no reliance found", "undecided"}
    reason : str
        Why, in one to three sentences.
    criteria : tuple of str
        The questions asked, with the figures that answer them.
    """

    outcome: Outcome
    reason: str
    criteria: tuple[str, ...]


def judge(kept: Balanced, chance: float, swapped: Balanced, by_class: Balanced, tolerance: float) -> Verdict:
    """Decide by the balanced accuracy on swapped backgrounds; relevance is not used.

    A share of relevance is not evidence: relevance with constant gates misses a background that acts through the gates,
    and a model with clean heatmaps may still rely on the background.

    Parameters
    ----------
    kept : Balanced
        Accuracy on unchanged images.
    chance : float
        Balanced accuracy of always predicting one class.
    swapped : Balanced
        Drop from unchanged images to the background of another class.
    by_class : Balanced
        Drop from another background of the same class to the background of another class. Both versions have the seams
        of a swap, so this part of the change comes from the class information in the background.
    tolerance : float
        The largest change of accuracy that counts as no change. Twice as many images may change their outcome, because
        seams change some outcomes of any model in both directions.

    Returns
    -------
    Verdict
        *Relies on the background* if the accuracy on the background of another class differs by more than the tolerance
        both from the accuracy on unchanged images and from the accuracy on another background of the same class, each
        with its whole 95 % interval. A rise counts as much as a fall: it means that the images' own backgrounds mislead
        the model. *No reliance found* if accuracy changes by at most the tolerance, and at most twice as many outcomes
        change, each with its whole interval. Otherwise *undecided*, also if the model is not clearly better than
        chance.

    Notes
    -----
    The intervals assume independently drawn images. They are too narrow if a few donors of a rare class provide the
    backgrounds for all images of the other classes.

    Examples
    --------
    >>> kept = Balanced((Proportion(part=95, count=100), Proportion(part=19, count=20)))
    >>> swapped = Balanced((Drop(95, lost=60, gained=0, count=100), Drop(19, lost=12, gained=0, count=20)))
    >>> judge(kept, chance=0.5, swapped=swapped, by_class=swapped, tolerance=0.05).outcome
    'relies on the background'
    """
    outcome, reason = _decide(kept, chance, swapped, by_class, tolerance)
    return Verdict(
        outcome,
        reason,
        criteria=(
            f"Is the model good enough to judge? Its accuracy, the mean over the classes, must lie above "
            f"{percent(chance)}, that of always predicting one class, with its whole 95 % interval: it is "
            f"{_with_interval(kept)}.",
            "What does the background of an image of another class change? Accuracy may move by up to "
            f"{points(tolerance)} either way, and up to {percent(2 * tolerance)} of the images may change from correct "
            f"to wrong or back, each with its whole interval: {_change(swapped)}.",
            "Is it the class information in the background that matters, and not the seams of the swap? From another "
            "background of the same class to one of another class, accuracy must move the same way by more than "
            f"{points(tolerance)}, with its whole interval: {_change(by_class)}.",
        ),
    )


def _decide(
    kept: Balanced, chance: float, swapped: Balanced, by_class: Balanced, tolerance: float
) -> tuple[Outcome, str]:
    if swapped.value is None:
        return "undecided", "No image of another class could provide a background, so nothing was tested."
    if kept.interval[1] < chance:
        return "undecided", (
            f"The model is clearly worse than chance: its accuracy is {percent(kept.value)}, while always predicting "
            f"one class gives {percent(chance)}. Is the order of its classes the same as in the data?"
        )
    if kept.interval[0] <= chance:
        return "undecided", (
            "The model is not clearly better than always predicting one class, so a changed background cannot "
            "reduce its accuracy."
        )
    change, turned = _sign(swapped, tolerance), swapped.turned
    if change == 0 and turned.interval[1] <= 2 * tolerance:
        return "no reliance found", (
            f"Predictions stay correct when the background comes from an image of another class: accuracy "
            f"{_moves(swapped)}. This holds for backgrounds like those of these images."
        )
    if not change:
        found = (
            f"When the background comes from an image of another class, accuracy {_moves(swapped)}, and "
            f"{percent(turned.value)} of the images change from correct to wrong or back."
        )
        if turned.interval[0] > 2 * tolerance:
            return "undecided", (
                f"{found} {DISTURBED}. It may rely on backgrounds that are not correlated with the classes of these "
                "images: audit images whose backgrounds resemble its training data."
            )
        sides = f"The intervals contain both sides of {points(tolerance)} and {percent(2 * tolerance)}"
        needed = max(_needed(swapped, tolerance), _needed(turned, 2 * tolerance))
        more = f"too few images: about {needed:.0f} would decide" if needed < math.inf else "more images may decide"
        return "undecided", f"{found} {sides}; {more}."
    moved = f"Accuracy {_moves(swapped)} when the background comes from an image of another class and the object stays"
    if by_class.value is None:
        return (
            "undecided",
            f"{moved}. No image of the same class could provide a background, so the swap's seams may be the cause.",
        )
    if _sign(by_class, tolerance) != change:
        return "undecided", (
            f"{moved}. But this does not clearly differ from another background of the same class: compared with that, "
            f"accuracy {_moves(by_class)}. {DISTURBED}; whether it reads the class from the background remains open."
        )
    misled = "" if change > 0 else ": the images' own backgrounds mislead the model"
    return "relies on the background", f"{moved}{misled}."


def _needed(found: Balanced, limit: float) -> float:
    """Number of images for the interval to lie within a limit at the same value; infinite if the value does not."""
    room, (low, high) = limit - abs(found.value or 0.0), found.interval
    # an interval narrows with the square root of the number
    return math.inf if room <= 0 else found.count * max(1.0, ((high - low) / 2 / room) ** 2)


def _sign(drop: Balanced, tolerance: float) -> int | None:
    """1 for a fall of more than the tolerance, −1 for a rise, 0 for neither; None if the interval allows several."""
    low, high = drop.interval
    if low > tolerance:
        return 1
    if high < -tolerance:
        return -1
    return 0 if -tolerance <= low and high <= tolerance else None


def _moves(drop: Balanced) -> str:
    tested = [part for part in drop.parts if isinstance(part, Drop) and part.count]
    before = fmean(part.right / part.count for part in tested)
    after = fmean((part.right - part.lost + part.gained) / part.count for part in tested)
    if before == after:
        return f"stays at {percent(before)}"
    return f"{'falls' if after < before else 'rises'} from {percent(before)} to {percent(after)}"


def _change(drop: Balanced) -> str:
    if drop.value is None:
        return "no image could be tested"
    low, high = drop.interval
    return (
        f"it {_moves(drop)}; {points(drop.value)} lost ({points(low)} to {points(high)}); "
        f"{_with_interval(drop.turned)} of {drop.count} images change"
    )


def _with_interval(share: Balanced) -> str:
    low, high = share.interval
    return f"{percent(share.value)} ({percent(low)} to {percent(high)})"


def percent(value: float | None) -> str:
    """Return a share as text without line breaks; "undefined" for None."""
    return "undefined" if value is None else f"{100 * value:.1f}\u00a0%".replace("-", "−")


def points(value: float | None) -> str:
    """Return a difference of shares in percentage points, as text without line breaks; "undefined" for None."""
    return "undefined" if value is None else f"{100 * value:.1f}\u00a0points".replace("-", "−")
