"""Small batches of images with masks."""

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor


def batch(count: int, size: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Return random images and boolean masks, each with foreground and with background."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, *size, generator=generator, dtype=torch.float64)
    images = (256 * images).to(dtype) if not dtype.is_floating_point else images.to(dtype)
    masks = torch.rand(count, 1, *size, generator=generator) < 0.5
    masks.view(count, -1)[:, 0] = True
    masks.view(count, -1)[:, -1] = False
    return images, masks


sizes = st.one_of(
    st.tuples(st.integers(2, 9), st.integers(2, 9)), st.tuples(st.integers(1, 3), st.integers(2, 5), st.integers(2, 5))
)
seeds = st.integers(0, 2**16)
counts = st.integers(1, 6)

some = settings(deadline=None, max_examples=40)
"""No deadline: it would fail where other processes keep the processor busy."""
