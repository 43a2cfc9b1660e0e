"""The nets are those of the regularizer's tests; one pair of processes runs everything that needs two."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "regularizer"))

import scenarios
from processes import run_in_processes


@pytest.fixture(scope="session")
def found(tmp_path_factory):
    """What each scenario found, by name and rank."""
    by_rank = run_in_processes(scenarios.run, tmp_path_factory.mktemp("group"))
    return {name: [result[name] for result in by_rank] for name in by_rank[0]}
