"""What every test shares: one thread, fixed seeds, and a header that tells which versions are under test."""

from __future__ import annotations

import os
import random
from importlib.metadata import version

import numpy as np
import pytest
import torch

SEED = 0


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)
    expected = os.environ.get("EXPECTED_ZENNIT")
    if expected is not None and version("zennit") != expected:
        raise pytest.UsageError(f"these tests are to run with zennit {expected}, but found zennit {version('zennit')}")


def pytest_report_header(config: pytest.Config) -> str:
    return "under test with: " + ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "zennit"))


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    """Give each test the same global random state, whichever tests ran before it in this worker."""
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)


@pytest.fixture
def seed() -> int:
    """The seed of a test that makes its own generators."""
    return SEED


@pytest.fixture
def generator(seed: int) -> torch.Generator:
    """A CPU generator of the test's own, which nothing else draws from."""
    return torch.Generator().manual_seed(seed)
