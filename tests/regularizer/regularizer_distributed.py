"""What the processes of the distributed test run; a module of its own, so that spawned processes can import it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from regularizer_models import batch, tiny_net
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from zennit_isnet import ISNetRegularizer, RelevanceRange


def model_and_data(shards: int) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """The same float64 model, images, masks and labels in every process; four images for each."""
    torch.manual_seed(0)
    model = tiny_net().double()
    images, masks = batch(4 * shards, size=8)
    return model, images.double(), masks, torch.arange(4 * shards) % 3


def step(model: nn.Module, images: Tensor, masks: Tensor, labels: Tensor) -> None:
    """One training step up to the gradients."""
    regularizer = ISNetRegularizer(model)
    regularizer.ranges = {"input": RelevanceRange(0.01, 0.02)}
    logits, penalty = regularizer(images, masks)
    (cross_entropy(logits, labels) + penalty).backward()


def gradients(model: nn.Module) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in model.parameters()]


def gradients_of_shards(shards: int) -> list[list[Tensor]]:
    """What each shard alone gives, without any process group."""
    result = []
    for shard in range(shards):
        model, *data = model_and_data(shards)
        step(model, *(tensor.chunk(shards)[shard] for tensor in data))
        result.append(gradients(model))
    return result


def distributed_step(rank: int, world: int, folder: str) -> None:
    """Join a group of `world` processes, take one step, and save its gradients and the order-free facts about it."""
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder) / "store"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    try:
        model, *data = model_and_data(world)
        wrapped = DistributedDataParallel(model)
        images, masks, labels = (tensor.chunk(world)[rank] for tensor in data)
        if rank == 0:
            # explaining is a matter of one process: the others do not take part in it
            heatmap = ISNetRegularizer(wrapped).heatmap(images)
            torch.save(heatmap, Path(folder) / "heatmap.pt")
        step(wrapped, images, masks, labels)
        torch.save(gradients(model), Path(folder) / f"gradients{rank}.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()
