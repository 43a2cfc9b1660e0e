"""Every Python block of the pages runs as it stands, from top to bottom of its page."""

from __future__ import annotations

import contextlib
import doctest
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "CONTRIBUTING.md", *(p for p in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in p.parts)]
SLOW = {"docs/how-to/lightning.md", "docs/how-to/video.md"}  # a second training framework; convolutions in 3D
SNIPPET = re.compile(
    r"^```(?P<kind>python|pycon)\n(?P<block>.*?)^```$|^<!-- setup\n(?P<setup>.*?)^-->$", flags=re.MULTILINE | re.DOTALL
)
"""What a page shows, and what it needs beforehand and does not show: a comment that begins with ``setup``."""


def snippets(page: Path) -> list[tuple[str, str, int]]:
    """Kind, code and line of each snippet."""
    text = page.read_text(encoding="utf-8")
    return [
        (match["kind"] or "python", match["block"] or match["setup"], text.count("\n", 0, match.start()) + 1)
        for match in SNIPPET.finditer(text)
    ]


def run(kind: str, code: str, page: Path, line: int, names: dict[str, object]) -> None:
    where = str(page.relative_to(ROOT))
    if kind == "python":
        # as many lines before as in the page, so that a traceback shows the right one
        exec(compile("\n" * line + code, where, "exec"), names)
        return
    # a console may end in a block, which a prompt of its own closes
    test = doctest.DocTestParser().get_doctest(code, names, where, where, line)
    runner = doctest.DebugRunner(optionflags=doctest.ELLIPSIS)
    runner.run(test, clear_globs=False)
    names.update(test.globs)


def cases() -> Iterator[Any]:
    for page in PAGES:
        name = str(page.relative_to(ROOT))
        if snippets(page):
            yield pytest.param(page, id=name, marks=[pytest.mark.slow] if name in SLOW else [])


@pytest.mark.parametrize("page", list(cases()))
def test_snippets_run(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": page.stem, "monkeypatch": monkeypatch}
    with contextlib.redirect_stdout(None):
        for kind, code, line in snippets(page):
            run(kind, code, page, line, names)


def test_unclosed_snippets_do_not_hide() -> None:
    for page in PAGES:
        opened = re.findall(r"^```(?:python|pycon)$|^<!-- setup$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert len(opened) == len(snippets(page)), page
