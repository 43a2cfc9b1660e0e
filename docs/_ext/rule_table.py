"""The operations that composites have a rule for, read from the package itself.

The directive ``rule-table`` makes a table of them, with one row for each handler; ``rule-index`` lists the operations
alphabetically and links each to its row.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from itertools import groupby
from typing import Any, ClassVar

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


def anchor(kind: str, handler: Callable[..., Any]) -> str:
    """Return the id of a handler's row."""
    return f"rule-{kind}-{handler.__name__.replace('_', '-')}"


class RuleTable(SphinxDirective):
    """A table with one row for each handler, of those that propagate a signal or a relevance.

    ``:handlers:`` names the handlers of this table, or says ``rest`` for all that no earlier table of the page has.
    """

    required_arguments = 1
    option_spec: ClassVar = {"handlers": str.split}

    def run(self) -> list[nodes.Node]:
        (kind,) = self.arguments
        found = names_by_handler(TABLES[kind])
        known = {handler.__name__ for handler in found}
        shown: set[str] = self.env.temp_data.setdefault(f"rule-table {kind}", set())
        wanted = set(self.options.get("handlers", ["rest"]))
        if wanted == {"rest"}:
            wanted = known - shown
        if unknown := wanted - known:
            raise self.error(f"unknown handlers: {', '.join(sorted(unknown))}")
        shown |= wanted
        rows = {h: names for h, names in found.items() if h.__name__ in wanted}
        lines = [
            ".. list-table::",
            "   :header-rows: 1",
            "   :widths: 45 55",
            "",
            "   * - Rule",
            "     - Operations",
        ]
        for handler, names in rows.items():
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
        _, *drawn = container.findall(nodes.row)
        for handler, row in zip(rows, drawn, strict=True):
            row["ids"].append(anchor(kind, handler))
        return container.children


class RuleIndex(SphinxDirective):
    """All operations of a kind of composite from A to Z, each with a link to the row that has its rule."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        (kind,) = self.arguments
        rules = sorted(
            (name, anchor(kind, handler))
            for handler, names in names_by_handler(TABLES[kind]).items()
            for name in names
        )
        paragraphs = []
        for letter, group in groupby(rules, key=lambda rule: rule[0][0].upper()):
            paragraph = nodes.paragraph("", "", nodes.strong("", letter))
            for name, row in group:
                link = nodes.reference("", "", nodes.literal("", name), refid=row)
                paragraph += [nodes.Text(" "), link]
            paragraphs.append(paragraph)
        return [nodes.container("", *paragraphs, classes=["index"])]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("rule-table", RuleTable)
    app.add_directive("rule-index", RuleIndex)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
