"""A report as Markdown, and as one HTML page with its pictures."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from importlib.metadata import version
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from zennit_isnet.audit.report import AuditReport, Examples, Version
from zennit_isnet.audit.verdict import percent, points
from zennit_isnet.errors import import_optional
from zennit_isnet.plotting import heatmap_panel, share_by_class, share_histogram

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VERSIONS: dict[Version, str] = {
    "kept": "unchanged images",
    "swapped": "background from an image of another class",
    "same_class": "background from another image of the same class",
    "mean": "background in the mean colour of the data",
    "black": "background black",
    "removed": "background alone, object painted over",
}
"""What each version is called in a report."""

COLUMNS = 4
"""Images in a panel: few enough to be seen on a phone."""

LONGEST_TITLE = 14


def html(report: AuditReport) -> str:
    """Return the report as a page that needs no other file; all names are escaped.

    Raises
    ------
    MissingDependencyError
        If Jinja, Matplotlib or SciPy is not installed.
    """
    template = _environment().get_template("report.html")
    worst = list(panels(report, report.worst, "Worst images"))
    drawn = list(panels(report, report.random, "Random images"))
    shares = list(share_pictures(report))
    page: str = template.render(**_context(report), share_pictures=shares, worst_panels=worst, random_panels=drawn)
    return page


def markdown(report: AuditReport) -> str:
    """Return the report without pictures.

    Raises
    ------
    MissingDependencyError
        If Jinja or SciPy is not installed.
    """
    text: str = _environment().get_template("report.md").render(**_context(report))
    return text


def _environment() -> Any:
    jinja2 = import_optional("jinja2", "jinja2", extra="audit")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("zennit_isnet.audit"),
        autoescape=jinja2.select_autoescape(),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(percent=percent, points=points, cell=escaped_cell)
    return environment


def escaped_cell(text: str) -> str:
    """Return a name such that it stays one plain cell of a Markdown table."""
    for character in "\\`*_{}[]<>#|~$":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


def _context(report: AuditReport) -> dict[str, Any]:
    found = {name: (report.accuracy(name), report.drop(name)) for name in get_args(Version)}
    return {
        "report": report,
        "verdict": report.verdict,
        "versions": [(name, VERSIONS[name], accuracy, drop) for name, (accuracy, drop) in found.items()],
        "classes": report.by_class,
        "worst": [(place, report.images[row]) for place, row in enumerate(report.worst.rows, start=1)],
        "random": [(place, report.images[row]) for place, row in enumerate(report.random.rows, start=1)],
        "package_version": version("zennit-isnet"),
    }


class Picture(NamedTuple):
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
