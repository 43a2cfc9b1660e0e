"""The bibliography has every work that a docstring cites, under the same title."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

CITED = re.compile(r"^ *\.\. \[\d+\] [^\"]+\"([^\"]+)\"", flags=re.MULTILINE)
TITLE = re.compile(r"^ *title *= *\{(.+)\},$", flags=re.MULTILINE)


def plain(title: str) -> str:
    """A title without BibTeX's braces and without line breaks."""
    return " ".join(title.replace("{", "").replace("}", "").split())


KNOWN = {plain(title) for title in TITLE.findall((ROOT / "docs" / "references.bib").read_text(encoding="utf-8"))}
FILES = {file: file.read_text(encoding="utf-8") for file in sorted(ROOT.glob("zennit_isnet/**/*.py"))}


@pytest.mark.parametrize(
    ("file", "title"),
    sorted(
        {(file.relative_to(ROOT).as_posix(), plain(t)) for file, text in FILES.items() for t in CITED.findall(text)}
    ),
)
def test_a_cited_work_is_in_the_bibliography(file: str, title: str) -> None:
    assert title in KNOWN


def test_every_reference_of_a_docstring_has_a_title() -> None:
    for file, text in FILES.items():
        assert len(CITED.findall(text)) == len(re.findall(r"^ *\.\. \[\d+\] ", text, flags=re.MULTILINE)), file
