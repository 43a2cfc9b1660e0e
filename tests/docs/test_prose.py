"""The words of pages, docstrings and messages: turns that make a native reader stumble, named with file and line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PAGES = [
    *ROOT.glob("*.md"),
    *(file for file in ROOT.glob("docs/**/*.md") if "_build" not in file.parts and "auto_examples" not in file.parts),
]
CODE = [
    ROOT / "zennit_isnet_command.py",
    *(file for folder in ("zennit_isnet", "examples", "benchmarks") for file in ROOT.glob(f"{folder}/**/*.py")),
    *ROOT.glob("docs/gallery/**/*.py"),
]
TEMPLATES = [*ROOT.glob("zennit_isnet/**/templates/*")]

TURNS = {
    r"(?<!there)(?<!\s) (?:is|are|was|were) no (?!(?:longer|more|less|such)\b)[a-z]+": "is not a …",
    r"\bsuch that\b": "so that",
    r"\bin the place of\b": "instead of",
    r"\b(?:look|looks|looked) into\b": "leaf module, or detached",
    r"\b(?:that|those) of the other'?s?\b": "name it",
    r"\bhand(?:s|ed|ing)? in\b": "pass",
    r"\bspeaks? (?:for|against)\b": "is evidence for",
    r"(?<!the )\b(?:inside|outside) of (?:a|an|the|it|its|this|that|\[|`)": "inside, outside",
    r"\bcounts? alike\b": "counts equally",
    r"\bgets? (?:its|their|his) \w+ back\b": "is restored",
    r"\bgoes? on (?:with|from)\b": "continues, resumes",
    r"\bas it stands\b": "leave it out",
    r"\bwhat it is that\b": "what",
    r"\bmade [\d.]+ % out of\b": "from … to …",
    r"\ban uint\d": "a uint",
}
"""Patterns in one case, with what to write instead. A space also stands for a line break."""

NUMPYDOC = {
    r"(?m)^ +[\w*, ]+ : .*, default(?!=)": "default=…",
    r"\bDefault(?: None)?:": "If None, …",
}
"""The one form of defaults in docstrings."""

MESSAGES = {r", got (?=\{|one\b|an? |no )": "; got …"}
"""The one form of what an error got."""


SPACE = r"\s+(?:# )?"


def flexible(patterns: dict[str, str]) -> dict[str, str]:
    """Let a pattern ignore case, and match a line break, also of a comment, for each space."""
    lookbehinds = re.compile(r"(\(\?<![^)]*\))| ")
    return {f"(?i){lookbehinds.sub(lambda m: m[1] or SPACE, p)}": instead for p, instead in patterns.items()}


def found(files: list[Path], patterns: dict[str, str]) -> Iterator[str]:
    for file in files:
        text = file.read_text(encoding="utf-8")
        for pattern, instead in patterns.items():
            for hit in re.finditer(pattern, text):
                line = text.count("\n", 0, hit.start() + len(hit[0]) - len(hit[0].lstrip())) + 1
                words = " ".join(hit[0].split())
                yield f"{file.relative_to(ROOT)}:{line}: {words!r}; write: {instead}"


@pytest.mark.parametrize("files", [PAGES, CODE, TEMPLATES], ids=["pages", "code", "templates"])
def test_no_turn_makes_a_native_reader_stumble(files: list[Path]) -> None:
    assert files
    hits = [*found(files, flexible(TURNS))]
    assert not hits, "\n".join(hits)


def test_defaults_and_messages_have_one_form() -> None:
    hits = [*found(CODE, NUMPYDOC | MESSAGES)]
    assert not hits, "\n".join(hits)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("It is no picture.", 1),
        ("There is no mask; take the inside of a ring.", 0),
        ("It is no longer there, and there\nis no mask.", 0),
        ("Wrapped such\nthat it returns one.", 1),
        ("    # in the\n    # place of LRP", 1),
        ("outside of the box, outside the box", 1),
    ],
)
def test_turns_are_found_across_lines(text: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "page.md"
    file.write_text(text, encoding="utf-8")
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert len([*found([file], flexible(TURNS))]) == count
