"""The public names of the package: what the parts that the reference lists have in ``__all__``."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_origin

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "zennit_isnet"
REFERENCE = ROOT / "docs" / "reference" / "api.rst"


def listed_modules() -> list[str]:
    """Modules that the reference has a page for."""
    return re.findall(r"^   (zennit_isnet(?:\.\w+)?)$", REFERENCE.read_text(encoding="utf-8"), flags=re.MULTILINE)


def parts() -> list[str]:
    """What users import from: the package, its folders, and the modules that say what is public in them."""
    folders = [".".join(path.parent.relative_to(ROOT).parts) for path in PACKAGE.rglob("__init__.py")]
    modules = [path for path in PACKAGE.glob("[a-z]*.py") if "__all__ = " in path.read_text(encoding="utf-8")]
    return [*folders, *(f"zennit_isnet.{path.stem}" for path in modules)]


def public_objects() -> Iterator[tuple[str, Any]]:
    """Full name and object, each object once."""
    seen: set[int] = set()
    for module_name in listed_modules():
        module = importlib.import_module(module_name)
        for name in module.__all__:
            found = getattr(module, name)
            # constants and type aliases have no docstring of their own
            documented = callable(found) and get_origin(found) is None
            if documented and id(found) not in seen:
                seen.add(id(found))
                yield f"{module_name}.{name}", found


def is_record(found: Any) -> bool:
    """Whether it is a result that users get and do not make."""
    return isinstance(found, type) and is_dataclass(found)
