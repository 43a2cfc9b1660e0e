"""The result of an audit: one row per image, the figures computed from them, and the report pages."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor

from zennit_isnet.audit.verdict import Balanced, Drop, Proportion, Verdict, judge, percent, points
from zennit_isnet.data.mask_check import TELLING, size_auc, size_ranks
from zennit_isnet.errors import import_optional
from zennit_isnet.plotting import heatmap_panel, share_by_class, share_histogram

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Version: TypeAlias = Literal["kept", "swapped", "same_class", "mean", "black", "removed"]

VERSIONS: dict[Version, str] = {
    "kept": "unchanged images",
    "swapped": "background from an image of another class",
    "same_class": "background from another image of the same class",
    "mean": "background in the mean colour of the images",
    "black": "background black",
    "removed": "background alone, object removed",
}
"""Names of the versions in a report."""

COLUMNS = 4
"""Images per panel: few enough for a phone screen."""


@dataclass(frozen=True)
class ImageResult:
    """The model's results for one image.

    Attributes
    ----------
    name : str
        Its file, or its index in the data set.
    label : int
        Its class.
    area : float
        Fraction of its pixels in the background; uniform relevance would have this share.
    share : float or None
        Share of the predicted class's |relevance| on the background; None if there is no relevance at all.
    predictions : dict of str to int or None
        The predicted class of each version of the image; None for a version that could not be made.
    """

    name: str
    label: int
    area: float
    share: float | None
    predictions: dict[Version, int | None]

    def right(self, version: Version) -> bool | None:
        """Whether the prediction for a version is correct; None if there is no such version."""
        prediction = self.predictions[version]
        return None if prediction is None else prediction == self.label


@dataclass(frozen=True)
class Examples:
    """Images shown in the report.

    Attributes
    ----------
    rows : tuple of int
        Their indices among the report's images.
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
        The class.
    images : int
        Their number.
    accuracy, swapped_accuracy : float or None
        On the images' own background and on another class's; None if nothing could be tested.
    background_share : float or None
        Mean share of |relevance| on the background; None if it is undefined for all of them.
    background_area : float
        Mean background fraction of the image area.
    size_auc : float or None
        Probability that an image of this class has a larger object than one of another class, with ties counted as one
        half. 0.5 if size does not distinguish the class; None without other classes.
    """

    name: str
    images: int
    accuracy: float | None
    swapped_accuracy: float | None
    background_share: float | None
    background_area: float
    size_auc: float | None


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
        The largest change of accuracy that still counts as no change.
    worst, random : Examples
        The images with the highest shares of |relevance| on the background, and some drawn at random.
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
        """Mean share of |relevance| on the background; None if it is undefined for all images."""
        defined = [row.share for row in self.images if row.share is not None]
        return fmean(defined) if defined else None

    @property
    def area(self) -> float:
        """Mean background fraction of the image area, which is the share of uniform relevance."""
        return fmean(row.area for row in self.images)

    @property
    def undefined(self) -> int:
        """Number of images without relevance, whose share is undefined."""
        return sum(row.share is None for row in self.images)

    @property
    def chance(self) -> float:
        """Balanced accuracy of always predicting one class."""
        return 1 / len(self._by_label)

    def accuracy(self, version: Version) -> Balanced:
        """Balanced accuracy on one version of the images, over those for which it could be made."""
        of_classes = [[row.right(version) for row in rows] for rows in self._by_label.values()]
        return Balanced(tuple(Proportion(found.count(True), len(found) - found.count(None)) for found in of_classes))

    def drop(self, version: Version, since: Version = "kept") -> Balanced:
        """Loss of accuracy from one version of the images to another, over those for which both could be made."""
        of_classes = [[(row.right(since), row.right(version)) for row in rows] for rows in self._by_label.values()]
        return Balanced(tuple(Drop.of(pairs) for pairs in of_classes))

    @property
    def _by_label(self) -> dict[int, list[ImageResult]]:
        """The rows of each class with images, in the order of the classes."""
        found: dict[int, list[ImageResult]] = {}
        for row in sorted(self.images, key=lambda row: row.label):
            found.setdefault(row.label, []).append(row)
        return found

    @property
    def verdict(self) -> Verdict:
        """Whether the model relies on the background, and the evidence."""
        swapped, by_class = self.drop("swapped"), self.drop("swapped", since="same_class")
        return judge(self.accuracy("kept"), self.chance, swapped, by_class, self.tolerance)

    @property
    def by_class(self) -> tuple[ClassResult, ...]:
        """One row for each class with images."""
        found = []
        for label, rows in self._by_label.items():
            part = replace(self, images=tuple(rows))
            kept, swapped = part.accuracy("kept").value, part.accuracy("swapped").value
            figures = len(part.images), kept, swapped, part.share, part.area, self._size_auc(label)
            found.append(ClassResult(self.classes[label], *figures))
        return tuple(found)

    def _size_auc(self, label: int) -> float | None:
        sizes = torch.tensor([1 - row.area for row in self.images], dtype=torch.float64)
        own = torch.tensor([row.label == label for row in self.images])
        return None if own.all() else size_auc(size_ranks(sizes), own)

    def to_dict(self) -> dict[str, Any]:
        """Return all but the images as plain numbers, strings, lists and dictionaries; None where undefined."""
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
                for version in VERSIONS
            },
            "chance": self.chance,
            "tolerance": self.tolerance,
            "background_share": self.share,
            "background_area": self.area,
            "undefined_shares": self.undefined,
            "left_out": self.left_out,
            "classes": [asdict(row) for row in self.by_class],
            "images": [asdict(row) for row in self.images],
        }

    def to_json(self, path: str | Path | None = None) -> str:
        """Return `to_dict` as JSON, and write it to `path` if given.

        Raises
        ------
        MissingDependencyError
            If SciPy is not installed; the extra ``audit`` installs it.
        """
        return _written(json.dumps(self.to_dict(), indent=2, ensure_ascii=False), path)

    def to_markdown(self, path: str | Path | None = None) -> str:
        """Return the report without images as Markdown, and write it to `path` if given.

        Raises
        ------
        MissingDependencyError
            If Jinja or SciPy is not installed; the extra ``audit`` installs both.
        """
        return _written(_rendered(self, "report.md"), path)

    def to_html(self, path: str | Path | None = None) -> str:
        """Return the report with images as one HTML page, and write it to `path` if given.

        The page is self-contained, and all names in it are escaped.

        Raises
        ------
        MissingDependencyError
            If Jinja, Matplotlib or SciPy is not installed; the extra ``audit`` installs them.
        """
        return _written(_rendered(self, "report.html"), path)


def _written(text: str, path: str | Path | None) -> str:
    if path is not None:
        Path(path).write_text(text, encoding="utf-8")
    return text


def _rendered(report: AuditReport, template: str) -> str:
    jinja2 = import_optional("jinja2", "jinja2", extra="audit")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("zennit_isnet.audit"),
        autoescape=jinja2.select_autoescape(),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(percent=percent, points=points, cell=_escaped_cell)
    environment.globals.update(share_pictures=_share_pictures, panels=_panels, telling_sizes=_telling_sizes)
    text: str = environment.get_template(template).render(
        report=report,
        versions=[(key, name, report.accuracy(key), report.drop(key)) for key, name in VERSIONS.items()],
        package_version=version("zennit-isnet"),
    )
    return text


def _escaped_cell(text: str) -> str:
    """Return a name escaped for one cell of a Markdown table."""
    return " ".join(re.sub(r"([\\`*_{}\[\]<>#|~$])", r"\\\1", text).split())


def _telling_sizes(report: AuditReport) -> list[ClassResult]:
    """Return the classes whose objects are clearly larger or smaller than those of other classes."""
    return [row for row in report.by_class if row.size_auc is not None and abs(row.size_auc - 0.5) >= TELLING]


def _share_pictures(report: AuditReport) -> Iterator[tuple[str, str]]:
    """Draw the histogram of shares and the shares by class; nothing if no share is defined."""
    rows = [(row.share, row.label, row.area) for row in report.images if row.share is not None]
    if rows:
        shares, labels, areas = (list(column) for column in zip(*rows, strict=True))
        yield _picture(
            share_histogram({report.model: shares}, expected=areas),
            f"Histogram: share of |relevance| on the background of {len(rows)} images, {percent(report.share)} on "
            f"average; the background covers {percent(report.area)} of the area",
        )
        yield _picture(
            share_by_class(shares, labels, report.classes, expected=areas),
            "Share of |relevance| on the background by class: median, middle half and range of its images",
        )


def _panels(report: AuditReport, examples: Examples, kind: str) -> Iterator[tuple[str, str]]:
    """Draw the images, masks and heatmaps of examples, a few per figure."""
    for start in range(0, len(examples.rows), COLUMNS):
        chosen = slice(start, start + COLUMNS)
        rows = [report.images[row] for row in examples.rows[chosen]]
        figure = heatmap_panel(
            examples.images[chosen],
            examples.masks[chosen],
            {"relevance": examples.relevance[chosen]},
            [f"#{place} · {report.classes[row.label]:.14}" for place, row in enumerate(rows, start=start + 1)],
            colour_bar=False,
        )
        shown = "; ".join(f"{row.name}, class {report.classes[row.label]}, {percent(row.share)}" for row in rows)
        places = f"{start + 1} to {start + len(rows)}"
        yield _picture(figure, f"{kind} {places}: image, mask and heatmap of {shown} on the background")


def _picture(figure: Figure, alt: str) -> tuple[str, str]:
    """Return a figure as a ``data:`` URL with its alternative text."""
    file = BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return f"data:image/png;base64,{b64encode(file.getvalue()).decode()}", alt
