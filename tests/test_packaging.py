"""The package's own papers agree with each other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINE_LIMIT = 300
SOURCES = sorted((ROOT / "zennit_isnet").rglob("*.py"))


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


def test_package_tells_type_checkers_that_it_is_typed() -> None:
    assert (ROOT / "zennit_isnet" / "py.typed").is_file()


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_source_file_holds_one_concept_and_stays_short(source: Path) -> None:
    assert len(source.read_text(encoding="utf-8").splitlines()) <= LINE_LIMIT
