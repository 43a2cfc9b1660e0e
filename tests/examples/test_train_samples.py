"""Order and augmentation depend on seed, epoch and index alone, so a run can go on at any batch."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor
from training.processes import Processes
from training.samples import SeededSamples, TrainingBatches, evaluation_batches, loader

from zennit_isnet.errors import InvalidValueError

CPU = torch.device("cpu")
ALONE = Processes(0, 1, CPU)


class RandomImages:
    """Items that draw from all three generators, as augmentations may."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        draws = torch.tensor([random.random(), np.random.rand(), torch.rand(()).item()])
        return draws.view(3, 1, 1) + 10 * index, torch.ones(1, 1, 1), index


def images_of(batches: TrainingBatches, *, workers: int = 0) -> list[Tensor]:
    return [batch[0] for batch in loader(RandomImages(20), batches, seed=3, workers=workers, device=CPU)]


def test_augmentation_depends_on_seed_epoch_and_index_alone():
    samples = SeededSamples(RandomImages(5), seed=1)
    first = samples[2, 4][0]
    random.seed(9), np.random.seed(9), torch.manual_seed(9)
    assert torch.equal(samples[2, 4][0], first)
    others = samples[3, 4][0], samples[2, 3][0] + 10, SeededSamples(RandomImages(5), seed=2)[2, 4][0]
    assert not any(torch.equal(other, first) for other in others)


def test_global_generators_go_on_as_if_no_sample_had_been_drawn():
    def draw() -> tuple[float, float, float]:
        return random.random(), np.random.rand(), torch.rand(()).item()

    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    expected = draw()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    list(loader(RandomImages(6), [[(0, 1), (0, 2)]], seed=0, workers=0, device=CPU))
    assert draw() == expected


def test_items_say_whether_there_is_a_mask():
    class Partial(RandomImages):
        def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int, bool]:
            return *super().__getitem__(index), False

    assert SeededSamples(RandomImages(2), seed=0)[0, 1][3] is True
    assert SeededSamples(Partial(2), seed=0)[0, 1][3] is False


def test_an_epoch_goes_on_in_its_middle_without_replay():
    batches = TrainingBatches(RandomImages(20), 6, 0, ALONE)
    batches.epoch = 1
    whole = images_of(batches)
    batches.start = 2
    rest = images_of(batches)
    assert len(whole) == 3
    assert len(rest) == 1
    assert torch.equal(rest[0], whole[2])


def test_workers_change_nothing():
    batches = TrainingBatches(RandomImages(20), 6, 0, ALONE)
    assert all(torch.equal(a, b) for a, b in zip(images_of(batches), images_of(batches, workers=2), strict=True))


def test_every_epoch_has_its_own_order():
    batches = TrainingBatches(RandomImages(20), 5, 0, ALONE)
    orders = []
    for batches.epoch in range(2):
        orders.append([index for batch in batches for _, index in batch])
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(20))


def test_processes_share_an_epoch_without_overlap():
    shards = [TrainingBatches(RandomImages(20), 5, 0, Processes(rank, 2, CPU)) for rank in range(2)]
    seen = [index for shard in shards for batch in shard for _, index in batch]
    assert sorted(seen) == list(range(20))


@pytest.mark.parametrize(("count", "processes"), [(4, 1), (9, 2)])
def test_data_that_fill_no_batch_are_refused(count: int, processes: int):
    with pytest.raises(InvalidValueError, match=rf"the {count} training images of {processes} process.*--batch-size 5"):
        TrainingBatches(RandomImages(count), 5, 0, Processes(0, processes, CPU))


def test_evaluation_sees_each_image_once_in_a_mixed_order():
    batches = [evaluation_batches(RandomImages(11), 4, Processes(rank, 2, CPU)) for rank in range(2)]
    seen = [index for part in batches for batch in part for _, index in batch]
    assert sorted(seen) == list(range(11))
    assert seen != sorted(seen)
