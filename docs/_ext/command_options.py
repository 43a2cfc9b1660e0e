"""The directive ``command-options``: a subcommand of ``zennit-isnet`` with its options, read from its parser."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Literal, get_args, get_origin
from unittest import mock

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from zennit_isnet_command import COMMANDS, main

FOREIGN = "--trainer"
"""Options with this prefix are Lightning's: listed with their defaults, and explained there."""

PARTS = {
    "--data": "zennit_isnet.training.MaskedImages",
    "--model": "zennit_isnet.training.ISNetClassifier",
}
"""Options with these prefixes are parameters of these classes."""

HEADINGS = {
    "": "Arguments",
    "--": "Options",
    "--data": "Images and masks",
    "--model": "Model and loss",
}
"""Titles of the groups of options, by prefix."""

MODULES = [
    f"zennit_isnet{part}"
    for part in ("", ".architectures", ".data", ".swap", ".training")
]
"""Where names in the texts of options are looked up."""


@cache
def parser_of(name: str) -> argparse.ArgumentParser:
    """Return the parser that shows the help of a subcommand."""
    seen: list[argparse.ArgumentParser] = []

    def keep(parser: argparse.ArgumentParser, file: object = None) -> None:
        seen.append(parser)

    with (
        mock.patch.object(argparse.ArgumentParser, "print_help", keep),
        mock.patch("logging.basicConfig"),
        contextlib.suppress(SystemExit),
    ):
        main([name, "--help"])
    (parser,) = seen
    return parser


def actions_of(name: str) -> Iterator[argparse.Action]:
    """Yield what a reader may type, without ``--help`` and the help of single options."""
    for action in parser_of(name)._actions:
        texts = action.option_strings
        linked = "applied on" in str(action.metavar)
        about = texts[:1] == ["-h"] or bool(texts and texts[0].endswith(".help"))
        if not (action.help == argparse.SUPPRESS or linked or about):
            yield action


def names_of(action: argparse.Action) -> list[str]:
    """Return the spellings of an option, without the variant that appends to a list."""
    return [text for text in action.option_strings if not text.endswith("+")]


def choices_of(action: argparse.Action) -> list[str]:
    """Return the allowed values, if there are few."""
    if action.choices is not None:
        return [str(choice) for choice in action.choices]
    kind = getattr(action, "_typehint", None)
    kinds = [kind, *get_args(kind)]
    return [
        str(value)
        for one in kinds
        if get_origin(one) is Literal
        for value in get_args(one)
    ]


def default_of(action: argparse.Action) -> str | None:
    """Return the default as YAML or the shell takes it; None if the text of the option says it."""
    stated = "default: " in (action.help or "") or action.nargs == 0
    absent = action.default in (None, argparse.SUPPRESS, "")
    if not hasattr(action, "_typehint") and (stated or absent):
        return None
    return None if action.default == argparse.SUPPRESS else json.dumps(action.default)


def linked(text: str) -> str:
    """Return a text with links to the public names in it."""

    def link(match: re.Match[str]) -> str:
        for module in MODULES:
            if match[1] in importlib.import_module(module).__all__:
                return f":py:obj:`~{module}.{match[1]}`"
        return f"``{match[1]}``"

    text = re.sub(r"\bNone\b", "``null``", " ".join(text.split()))
    return re.sub(r"(?<!`)`([^`]+)`(?!`)", link, text)


def described(action: argparse.Action) -> str:
    """Return the text of an option, with its values and its default."""
    (name,) = names_of(action)[-1:] or [action.dest]
    part = PARTS.get(name.partition(".")[0])
    text = linked(action.help or (f"See :py:class:`~{part}`." if part else ""))
    text = f"{text[:1].upper()}{text[1:]}".rstrip(".") + "."
    choices = choices_of(action)
    if not all(choice in text for choice in choices):
        text += " One of " + ", ".join(f"``{choice}``" for choice in choices) + "."
    default = default_of(action)
    return text if default is None else f"{text} Default: ``{default}``."


def value_of(action: argparse.Action) -> str:
    """Return the placeholder of an option's value."""
    # jsonargparse writes "\b[=flags]"
    metavar = action.metavar.strip("\b") if isinstance(action.metavar, str) else ""
    if action.nargs == 0 or metavar.startswith("[="):
        return metavar
    if isinstance(action.default, bool):
        return " BOOL"
    name = metavar if metavar.isupper() else action.dest.rpartition(".")[2].upper()
    return f" {name}" + (" ..." if action.nargs == "+" else "")


def synopsis(name: str) -> str:
    """Return the command with its positional arguments."""
    positional = [action for action in actions_of(name) if not action.option_strings]
    shown = [
        f"[{action.metavar}]" if action.nargs == "?" else str(action.metavar)
        for action in positional
    ]
    return " ".join(["$ zennit-isnet", name, *shown, "[OPTIONS]"])


def described_options(name: str) -> Iterator[str]:
    """Yield lines of reStructuredText for all arguments of a subcommand."""
    yield f".. program:: zennit-isnet {name}"
    groups = groups_of(name)
    for prefix, heading in HEADINGS.items():
        if groups.get(prefix):
            yield from ["", f".. rubric:: {heading}", ""]
        for action in groups.get(prefix, []):
            texts = names_of(action)
            shown = ", ".join(f"{text}{value_of(action)}" for text in texts)
            yield from [f".. option:: {shown or action.metavar}", ""]
            yield from [f"   {described(action)}", ""]
    if foreign := groups.get(FOREIGN):
        yield from ["", ".. rubric:: Lightning's trainer", ""]
        yield f"Parameters of Lightning's :py:class:`~lightning.pytorch.trainer.trainer.Trainer`, after ``{FOREIGN}.``,"
        yield "with their defaults here:"
        yield ""
        yield ", ".join(
            f"``{names_of(action)[0].removeprefix(FOREIGN)[1:]}: {default_of(action)}``"
            for action in foreign
            if action.dest != FOREIGN.strip("-")
        )


def groups_of(name: str) -> dict[str, list[argparse.Action]]:
    """Return the arguments of a subcommand by the prefix of their names."""
    groups: dict[str, list[argparse.Action]] = {}
    for action in actions_of(name):
        prefix = "".join(action.option_strings[:1]).partition(".")[0]
        known = prefix in (*PARTS, FOREIGN, "")
        groups.setdefault(prefix if known else "--", []).append(action)
    return groups


def description(name: str) -> Iterator[str]:
    """Yield what the help says before the options; indented examples become blocks."""
    for block in inspect.cleandoc(parser_of(name).description or "").split("\n\n"):
        if block.startswith("  "):
            yield ".. code-block:: console"
            yield ""
            yield from (f"   $ {line.strip()}" for line in block.splitlines())
        else:
            yield from linked(block).splitlines()
        yield ""


def options_of(name: str) -> set[tuple[str, ...]]:
    """Return the spellings of all options."""
    return {tuple(action.option_strings) for action in actions_of(name)}


class CommandOptions(SphinxDirective):
    """The description, the arguments and the options of a subcommand."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        if name not in COMMANDS:
            raise self.error(f"no subcommand {name!r}; there are {', '.join(COMMANDS)}")
        lines = [".. code-block:: console", "", f"   {synopsis(name)}", ""]
        if name == "test" and options_of(name) == options_of("train"):
            lines += ["Takes the options of ``zennit-isnet train``."]
        else:
            lines += [*description(name), *described_options(name)]
        container = nodes.container(classes=["command-options"])
        self.state.nested_parse(StringList(lines, source=__file__), 0, container)
        return container.children


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("command-options", CommandOptions)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
