"""Shares of images, and how far chance may have moved them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Z = 1.959964
"""Quantile of the normal distribution: 95 % lie within ± Z."""


@dataclass(frozen=True)
class Proportion:
    """How many of some images have a property, such as a right prediction.

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

    @classmethod
    def of(cls, outcomes: Sequence[bool]) -> Proportion:
        """Count outcomes."""
        return cls(sum(outcomes), len(outcomes))

    @property
    def value(self) -> float | None:
        """The share; None without images."""
        return self.part / self.count if self.count else None

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval; (0, 1) without images.

        References
        ----------
        Wilson: Probable inference, the law of succession, and statistical inference. J. Am. Stat. Assoc. 22, 1927.
        """
        if not self.count:
            return 0.0, 1.0
        n, p = self.count, self.part / self.count
        centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
        half = Z / (1 + Z**2 / n) * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
        return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Drop:
    """How much accuracy is lost when each of some images is altered.

    Parameters
    ----------
    right : int
        Images that are right before.
    lost, gained : int
        Images that turn: right before only, and after only.
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
    def of(cls, before: Sequence[bool], after: Sequence[bool]) -> Drop:
        """Compare outcomes for the same images."""
        pairs = list(zip(before, after, strict=True))
        return cls(sum(before), pairs.count((True, False)), pairs.count((False, True)), len(pairs))

    @property
    def before(self) -> Proportion:
        """Accuracy before."""
        return Proportion(self.right, self.count)

    @property
    def after(self) -> Proportion:
        """Accuracy after."""
        return Proportion(self.right - self.lost + self.gained, self.count)

    @property
    def turned(self) -> Proportion:
        """Share of images that turn from right to wrong or back; what accuracy does not show where both are many."""
        return Proportion(self.lost + self.gained, self.count)

    @property
    def value(self) -> float | None:
        """Accuracy before minus accuracy after; None without images."""
        return (self.lost - self.gained) / self.count if self.count else None

    @property
    def interval(self) -> tuple[float, float]:
        """Agresti and Min's 95 % interval for matched pairs, which adds half an image to each outcome; at most ± 1.

        Unlike the textbook interval it does not shrink to a point where few images all agree.

        References
        ----------
        Agresti, Min: Simple improved confidence intervals for comparing matched proportions. Stat. Med. 24, 2005.
        """
        n, lost, gained = self.count + 2, self.lost + 0.5, self.gained + 0.5
        centre = (lost - gained) / n
        half = Z * math.sqrt(lost + gained - (lost - gained) ** 2 / n) / n
        return max(-1.0, centre - half), min(1.0, centre + half)
