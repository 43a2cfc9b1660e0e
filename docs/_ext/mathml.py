"""Formulas as MathML: every browser renders it without a network, a script or a font of ours."""

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

BAR = "<mo>&#x0007C;</mo>"
"""An absolute value's bar, which browsers space as if it were a relation."""


def mathml(formula: str, display: str = "inline") -> str:
    return convert(formula, display=display).replace(
        BAR, BAR.replace("<mo>", '<mo lspace="0" rspace="0">')
    )


def visit_math(self: HTML5Translator, node: nodes.math) -> None:
    self.body.append(mathml(node.astext()))
    raise nodes.SkipNode


def visit_displaymath(self: HTML5Translator, node: nodes.math_block) -> None:
    # scrolls inside of its own box where a formula is wider than a phone
    self.body.append(f'<div class="math-block">{mathml(node.astext(), "block")}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_displaymath, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
