"""Two images with a rectangle each as the foreground."""

import pytest
import torch
from torch import Tensor


@pytest.fixture
def images(generator: torch.Generator) -> Tensor:
    return torch.rand(2, 3, 6, 8, generator=generator)


@pytest.fixture
def masks() -> Tensor:
    masks = torch.zeros(2, 1, 6, 8)
    masks[0, :, 2:4, 3:6] = 1
    masks[1, :, 1:5, 1:3] = 1
    return masks


@pytest.fixture
def relevance(generator: torch.Generator) -> Tensor:
    return torch.randn(2, 6, 8, generator=generator)
