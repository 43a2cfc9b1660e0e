"""What an audit found: one row for each image, and what follows from the rows."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, TypeAlias, get_args

from torch import Tensor

from zennit_isnet.audit.verdict import Drop, Proportion, Verdict, judge

Version: TypeAlias = Literal["kept", "swapped", "same_class", "mean", "black", "removed"]


@dataclass(frozen=True)
class ImageResult:
    """What the model did with one image.

    Attributes
    ----------
    name : str
        Its file, or its place in the data set.
    label : int
        Its class.
    area : float
        The background's share of its pixels, which is the share that uniform relevance would have.
    share : float or None
        The background's share of |relevance| of the predicted class; None where the model gave no relevance at all.
    predictions : dict of str to int or None
        The predicted class of each version of the image; None for a version that could not be made.
    """

    name: str
    label: int
    area: float
    share: float | None
    predictions: dict[Version, int | None]

    def right(self, version: Version) -> bool | None:
        """Whether the prediction for a version is right; None where there is none."""
        prediction = self.predictions[version]
        return None if prediction is None else prediction == self.label


@dataclass(frozen=True)
class Examples:
    """Images to look at.

    Attributes
    ----------
    rows : tuple of int
        Their places among the report's images.
    images, masks, relevance : Tensor
        ``(n, C, H, W)`` in [0, 1], ``(n, 1, H, W)``, and signed relevance summed over channels ``(n, h, w)``; CPU.
    """

    rows: tuple[int, ...]
    images: Tensor
    masks: Tensor
    relevance: Tensor


@dataclass(frozen=True)
class ClassResult:
    """The images of one class.

    Attributes
    ----------
    name : str
    count : int
    kept, swapped : Proportion
        Accuracy on their own background and on that of another class.
    share, area : float or None
        Means over the images; the share is None where it is undefined for all of them.
    """

    name: str
    count: int
    kept: Proportion
    swapped: Proportion
    share: float | None
    area: float


@dataclass(frozen=True)
class AuditReport:
    """What `audit` found.

    Attributes
    ----------
    model, data : str
        What was audited.
    classes : tuple of str
        Names of the classes.
    images : tuple of ImageResult
        One row for each image that took part.
    left_out : int
        Number of images without a mask or without background.
    tolerance : float
        The largest change of accuracy that counts as none.
    worst, random : Examples
        The images with the highest shares of |relevance| on the background, and some that were drawn.
    """

    model: str
    data: str
    classes: tuple[str, ...]
    images: tuple[ImageResult, ...]
    left_out: int
    tolerance: float
    worst: Examples = field(repr=False, compare=False)
    random: Examples = field(repr=False, compare=False)

    @property
    def share(self) -> float | None:
        """Mean share of |relevance| on the background; None where it is undefined for all images."""
        defined = [row.share for row in self.images if row.share is not None]
        return fmean(defined) if defined else None

    @property
    def area(self) -> float:
        """Mean share of the background in the images' area: the share of uniform relevance."""
        return fmean(row.area for row in self.images)

    @property
    def undefined(self) -> int:
        """Number of images for which the model gave no relevance, so that the share is undefined."""
        return sum(row.share is None for row in self.images)

    @property
    def majority(self) -> float:
        """Share of the most frequent class: the accuracy of always naming it."""
        labels = [row.label for row in self.images]
        return max(labels.count(label) for label in set(labels)) / len(labels)

    def accuracy(self, version: Version) -> Proportion:
        """Accuracy on one version of the images, over those for which it could be made."""
        return Proportion.of([right for row in self.images if (right := row.right(version)) is not None])

    def drop(self, version: Version, since: Version = "kept") -> Drop:
        """Loss of accuracy from one version of the images to another, over those for which both could be made."""
        pairs = [(row.right(since), row.right(version)) for row in self.images]
        made = [(bool(before), bool(after)) for before, after in pairs if before is not None and after is not None]
        return Drop.of([before for before, _ in made], [after for _, after in made])

    @property
    def verdict(self) -> Verdict:
        """Whether the model relies on the background, and why we say so."""
        return judge(
            kept=self.accuracy("kept"),
            majority=self.majority,
            swapped=self.drop("swapped"),
            by_class=self.drop("swapped", since="same_class"),
            tolerance=self.tolerance,
        )

    @property
    def by_class(self) -> tuple[ClassResult, ...]:
        """One row for each class that has images."""
        found = []
        for label in sorted({row.label for row in self.images}):
            part = replace(self, images=tuple(row for row in self.images if row.label == label))
            kept, swapped = part.accuracy("kept"), part.accuracy("swapped")
            found.append(ClassResult(self.classes[label], len(part.images), kept, swapped, part.share, part.area))
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the pictures as plain numbers, strings, lists and dictionaries; undefined is None."""
        versions: tuple[Version, ...] = get_args(Version)
        return {
            "model": self.model,
            "data": self.data,
            "verdict": asdict(self.verdict),
            "accuracy": {
                version: {
                    "value": (found := self.accuracy(version)).value,
                    "interval": list(found.interval),
                    "images": found.count,
                    "drop": (drop := self.drop(version)).value,
                    "drop_interval": list(drop.interval),
                    "turned": drop.turned.value,
                }
                for version in versions
            },
            "majority": self.majority,
            "tolerance": self.tolerance,
            "background_share": self.share,
            "background_area": self.area,
            "undefined_shares": self.undefined,
            "left_out": self.left_out,
            "classes": [
                {
                    "name": row.name,
                    "images": row.count,
                    "accuracy": row.kept.value,
                    "swapped_accuracy": row.swapped.value,
                    "background_share": row.share,
                    "background_area": row.area,
                }
                for row in self.by_class
            ],
            "images": [asdict(row) for row in self.images],
        }

    def to_json(self, path: str | Path | None = None) -> str:
        """Return `to_dict` as JSON, and write it to `path` if there is one.

        Raises
        ------
        MissingDependencyError
            If SciPy is not installed; the extra ``audit`` has it.
        """
        return written(json.dumps(self.to_dict(), indent=2, ensure_ascii=False), path)

    def to_markdown(self, path: str | Path | None = None) -> str:
        """Return the report without pictures as Markdown, and write it to `path` if there is one.

        Raises
        ------
        MissingDependencyError
            If Jinja or SciPy is not installed; the extra ``audit`` has both.
        """
        from zennit_isnet.audit.rendering import markdown

        return written(markdown(self), path)

    def to_html(self, path: str | Path | None = None) -> str:
        """Return the report with its pictures as one HTML page, and write it to `path` if there is one.

        Raises
        ------
        MissingDependencyError
            If Jinja, Matplotlib or SciPy is not installed; the extra ``audit`` has them.
        """
        from zennit_isnet.audit.rendering import html

        return written(html(self), path)


def written(text: str, path: str | Path | None) -> str:
    """Write a text to a file in UTF-8, if there is one; return the text."""
    if path is not None:
        Path(path).write_text(text, encoding="utf-8")
    return text
