"""One process or several: which one this is, and what all of them agree on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Processes:
    """The place of this process among those that train together.

    Parameters
    ----------
    rank, count : int
        Number of this process, from 0, and of all.
    device : torch.device
        Where this process computes.
    group : ProcessGroup, optional
        For flags and objects on the CPU: they must not wait for an accelerator. None for a single process.
    """

    rank: int
    count: int
    device: torch.device
    group: Any = None

    @property
    def main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in at least one process."""
        if self.count == 1:
            return flag
        flags = torch.tensor(int(flag))
        dist.all_reduce(flags, group=self.group)
        return bool(flags)

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, by rank."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value, group=self.group)
        return values

    def from_main(self, value: Any) -> Any:
        """Return the main process's value."""
        if self.count == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.group)
        return values[0]

    def share_buffers(self, model: nn.Module) -> None:
        """Give the buffers of the first process (running statistics) to all."""
        if self.count > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model, in `DistributedDataParallel` where there are several processes."""
        if self.count == 1:
            return model
        return DistributedDataParallel(model, device_ids=[self.device] if self.device.type == "cuda" else None)


@contextmanager
def joined_processes(device: str) -> Iterator[Processes]:
    """Join the processes that ``torchrun`` started, by NCCL on CUDA and by gloo elsewhere, and leave them at the end.

    Parameters
    ----------
    device : str
        Such as ``"cpu"`` or ``"cuda"``. With several processes each takes the CUDA device of its local rank.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes(0, 1, torch.device(device))
        return
    on_cuda = torch.device(device).type == "cuda"
    if on_cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        device = f"cuda:{torch.cuda.current_device()}"
    dist.init_process_group("nccl" if on_cuda else "gloo")
    try:
        group = dist.new_group(backend="gloo") if on_cuda else dist.group.WORLD
        yield Processes(dist.get_rank(), count, torch.device(device), group)
    finally:
        dist.destroy_process_group()
