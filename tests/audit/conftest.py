"""Data whose cues are known, and models that read one of them."""

import pytest
from audit_data import CORNER, OBJECT, Cued, reader
from torch import nn


@pytest.fixture
def data() -> Cued:
    return Cued()


@pytest.fixture
def background_reader() -> nn.Sequential:
    return reader(*CORNER)


@pytest.fixture
def foreground_reader() -> nn.Sequential:
    return reader(*OBJECT)
