"""Tables of included Markdown, fitted to the page: no column without values, and long lists of models by family."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path

from sphinx.application import Sphinx

EMPTY = {"–", ""}
"""What a cell without a value holds."""

TABLE = re.compile(r"(?:^\|.*\|$\n?){3,}", flags=re.MULTILINE)

BY_FAMILY = "Image classifiers of torchvision"
"""Heading of the table whose models get a heading for each family."""

FAMILY = re.compile(r"(?:wide_)?[a-z]+")


def without_empty_columns(text: str) -> str:
    """Drop the columns of each table in which every row is empty."""

    def drop(match: re.Match[str]) -> str:
        head, rule, *rows = [_cells(line) for line in match[0].splitlines()]
        kept = [
            column
            for column in range(len(head))
            if any(row[column].strip() not in EMPTY for row in rows)
        ]
        lines = [[row[column] for column in kept] for row in (head, rule, *rows)]
        return "".join(f"|{'|'.join(line)}|\n" for line in lines)

    return TABLE.sub(drop, text)


def by_family(text: str) -> str:
    """Split the long table of models into one for each family, with headings and a line of links to them."""
    before, heading, after = text.partition(f"## {BY_FAMILY}\n")
    table = TABLE.search(after)
    if not heading or table is None:
        return text
    head, rule, *rows = table[0].splitlines()
    families = {
        family: list(group)
        for family, group in groupby(sorted(rows, key=_family), _family)
    }
    links = " · ".join(f"[{family}](#models-{family})" for family in families)
    parts = [
        "\n".join([f"(models-{family})=", "", f"### {family}", "", head, rule, *group])
        for family, group in families.items()
    ]
    split = "\n\n".join([links, *parts])
    return f"{before}{heading}{after[: table.start()]}{split}\n{after[table.end() :]}"


def _cells(line: str) -> list[str]:
    return re.split(r"(?<!\\)\|", line)[1:-1]


def _family(row: str) -> str:
    name = FAMILY.match(_cells(row)[0].strip(" `"))
    return name[0].rstrip("_").replace("_", "-") if name else "other"


def fit(app: Sphinx, file: Path, page: str, content: list[str]) -> None:
    """Change what has been read before it becomes part of a page."""
    if file.suffix == ".md" and "results" in file.parts:
        content[0] = by_family(without_empty_columns(content[0]))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("include-read", fit)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
