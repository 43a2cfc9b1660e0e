"""What two processes do with `SyncBatchNorm`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from regularizer_models import tiny_net
from synchronized_nets import CPUSyncBatchNorm, model_and_images, relevance_and_gradients, synchronized
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from zennit.composites import EpsilonPlus, LayerMapComposite
from zennit.rules import Epsilon

from zennit_isnet import LRPAttribution, Target, check, differentiable
from zennit_isnet.errors import UnsupportedModelError
from zennit_isnet.lrp.signal.normalization import BatchStatistics

VALUES = (5, 2, 3, 4)
"""Shape of the whole batch of `statistics_of_unequal_shards`, of which the first process has one sample."""


def step(case: str, dtype: torch.dtype) -> Callable[[int, int], dict[str, Tensor]]:
    """Relevance and gradients of one shard, with the statistics of all of them."""

    def run(rank: int, world: int) -> dict[str, Tensor]:
        model, images = model_and_images(case, dtype)
        found = relevance_and_gradients(synchronized(model), case, images.chunk(world)[rank], len(images))
        for name, value in found.items():
            if name.startswith("gradient"):
                # by hand, because DistributedDataParallel refuses SyncBatchNorm on the CPU
                dist.all_reduce(value)
        return found

    return run


def step_on_cuda(rank: int, world: int) -> dict[str, Tensor]:
    """The same with PyTorch's own SyncBatchNorm in `DistributedDataParallel`; both processes may share one device."""
    device = torch.device("cuda", rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    model, images = model_and_images("LRPFlex", torch.float64)
    model = DistributedDataParallel(nn.SyncBatchNorm.convert_sync_batchnorm(model).to(device))
    # DistributedDataParallel takes the mean over the processes
    shard = images.chunk(world)[rank].to(device)
    found = relevance_and_gradients(model, "LRPFlex", shard, len(shard))
    return {name.replace("module.", ""): value.cpu() for name, value in found.items()}


def whole_batch() -> tuple[Tensor, Tensor]:
    """Values with another mean in each sample, and weights of μ and 1/σ."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(VALUES, generator=generator, dtype=torch.float64)
    values += torch.arange(VALUES[0]).view(-1, 1, 1, 1)
    return values, torch.randn(2, VALUES[1], generator=generator, dtype=torch.float64)


def statistics_of_unequal_shards(rank: int, world: int) -> list[Tensor]:
    """μ and 1/σ of all values, and the gradient of a function of them at this process's values."""
    values, weights = whole_batch()
    shard = (values[:1] if rank == 0 else values[1:]).requires_grad_()
    statistics = torch.stack(BatchStatistics.apply(shard, 1e-5, nn.SyncBatchNorm(VALUES[1])))
    # a different function in each process: the gradient is that of their sum
    ((rank + 1) * weights * statistics).sum().backward()
    return [statistics.detach(), shard.grad]


def eval_mode(rank: int, world: int) -> dict[str, Tensor]:
    """Only the first process explains: it would wait for the other one if anything were synchronized."""
    model, images = model_and_images("LRPFlex", torch.float64)
    model = synchronized(model).eval()
    return relevance_and_gradients(model, "LRPFlex", images, len(images)) if rank == 0 else {}


def refusals(rank: int, world: int) -> list[str]:
    """What is said to composites that would need PyTorch's SyncBatchNorm to have a second derivative."""
    images = torch.rand(2, 3, 8, 8)
    last = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), CPUSyncBatchNorm(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    with_rule = LayerMapComposite([(nn.SyncBatchNorm, Epsilon())])
    found = []
    for model, composite in (
        (synchronized(tiny_net()), differentiable(EpsilonPlus(), canonizers=[])),
        (last, differentiable(EpsilonPlus())),
        (synchronized(tiny_net()), differentiable(with_rule)),
    ):
        try:
            LRPAttribution(composite)(model, images, Target(0))
        except UnsupportedModelError as error:
            found.append(str(error))
    report: Any = check(synchronized(tiny_net()), images)
    return [*found, str(report)]
