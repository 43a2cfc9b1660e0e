"""Samples whose random augmentation depends on (seed, epoch, index) alone, in an order that depends on the same.

A run that stops in the middle of an epoch can therefore go on at any batch without replaying those before it, with any
number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler

from training.interruption import leave_signals_to_parent
from training.processes import Processes
from training.randomness import random_numbers_of
from zennit_isnet.errors import InvalidValueError

Key = tuple[int, int]
"""Epoch and index of a sample."""


class SeededSamples(Dataset[tuple[Tensor, Tensor, Any, bool]]):
    """Items ``(image, mask, label, has_mask)`` of a masked data set by `Key`.

    Parameters
    ----------
    data : Dataset
        Items ``(image, mask, label)`` or ``(image, mask, label, has_mask)``.
    seed : int
        Of the augmentations.
    """

    def __init__(self, data: Any, seed: int) -> None:
        self.data = data
        self.seed = seed

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor, Any, bool]:
        epoch, index = key
        with random_numbers_of(self.seed, epoch, index):
            image, mask, label, *has_mask = self.data[index]
        return image.as_subclass(Tensor), mask.as_subclass(Tensor), label, bool(has_mask[0]) if has_mask else True


class TrainingBatches(Sampler[list[Key]]):
    """Shuffled batches of this process's share of an epoch, from any batch on.

    Parameters
    ----------
    data : sized
        The training set.
    batch_size : int
        Images of one batch of one process. The last batch of an epoch is left out if it would be smaller.
    seed : int
        Of the order.
    processes : Processes
        Each process gets another share of the same order.

    Attributes
    ----------
    epoch, start : int
        Which epoch the next iteration belongs to, and at which batch it begins.

    Raises
    ------
    InvalidValueError
        If the data is not enough for one batch.
    """

    def __init__(self, data: Sized, batch_size: int, seed: int, processes: Processes) -> None:
        self.order: DistributedSampler[int] = DistributedSampler(
            range(len(data)), processes.count, processes.rank, seed=seed, drop_last=True
        )
        self.batch_size = batch_size
        self.epoch = self.start = 0
        if not len(self):
            raise InvalidValueError(
                f"the {len(data)} training images of {processes.count} process(es) are not enough for one batch of "
                f"--batch-size {batch_size} in each"
            )

    def __len__(self) -> int:
        return len(self.order) // self.batch_size

    def __iter__(self) -> Iterator[list[Key]]:
        self.order.set_epoch(self.epoch)
        keys = [(self.epoch, index) for index in self.order]
        for batch in range(self.start, len(self)):
            yield keys[batch * self.batch_size : (batch + 1) * self.batch_size]


def evaluation_batches(data: Sized, batch_size: int, processes: Processes) -> list[list[Key]]:
    """Return batches of this process's share of a data set, in an order that is always the same.

    They are mixed: swapped backgrounds come from the same batch, and a folder is sorted by class.
    """
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0)).tolist()
    keys = [(0, index) for index in order[processes.rank :: processes.count]]
    return [keys[start : start + batch_size] for start in range(0, len(keys), batch_size)]


def loader(data: Any, batches: Any, *, seed: int, workers: int, device: torch.device) -> DataLoader[Any]:
    """Return batches of images ``(N, C, H, W)``, masks ``(N, 1, H, W)``, labels and ``has_mask (N,)``."""
    return DataLoader(
        SeededSamples(data, seed),
        batch_sampler=batches,
        num_workers=workers,
        worker_init_fn=leave_signals_to_parent,
        pin_memory=device.type == "cuda",
        # its own: an iteration draws a number for its workers, which must not come from the generator of the training
        generator=torch.Generator().manual_seed(seed),
    )
