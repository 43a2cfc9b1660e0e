"""`MaskReport`: what `check_masks` found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

ProblemKind: TypeAlias = Literal[
    "unreadable", "missing", "values", "size", "empty", "all-foreground", "inverted", "unused-mask", "empty-class"
]


@dataclass(frozen=True)
class MaskProblem:
    """One thing that is wrong, or looks wrong.

    Attributes
    ----------
    kind : str
        ``"unreadable"`` image or mask file; ``"missing"`` mask; ``"values"`` that the data set's `binarize` does not
        allow; ``"size"`` other than the image's; ``"empty"`` mask without foreground; ``"all-foreground"`` mask, which
        is legal, but teaches nothing; ``"inverted"``, if most of the border is foreground, and a larger share of it
        than of the rest; ``"unused-mask"`` without an image; ``"empty-class"`` without images.
    name : str
        The image, or the mask or class if it is without images.
    detail : str
        What was found, with the names of the files.
    """

    kind: ProblemKind
    name: str
    detail: str


@dataclass(frozen=True)
class ClassCoverage:
    """Masks of the images of one class.

    Attributes
    ----------
    name : str
        The class, or ``"all"``.
    images, missing, empty, full : int
        Number of images, of those without a mask, with a mask without foreground, and with a mask without background.
    mean, lowest, highest : float
        Foreground's share of the image, in [0, 1], over the masks that could be read; NaN if there is none.
    """

    name: str
    images: int
    missing: int
    empty: int
    full: int
    mean: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class MaskReport:
    """Coverage by class, and all problems.

    Attributes
    ----------
    classes : tuple of ClassCoverage
        One for each class. With several labels an image counts for each of its classes.
    total : ClassCoverage
        The same for all images.
    problems : tuple of MaskProblem
        In the order of the images.
    """

    classes: tuple[ClassCoverage, ...]
    total: ClassCoverage
    problems: tuple[MaskProblem, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return not self.problems

    def __str__(self) -> str:
        rows = [("class", "images", "missing", "empty", "full", "mean", "min", "max"), *map(_cells, self.classes)]
        rows.append(_cells(self.total))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [
            "  ".join(
                [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
            )
            for row in rows
        ]
        if self.ok:
            return "\n".join([*lines, "no problems"])
        found = [f"{problem.kind}: {problem.detail}" for problem in self.problems]
        count = len(found)
        return "\n".join([*lines, f"{count} problem{'s' if count > 1 else ''}:", *(f"  - {line}" for line in found)])


def _cells(row: ClassCoverage) -> tuple[str, ...]:
    counts = (row.images, row.missing, row.empty, row.full)
    return (row.name, *map(str, counts), *(f"{share:.1%}" for share in (row.mean, row.lowest, row.highest)))
