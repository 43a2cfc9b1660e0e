"""The pictures of a report, as data that a page can hold."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from zennit_isnet.audit.report import AuditReport, Examples
from zennit_isnet.audit.verdict import percent
from zennit_isnet.plotting import heatmap_panel, share_by_class, share_histogram

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 4
"""Images in a panel: few enough to be seen on a phone."""

LONGEST_TITLE = 14


@dataclass(frozen=True)
class Picture:
    """A picture in a page.

    Attributes
    ----------
    source : str
        The PNG as a ``data:`` address.
    alt : str
        What it shows, for readers who do not see it.
    """

    source: str
    alt: str

    @classmethod
    def of(cls, figure: Figure, alt: str) -> Picture:
        """Draw a figure."""
        file = BytesIO()
        figure.savefig(file, format="png", dpi=110)
        return cls(f"data:image/png;base64,{b64encode(file.getvalue()).decode()}", alt)


def share_pictures(report: AuditReport) -> Iterator[Picture]:
    """Draw the histogram of shares, and the shares by class; nothing where no share is defined."""
    rows = [(row.share, row.label, row.area) for row in report.images if row.share is not None]
    if rows:
        shares, labels, areas = (list(column) for column in zip(*rows, strict=True))
        yield Picture.of(
            share_histogram({report.model: shares}, expected=areas),
            f"Histogram: share of |relevance| on the background of {len(rows)} images, {percent(report.share)} on "
            f"average; the background covers {percent(report.area)} of the area",
        )
        yield Picture.of(
            share_by_class(shares, labels, report.classes, expected=areas),
            "Share of |relevance| on the background by class: median, middle half and range of its images",
        )


def panels(report: AuditReport, examples: Examples, kind: str) -> Iterator[Picture]:
    """Draw the images, masks and heatmaps of examples, a few in a picture."""
    for start in range(0, len(examples.rows), COLUMNS):
        chosen = slice(start, start + COLUMNS)
        rows = [report.images[row] for row in examples.rows[chosen]]
        figure = heatmap_panel(
            examples.images[chosen],
            examples.masks[chosen],
            {"relevance": examples.relevance[chosen]},
            [f"#{start + i} · {_shortened(report.classes[row.label])}" for i, row in enumerate(rows, start=1)],
            colour_bar=False,
        )
        shown = "; ".join(f"{row.name}, class {report.classes[row.label]}, {percent(row.share)}" for row in rows)
        yield Picture.of(
            figure, f"{kind} {start + 1} to {start + len(rows)}: image, mask and heatmap of {shown} on the background"
        )


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST_TITLE else f"{name[: LONGEST_TITLE - 1]}…"
