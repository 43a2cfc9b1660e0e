"""The scripts of the study of ways of training, on a few digits."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from zennit_isnet.data import load_digits

SCRIPTS = Path(__file__).parents[2] / "benchmarks" / "bias"


@pytest.fixture(scope="session")
def few_digits() -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = load_digits()
    return images[::50], labels[::50]


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch, few_digits: tuple[torch.Tensor, torch.Tensor]) -> Iterator[Any]:
    """The scripts as modules, on a hundred digits: one step an epoch."""
    monkeypatch.syspath_prepend(SCRIPTS)
    names = [path.stem for path in SCRIPTS.glob("*.py")]
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    import attention
    import comparators
    import methods
    import runs
    import study
    import summary

    monkeypatch.setattr(runs, "digits", lambda: few_digits)
    yield {
        "attention": attention,
        "comparators": comparators,
        "methods": methods,
        "runs": runs,
        "study": study,
        "summary": summary,
    }
    for name in names:
        sys.modules.pop(name, None)
