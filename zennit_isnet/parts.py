"""Work on few images at a time, so that a CPU's cache holds what the steps of a formula read and write."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

PART = 2**17
"""Values of a tensor in a part, for each thread: half a megabyte of single precision, for a core's cache."""


def parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield views of corresponding images of tensors ``(N, …)``: few at a time on a CPU, all at once on accelerators.

    Besides the cache, this keeps temporary tensors small: for large ones an allocator asks the system for new memory,
    which takes longer than the arithmetic. The first tensor determines the number of images.
    """
    first = tensors[0]
    # images that are interleaved in memory gain nothing
    if not first.is_cpu or first.ndim < 2 or first.stride(0) < max(first.stride()):
        yield tensors
        return
    size = max(1, PART * torch.get_num_threads() // max(1, math.prod(first.shape[1:])))
    yield from zip(*(tensor.split(size) for tensor in tensors), strict=True)
