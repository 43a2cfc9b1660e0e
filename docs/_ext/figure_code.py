"""The directive ``figure-code``: Python code, and below it the Matplotlib figure that its last line evaluates to.

With the option ``:figure-only:`` the code is not shown, as where it needs what only these pages have.
"""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from matplotlib.figure import Figure
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

FOLDER = "_build/figures"


def figure_of(code: str) -> Figure:
    """Run the code and return the value of its last line."""
    module = ast.parse(code)
    last = module.body.pop()
    if not isinstance(last, ast.Expr):
        raise TypeError(
            f"the last line of a figure-code block must be an expression, got: {ast.unparse(last)}"
        )
    names: dict[str, object] = {}
    exec(compile(module, "<figure-code>", "exec"), names)
    figure = eval(compile(ast.Expression(last.value), "<figure-code>", "eval"), names)
    if not isinstance(figure, Figure):
        raise TypeError(
            f"the last line of a figure-code block must be a matplotlib Figure, got {figure!r}"
        )
    return figure


class FigureCode(SphinxDirective):
    """Shows the code and the picture."""

    has_content = True
    option_spec: ClassVar = {
        "alt": directives.unchanged_required,
        "figure-only": directives.flag,
    }

    def run(self) -> list[nodes.Node]:
        code = "\n".join(self.content)
        name = f"{hashlib.sha256(code.encode()).hexdigest()[:16]}.png"
        folder = Path(self.env.srcdir, FOLDER)
        folder.mkdir(parents=True, exist_ok=True)
        figure_of(code).savefig(folder / name, dpi=150)
        # relative to the page, as in an image directive
        depth = self.env.docname.count("/")
        picture = nodes.image(
            uri="../" * depth + f"{FOLDER}/{name}", alt=self.options["alt"]
        )
        shown = (
            []
            if "figure-only" in self.options
            else [nodes.literal_block(code, code, language="python")]
        )
        return [*shown, picture]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("figure-code", FigureCode)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
