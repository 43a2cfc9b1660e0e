"""A report as Markdown, and as one HTML page."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, get_args

from zennit_isnet.audit.backgrounds import Version
from zennit_isnet.audit.report import AuditReport
from zennit_isnet.audit.verdict import percent, points
from zennit_isnet.errors import import_optional

VERSIONS: dict[Version, str] = {
    "kept": "unchanged images",
    "swapped": "background from an image of another class",
    "same_class": "background from another image of the same class",
    "mean": "background in the mean colour of the data",
    "black": "background black",
    "removed": "background alone, object painted over",
}
"""What each version is called in a report."""


def html(report: AuditReport) -> str:
    """Return the report as a page that needs no other file; all names are escaped.

    Raises
    ------
    MissingDependencyError
        If Jinja or Matplotlib is not installed.
    """
    environment = _environment()
    # Matplotlib is needed for the page only
    from zennit_isnet.audit.pictures import panels, share_pictures

    page: str = environment.get_template("report.html").render(
        **_context(report),
        share_pictures=list(share_pictures(report)),
        worst_panels=list(panels(report, report.worst, "Worst images")),
        random_panels=list(panels(report, report.random, "Random images")),
    )
    return page


def markdown(report: AuditReport) -> str:
    """Return the report without pictures.

    Raises
    ------
    MissingDependencyError
        If Jinja is not installed.
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
    environment.filters["percent"] = percent
    environment.filters["points"] = points
    environment.filters["cell"] = escaped_cell
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
