"""The package's own papers agree with each other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]


def first_match(pattern: str, file: str) -> str:
    match = re.search(pattern, (ROOT / file).read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert match is not None, f"{file} has no line like {pattern!r}"
    return match.group(1)


@pytest.mark.parametrize(
    ("file", "pattern"),
    [("CITATION.cff", r"^version: (\S+)$"), ("CHANGELOG.md", r"^## \[(\d[^\]]*)\]")],
)
def test_version_is_that_of_the_project_file(file: str, pattern: str) -> None:
    assert first_match(pattern, file) == first_match(r'^version = "([^"]+)"$', "pyproject.toml")


def test_citation_has_what_readers_of_its_format_need() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for paper in citation["references"]:
        assert {"type", "title", "authors", "journal", "volume", "year", "doi"} <= paper.keys()
        assert all({"family-names", "given-names"} <= author.keys() for author in paper["authors"])
        assert f"https://doi.org/{paper['doi']}" in readme


def test_changelog_keeps_its_form() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\]( - \d{4}-\d{2}-\d{2})?", heading) for heading in headings[1:])
    kinds = re.findall(r"^### (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_package_tells_type_checkers_that_it_is_typed() -> None:
    assert (ROOT / "zennit_isnet" / "py.typed").is_file()
