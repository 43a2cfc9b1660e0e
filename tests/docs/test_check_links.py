"""The link check of the built documentation finds what is broken, and nothing else."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

CHECK = Path(__file__).parents[2] / "docs" / "check_links.py"


@pytest.fixture
def broken_links():
    return runpy.run_path(str(CHECK))["broken_links"]


def write(root: Path, **pages: str) -> None:
    for name, body in pages.items():
        (root / f"{name}.html").write_text(f"<html><body>{body}</body></html>", encoding="utf-8")


def test_good_links_pass(broken_links, tmp_path):
    write(
        tmp_path,
        one='<h1 id="top">One</h1><a href="two.html#part">two</a><a href="#top">up</a><a href="https://a.b/#c">far</a>',
        two='<a id="part"></a><img src="one.html">',
    )
    assert broken_links(tmp_path) == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('<a href="three.html">', "one.html: no file three.html"),
        ('<img src="gone.png">', "one.html: no file gone.png"),
        ('<a href="two.html#gone">', "one.html: no anchor two.html#gone"),
        ('<a href="#gone">', "one.html: no anchor #gone"),
    ],
)
def test_broken_links_are_named(broken_links, tmp_path, body, message):
    write(tmp_path, one=body, two="")
    assert broken_links(tmp_path) == [message]


def test_nothing_built_is_an_error(broken_links, tmp_path):
    assert broken_links(tmp_path) == [f"{tmp_path} has no pages"]
