"""The directive ``rule-table``: the operations that composites have a rule for, read from the package itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from zennit_isnet.lrp.relevance import functions
from zennit_isnet.lrp.signal import table
from zennit_isnet.lrp.signal.substitute import substitute

TABLES = {"signal": table.HANDLERS, "relevance": functions.HANDLERS}

INTERNAL = {substitute}
"""Not an operation of PyTorch."""


def names_by_handler(
    handlers: Mapping[Any, Callable[..., Any]],
) -> dict[Callable[..., Any], list[str]]:
    """Return the operations of each handler; functions, methods, operators and in-place variants share one name."""
    found: dict[Callable[..., Any], set[str]] = {}
    for operation, handler in handlers.items():
        if operation not in INTERNAL:
            found.setdefault(handler, set()).add(operation.__name__)
    return {
        handler: sorted({name.strip("_") for name in _plain(names)})
        for handler, names in found.items()
    }


def _plain(names: set[str]) -> set[str]:
    """Without the operators, where a handler has more than them."""
    return {name for name in names if not name.startswith("__")} or names


class RuleTable(SphinxDirective):
    """A table with one row for each handler, of those that propagate a signal or a relevance."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        lines = [
            ".. list-table::",
            "   :header-rows: 1",
            "   :widths: 45 55",
            "",
            "   * - Rule",
            "     - Operations",
        ]
        for handler, names in names_by_handler(TABLES[self.arguments[0]]).items():
            summary = (
                (inspect.getdoc(handler) or handler.__name__)
                .split("\n\n")[0]
                .replace("\n", " ")
            )
            lines += [
                f"   * - {summary}",
                "     - " + ", ".join(f"``{name}``" for name in names),
            ]
        container = nodes.container()
        self.state.nested_parse(StringList(lines, source=__file__), 0, container)
        return container.children


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("rule-table", RuleTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
