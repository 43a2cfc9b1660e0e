"""Docstrings are written to be read in an editor; this escapes what reStructuredText takes for markup there."""

import re
from typing import Any

from sphinx.application import Sphinx

LITERAL = re.compile(r"(``.+?``|:math:`.+?`)")
CODE = re.compile(r"\s*(>>>|\.\.\. )")


def escape(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Escape ``*spatial`` in shapes, and absolute values such as ``|relevance|``, outside of formulas and code."""
    formula: int | None = None
    for number, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if formula is not None and line.strip() and indent <= formula:
            formula = None
        if line.lstrip().startswith(".. math::"):
            formula = indent
        if formula is None and not CODE.match(line):
            lines[number] = "".join(
                part
                if LITERAL.fullmatch(part)
                else re.sub(
                    r"(?<=, )\*(?=\w)|(?<!\w)\|(?=\w+\|)|(?<=\w)\|", r"\\\g<0>", part
                )
                for part in LITERAL.split(line)
            )


def setup(app: Sphinx) -> dict[str, bool]:
    # before numpydoc, which rearranges the docstring
    app.connect("autodoc-process-docstring", escape, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
