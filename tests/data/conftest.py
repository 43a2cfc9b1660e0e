"""Real digits, loaded once, and written to files."""

from pathlib import Path

import pytest
from masked_files import Layout, write_layout
from torch import Tensor

from zennit_isnet.data import BackgroundBias, load_digits


@pytest.fixture(scope="session")
def all_digits() -> tuple[Tensor, Tensor]:
    return load_digits()


@pytest.fixture(scope="session")
def digits(all_digits: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Fifty digits of each class, which is enough for all properties but the documented sizes."""
    images, labels = all_digits
    return images[::10], labels[::10]


@pytest.fixture(scope="session")
def digit_pairs(digits: tuple[Tensor, Tensor]) -> BackgroundBias:
    """Fifty digits over photographs, 40×40 pixels; not to be changed."""
    return BackgroundBias(split="validation", bias="texture", size=40, source=digits)


@pytest.fixture
def layout(tmp_path: Path, digit_pairs: BackgroundBias) -> Layout:
    """Two images of each of two classes, with their masks."""
    return write_layout(tmp_path, digit_pairs)
