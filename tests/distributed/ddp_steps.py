"""Training steps in `DistributedDataParallel`, and the same steps in one process."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from regularizer_models import batch, on_images, tiny_net
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from zennit_isnet import ISNetRegularizer
from zennit_isnet.calibration import RelevanceRange
from zennit_isnet.distributed import penalty_weight
from zennit_isnet.errors import UnsupportedModelError

SHARD = 4
LOUD = 1e3
FLAGS = torch.tensor([False, False, True, False, True, True, True, False])
"""Which images of both shards have a mask: one of the first four, three of the others."""

Data = tuple[Tensor, ...]
Step = Callable[[nn.Module, Data], None]


def model_and_data(shards: int) -> tuple[nn.Module, Data]:
    """The same float64 model, and images, masks, labels and flags, in every process; four images for each."""
    torch.manual_seed(0)
    model = tiny_net().double()
    images, masks = batch(SHARD * shards, size=8)
    return model, (images.double(), masks, torch.arange(SHARD * shards) % 3, FLAGS[: SHARD * shards])


def shard_of(data: Data, shards: int, shard: int) -> Data:
    return tuple(tensor.chunk(shards)[shard] for tensor in data)


def regularizer_of(model: nn.Module) -> ISNetRegularizer:
    regularizer = on_images(model)
    regularizer.ranges = {"input": RelevanceRange(0.01, 0.02)}
    return regularizer


def gradients(model: nn.Module) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def step(model: nn.Module, data: Data) -> None:
    """One training step up to the gradients."""
    images, masks, labels, _ = data
    logits, penalty = regularizer_of(model)(images, masks)
    (cross_entropy(logits, labels) + penalty).backward()


def frozen_step(model: nn.Module, data: Data) -> None:
    """The same with BatchNorm in eval mode."""
    step(model.eval(), data)


def accumulated_step(model: nn.Module, data: Data) -> None:
    """The same in two micro-batches, of which the last one synchronizes."""
    regularizer = regularizer_of(model.eval())
    for last in (False, True):
        images, masks, labels, _ = shard_of(data, 2, int(last))
        with nullcontext() if last or not isinstance(model, DistributedDataParallel) else model.no_sync():
            logits, penalty = regularizer(images, masks)
            ((cross_entropy(logits, labels) + penalty) / 2).backward()


def masked_step(model: nn.Module, data: Data) -> None:
    """The penalty of the images with a mask, weighted by their number."""
    images, masks, _, flags = data
    (penalty_weight(flags) * regularizer_of(model.eval())(images, masks, flags)[1]).backward()


def unweighted_masked_step(model: nn.Module, data: Data) -> None:
    """The same without the weight."""
    images, masks, _, flags = data
    regularizer_of(model.eval())(images, masks, flags)[1].backward()


STEPS = (step, frozen_step, accumulated_step, masked_step, unweighted_masked_step)


def in_ddp(step: Step) -> Callable[[int, int], list[Tensor]]:
    """Gradients of a step in which each process has one shard."""

    def run(rank: int, world: int) -> list[Tensor]:
        model, data = model_and_data(world)
        step(DistributedDataParallel(model), shard_of(data, world, rank))
        return gradients(model)

    return run


def alone(step: Step, shards: int, shard: int | None = None) -> list[Tensor]:
    """Gradients of the step with one shard, or with all of them, without any process group."""
    model, data = model_and_data(shards)
    step(model, data if shard is None else shard_of(data, shards, shard))
    return gradients(model)


def unused_layer(rank: int, world: int) -> list[Tensor]:
    """A step of a model with a layer that takes no part."""
    model, data = model_and_data(world)
    wrapped = DistributedDataParallel(WithUnusedLayer(model), find_unused_parameters=True)
    step(wrapped, shard_of(data, world, rank))
    return gradients(model)


class WithUnusedLayer(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.unused = net, nn.Linear(2, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)


def refusals(rank: int, world: int) -> dict[str, str]:
    """What is said to a static graph, to FSDP2 and to FSDP1, as a whole and in a part of the model."""
    mesh = init_device_mesh("cpu", (world,))
    part = tiny_net()
    fully_shard(part[3], mesh=mesh)
    models = {
        "static graph": DistributedDataParallel(tiny_net(), static_graph=True),
        "FSDP2": fully_shard(tiny_net(), mesh=mesh),
        "FSDP2 in a part": part,
        "FSDP1": FullyShardedDataParallel(tiny_net(), device_id=torch.device("cpu")),
    }
    said = {}
    for name, model in models.items():
        with pytest.raises(UnsupportedModelError) as raised:
            ISNetRegularizer(model)
        said[name] = str(raised.value)
    return said


def balanced(rank: int, world: int) -> tuple[tuple[float, ...], float, list[Tensor]]:
    """Norms, factor and gradients of a step whose penalty is too loud."""
    model, data = model_and_data(world)
    regularizer = regularizer_of(DistributedDataParallel(model))
    images, masks, labels, _ = shard_of(data, world, rank)
    logits, penalty = regularizer(images, masks)
    regularizer.balanced(cross_entropy(logits, labels), LOUD * penalty).backward()
    return tuple(regularizer.balance.norms), regularizer.balance.factor, gradients(model)


def balanced_unwrapped(rank: int, world: int) -> tuple[tuple[float, ...], float, None]:
    """Norms and factor of a regularizer that holds the bare model, as in Lightning."""
    model, data = model_and_data(world)
    regularizer = regularizer_of(model)
    regularizer.balance.everywhere = True
    images, masks, labels, _ = shard_of(data, world, rank)
    logits, penalty = regularizer(images, masks)
    regularizer.balanced(cross_entropy(logits, labels), LOUD * penalty)
    return tuple(regularizer.balance.norms), regularizer.balance.factor, None


def balanced_by_hand(world: int) -> tuple[list[float], float, list[Tensor]]:
    """The same from the gradients of the shards, averaged by hand."""
    of_shards: list[list[list[Tensor]]] = []
    for shard in range(world):
        model, data = model_and_data(world)
        images, masks, labels, _ = shard_of(data, world, shard)
        logits, penalty = regularizer_of(model)(images, masks)
        losses = cross_entropy(logits, labels), LOUD * penalty
        of_shards.append(
            [
                list(torch.autograd.grad(loss, list(model.parameters()), retain_graph=True, materialize_grads=True))
                for loss in losses
            ]
        )
    averages = (
        [torch.stack(parts).mean(0) for parts in zip(*of_loss, strict=True)] for of_loss in zip(*of_shards, strict=True)
    )
    norms = [torch.cat([g.flatten() for g in average]).norm().item() for average in averages]
    factor = min(1.0, 5 * norms[0] / norms[1])
    mixed = [[0.3 * c + 0.7 * factor * p for c, p in zip(*shard, strict=True)] for shard in of_shards]
    return norms, factor, [torch.stack(parts).mean(0) for parts in zip(*mixed, strict=True)]


def shared_optimizer(rank: int, world: int) -> list[Tensor]:
    """Parameters after a step of an optimizer whose momentum is shared between the processes."""
    model, data = model_and_data(world)
    optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9)
    frozen_step(DistributedDataParallel(model), shard_of(data, world, rank))
    optimizer.step()
    return [parameter.detach() for parameter in model.parameters()]


def heatmap_in_one_process(rank: int, world: int) -> Tensor | None:
    """Explaining is a matter of one process: the others do not take part in it."""
    model, data = model_and_data(world)
    wrapped = DistributedDataParallel(model)
    return on_images(wrapped).heatmap(data[0]) if rank == 0 else None


def calibrated(rank: int, world: int) -> tuple[dict[str, RelevanceRange], list[str]]:
    """Ranges by shards of unequal size, and what is said when one process fails; then the former ranges stay."""
    model, (images, *_) = model_and_data(world)
    regularizer = on_images(DistributedDataParallel(model))
    ranges = regularizer.calibrate([images[: SHARD - 1] if rank == 0 else images[SHARD - 1 :]], progress=False)
    broken = torch.full_like(images, torch.nan) if rank == 0 else images
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the test looks at what it says
        regularizer.calibrate([broken], progress=False)
    return ranges, [f"{raised.typename}: {raised.value}", str(regularizer.ranges == ranges)]
