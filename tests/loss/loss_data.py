"""The mask that the tests of losses share."""

import torch
from torch import Tensor


def left_half(images: int = 1, size: int = 4) -> Tensor:
    """Masks (N, 1, size, size) with the foreground on the left."""
    foreground = torch.zeros(images, 1, size, size)
    foreground[..., : size // 2] = 1
    return foreground
