"""Random numbers that only depend on the position in the training, so that resumed runs draw the same ones."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import Dataset, DistributedSampler

Key = tuple[int, int]
"""Epoch and index of an image."""


def seed_of(*place: int) -> int:
    """Return a seed for a position, such as seed, epoch and index."""
    return int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0])


@contextmanager
def random_numbers_of(*place: int) -> Iterator[None]:
    """Seed the CPU generators of Python, NumPy and PyTorch by a position; restore them afterwards."""
    former = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed = seed_of(*place)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the accelerators too
    try:
        yield
    finally:
        random.setstate(former[0])
        np.random.set_state(former[1])
        torch.set_rng_state(former[2])


class EpochOrder(DistributedSampler[Any]):
    """Keys of this process's share of indices, shuffled by seed and epoch only unless ``shuffle=False``."""

    def __init__(self, indices: Sequence[int], processes: int, rank: int, **options: Any) -> None:
        super().__init__(cast(Any, indices), processes, rank, **options)
        self.indices = indices

    def __iter__(self) -> Iterator[Key]:
        for position in super().__iter__():
            yield self.epoch, self.indices[position]


class Keyed(Dataset[tuple[Any, ...]]):
    """Items ``(image, mask, label, has_mask, index)`` by key; random transforms depend only on seed, epoch and index.

    Parameters
    ----------
    data : Dataset
        Items ``(image, mask, label)`` or ``(image, mask, label, has_mask)``.
    seed : int
        Seed of the transforms.
    """

    def __init__(self, data: Any, seed: int) -> None:
        self.data, self.seed = data, seed

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: Key) -> tuple[Any, ...]:
        epoch, index = key
        with random_numbers_of(self.seed, epoch, index):
            image, mask, label, *has_mask = self.data[index]
        plain = (part.as_subclass(torch.Tensor) for part in (image, mask))
        return *plain, label, bool(has_mask[0]) if has_mask else True, index
