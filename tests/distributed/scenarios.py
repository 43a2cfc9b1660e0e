"""What the two processes run, one after the other; tests compare it with one process that has all images."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from synchronized_nets import CASES, model_and_images, relevance_and_gradients, synchronized

DTYPES = {"float64": torch.float64, "float32": torch.float32}


def run(rank: int, world: int) -> dict[str, Any]:
    """Run all of them."""
    found: dict[str, Any] = {}
    for case in CASES:
        found[case] = synchronized_step(case, torch.float64, rank, world)
    found["float32"] = synchronized_step("LRPFlex", torch.float32, rank, world)
    return found


def synchronized_step(case: str, dtype: torch.dtype, rank: int, world: int) -> dict[str, Any]:
    """Relevance and gradients of one shard, with the statistics of all of them."""
    model, images = model_and_images(case, dtype)
    found = relevance_and_gradients(synchronized(model), case, images.chunk(world)[rank], len(images))
    for name, value in found.items():
        if name.startswith("gradient"):
            # by hand, because DistributedDataParallel refuses SyncBatchNorm on the CPU
            dist.all_reduce(value)
    return found
