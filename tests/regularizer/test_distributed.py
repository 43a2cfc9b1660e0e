"""`DistributedDataParallel`: gradients are the average of the shards' own."""

from __future__ import annotations

from pathlib import Path

import pytest
import regularizer_distributed
import torch
from regularizer_distributed import distributed_step, gradients_of_shards, model_and_data
from torch import multiprocessing

from zennit_isnet import ISNetRegularizer

pytestmark = pytest.mark.filterwarnings("ignore::zennit_isnet.RelevanceRangeWarning")


def check(folder: Path, world: int) -> None:
    shards = gradients_of_shards(world)
    expected = [torch.stack(of_shards).mean(0) for of_shards in zip(*shards, strict=True)]
    assert any(grad.abs().sum() > 0 for grad in expected)
    for rank in range(world):
        found = torch.load(folder / f"gradients{rank}.pt", weights_only=True)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)
    model, images, *_ = model_and_data(world)
    heatmap = ISNetRegularizer(model).heatmap(images.chunk(world)[0])
    torch.testing.assert_close(torch.load(folder / "heatmap.pt", weights_only=True), heatmap)


def test_one_process(tmp_path):
    distributed_step(rank=0, world=1, folder=str(tmp_path))
    check(tmp_path, world=1)


@pytest.mark.slow
def test_two_processes(tmp_path):
    multiprocessing.spawn(regularizer_distributed.distributed_step, args=(2, str(tmp_path)), nprocs=2)
    check(tmp_path, world=2)
    shards = gradients_of_shards(2)
    assert any(not torch.allclose(first, second) for first, second in zip(*shards, strict=True))
