"""The report as a page, as Markdown and as JSON."""

from __future__ import annotations

import json
import sys
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from audit_data import CORNER, Cued, Listed, reader

from zennit_isnet.audit import AuditReport, audit
from zennit_isnet.errors import MissingDependencyError

VOID = {"meta", "img"}
EVIL = '<script>alert("x")</script> | `$a_b$`\n# x.png'


class Page(HTMLParser):
    """The elements of a page, and whether they are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.pictures: list[dict] = []
        self.addresses: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append(tag)
        values = dict(attributes)
        self.addresses += [values[key] for key in ("src", "href") if key in values]
        if tag == "img":
            self.pictures.append(values)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def report() -> AuditReport:
    """A report whose names do their worst."""
    data = Cued(count=10)
    listed = Listed([data[i] for i in range(10)], [f"{i} {EVIL}" for i in range(10)])
    classes = [f"<b>cat</b> {EVIL}", "dog $_$"]
    return audit(reader(*CORNER), listed, classes=classes, examples=5, names=(EVIL, EVIL), progress=False)


@pytest.fixture(scope="module")
def html(report: AuditReport) -> str:
    return report.to_html()


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_page_is_well_formed_and_needs_no_other_file(page: Page) -> None:
    assert page.open == []
    assert len(page.addresses) == len(page.pictures)
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)


def test_page_holds_every_picture_with_a_text(page: Page) -> None:
    # histogram and classes, then two panels each of the five worst and the five random images
    assert len(page.pictures) == 6
    for picture in page.pictures:
        assert b64decode(picture["src"].partition(",")[2]).startswith(b"\x89PNG")
        assert len(picture["alt"]) > 20
    assert "Worst images 5 to 5" in page.pictures[3]["alt"]


def test_names_are_escaped(page: Page, html: str) -> None:
    assert {"script", "b"}.isdisjoint(page.tags)
    assert "&lt;script&gt;" in html


def test_names_stay_one_cell_of_markdown(report: AuditReport) -> None:
    text = report.to_markdown()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    columns = {row.replace("\\|", "").count("|") for row in rows if "x.png" in row and row.startswith(("| 1 ", "| 2 "))}
    assert columns == {7}
    assert "<script>" not in text.replace("\\<", "")
    assert text.count("\n# ") == 0


def test_verdict_criteria_and_figures_stand_in_page_and_markdown(report: AuditReport, html: str) -> None:
    for text in (html, report.to_markdown()):
        assert f"Verdict: {report.verdict.outcome}" in text
        assert all(criterion in text for criterion in report.verdict.criteria)
        assert "background from an image of another class" in text
        assert "A low share is not evidence" in text


def test_json_says_what_the_report_says(report: AuditReport) -> None:
    found = json.loads(report.to_json())
    assert found["verdict"]["outcome"] == report.verdict.outcome
    assert found["accuracy"]["swapped"]["value"] == report.accuracy("swapped").value
    assert [row["name"] for row in found["images"]] == [row.name for row in report.images]
    assert found["background_share"] == report.share == 1


def test_files_hold_what_is_returned(report: AuditReport, tmp_path: Path) -> None:
    for kind in ("json", "markdown"):
        text = getattr(report, f"to_{kind}")(tmp_path / kind)
        assert (tmp_path / kind).read_text(encoding="utf-8") == text


def test_page_of_grey_images_without_any_relevance_is_written(tmp_path: Path) -> None:
    data = Cued(count=4)
    grey = Listed([(image[:1], mask, label) for image, mask, label in (data[i] for i in range(4))], list("abcd"))
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 2))
    torch.nn.init.zeros_(model[1].weight)
    report = audit(model, grey, examples=1, progress=False)
    report.to_html(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "The share is undefined for 4 images" in text
    assert len(Page(text).pictures) == 1  # the image drawn at random; there is no share to show


@pytest.mark.parametrize("package", ["jinja2", "matplotlib", "scipy"])
def test_missing_package_is_named(report: AuditReport, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    module = {"matplotlib": "matplotlib.figure", "scipy": "scipy.stats"}.get(package, package)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=f"pip install {package}"):
        report.to_html()
