"""Real digits, loaded once."""

import pytest
from torch import Tensor

from zennit_isnet.data import load_digits


@pytest.fixture(scope="session")
def all_digits() -> tuple[Tensor, Tensor]:
    return load_digits()


@pytest.fixture(scope="session")
def digits(all_digits: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Fifty digits of each class, which is enough for all properties but the documented sizes."""
    images, labels = all_digits
    return images[::10], labels[::10]
