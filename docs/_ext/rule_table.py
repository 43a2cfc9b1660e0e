"""The directive ``rule-table``: the operations that `LRPFlex` has a rule for, read from the package itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from zennit_isnet.lrp.signal.substitute import substitute
from zennit_isnet.lrp.signal.table import HANDLERS

INTERNAL = {substitute}
"""Not an operation of PyTorch."""


def names_by_handler() -> dict[Callable[..., Any], list[str]]:
    """Return the operations of each handler; functions, methods, operators and in-place variants share one name."""
    found: dict[Callable[..., Any], set[str]] = {}
    for operation, handler in HANDLERS.items():
        if operation not in INTERNAL:
            found.setdefault(handler, set()).add(operation.__name__)
    return {handler: sorted({name.strip("_") for name in _plain(names)}) for handler, names in found.items()}


def _plain(names: set[str]) -> set[str]:
    """Without the operators, where a handler has more than them."""
    return {name for name in names if not name.startswith("__")} or names


class RuleTable(SphinxDirective):
    """A table with one row for each handler."""

    def run(self) -> list[nodes.Node]:
        lines = [".. list-table::", "   :header-rows: 1", "   :widths: 45 55", "", "   * - Rule", "     - Operations"]
        for handler, names in names_by_handler().items():
            summary = (inspect.getdoc(handler) or handler.__name__).split("\n\n")[0].replace("\n", " ")
            lines += [f"   * - {summary}", "     - " + ", ".join(f"``{name}``" for name in names)]
        container = nodes.container()
        self.state.nested_parse(StringList(lines, source=__file__), 0, container)
        return container.children


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("rule-table", RuleTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
