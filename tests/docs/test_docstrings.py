"""Every public name has a numpydoc docstring: parameters with types, results, errors, and an example."""

from __future__ import annotations

import ast
import importlib
import inspect
import textwrap
from typing import Any

import pytest
from numpydoc.docscrape import NumpyDocString
from numpydoc.validate import validate
from public_names import is_record, listed_modules, parts, public_objects

OBJECTS = dict(public_objects())
INTERNAL = {
    "zennit_isnet.command",
    "zennit_isnet.lrp.relevance",
    "zennit_isnet.lrp.signal",
}
"""Parts of which everything public is exported elsewhere."""

WRONG = {
    "GL08": "no docstring",
    "PR01": "a parameter without a description",
    "PR02": "a description without a parameter",
    "RT01": "no Returns",
}
"""Codes of numpydoc's validation that count here."""


def is_error(found: Any) -> bool:
    return isinstance(found, type) and issubclass(found, Exception)


def is_protocol(found: Any) -> bool:
    return bool(getattr(found, "_is_protocol", False))


def is_made_elsewhere(found: Any) -> bool:
    """Whether its docstring names the function that makes it, which has the parameters, errors and example."""
    return "Made by `" in (inspect.getdoc(found) or "")


def is_made_by_users(found: Any) -> bool:
    return not (is_error(found) or is_protocol(found) or is_made_elsewhere(found))


def names_of(check: Any) -> list[str]:
    return [name for name, found in OBJECTS.items() if check(found)]


def section(found: Any, name: str) -> list[Any]:
    return list(NumpyDocString(inspect.getdoc(found) or "")[name])


def raises(found: Any) -> bool:
    """Whether the body of a function, or of the constructor of a class, has a ``raise`` or calls a checker."""
    if isinstance(found, type):
        found = found.__dict__.get("__post_init__" if is_record(found) else "__init__")
    if found is None or not inspect.isfunction(found):
        return False
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(found)))
    except (OSError, SyntaxError):  # the constructor that a dataclass wrote
        return False
    called = {getattr(node.func, "id", "") for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return any(isinstance(node, ast.Raise) for node in ast.walk(tree)) or any(n.startswith("check_") for n in called)


def test_the_reference_lists_every_part() -> None:
    assert sorted([*listed_modules(), *INTERNAL]) == sorted(parts())


@pytest.mark.parametrize("module", listed_modules())
def test_a_part_says_what_it_is_for(module: str) -> None:
    assert len((importlib.import_module(module).__doc__ or "").strip()) > 20


@pytest.mark.parametrize("name", names_of(is_made_by_users))
def test_parameters_and_results_are_described(name: str) -> None:
    found = OBJECTS[name]
    # the fields of a record are attributes
    ignored = {"PR01"} if is_record(found) and section(found, "Attributes") else set()
    wrong = [f"{code} {text}" for code, text in validate(name)["errors"] if code in WRONG and code not in ignored]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", names_of(lambda found: not is_error(found)))
def test_parameters_have_types_or_say_where_they_are_described(name: str) -> None:
    untyped = [
        parameter.name
        for parameter in section(OBJECTS[name], "Parameters")
        if not parameter.type
        and not parameter.name.startswith("*")
        and not " ".join(parameter.desc).startswith(("As ", "See ", "For "))
    ]
    assert not untyped


@pytest.mark.parametrize("name", names_of(lambda found: is_made_by_users(found) and raises(found)))
def test_errors_are_described(name: str) -> None:
    assert section(OBJECTS[name], "Raises")


@pytest.mark.parametrize("name", names_of(lambda found: is_made_by_users(found) and not is_record(found)))
def test_there_is_an_example_that_runs(name: str) -> None:
    examples = "\n".join(section(OBJECTS[name], "Examples"))
    assert ">>> " in examples


@pytest.mark.parametrize("name", names_of(lambda found: isinstance(found, type)))
def test_public_methods_have_docstrings(name: str) -> None:
    own = [
        member
        for member, value in vars(OBJECTS[name]).items()
        if not member.startswith("_") and (callable(value) or isinstance(value, (property, classmethod, staticmethod)))
    ]
    assert not [member for member in own if not inspect.getdoc(getattr(OBJECTS[name], member))]
