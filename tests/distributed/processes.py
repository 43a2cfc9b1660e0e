"""Runs a function in the processes of a group; a module of its own, so that spawned processes can import it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing

WORLD = 2


def run_in_processes(function: Callable[[int, int], Any], folder: Path, world: int = WORLD) -> list[Any]:
    """Return what ``function(rank, world)`` returned in each process."""
    multiprocessing.spawn(join, args=(function, world, str(folder)), nprocs=world)
    return load(folder, world)


def load(folder: Path, world: int) -> list[Any]:
    """Read what the processes saved."""
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world)]


def join(rank: int, function: Callable[[int, int], Any], world: int, folder: str) -> None:
    """Join a group, call the function, and save what it returns."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder) / "store"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    try:
        torch.save(function(rank, world), Path(folder) / f"{rank}.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()
