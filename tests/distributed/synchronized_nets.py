"""SyncBatchNorm on the CPU, and the nets that it is tested in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from regularizer_models import DenseNetLike, tiny_net
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from zennit.composites import EpsilonPlus

from zennit_isnet import EpsilonZBox, LRPAttribution, LRPFlex, Original, Selective, ZPlus, differentiable
from zennit_isnet.formulations import AllLogits
from zennit_isnet.lrp import FuseBatchNorm, checkpoint_contexts

IMAGES, SIZE = 6, 8


class WholeBatch(Function):
    """The batches of all processes in one; its gradient is that of the sum of their losses."""

    @staticmethod
    def forward(ctx: Any, shard: Tensor) -> Tensor:
        parts = [torch.empty_like(shard) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, shard.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad.chunk(dist.get_world_size())[dist.get_rank()]


class CPUSyncBatchNorm(nn.SyncBatchNorm):
    """What PyTorch's own refuses to do on the CPU, by its definition: BatchNorm of the whole batch."""

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(input)
        self.num_batches_tracked.add_(1)
        statistics = (self.running_mean, self.running_var)
        whole = F.batch_norm(
            WholeBatch.apply(input), *statistics, self.weight, self.bias, True, self.momentum, self.eps
        )
        return whole.chunk(dist.get_world_size())[dist.get_rank()]


def synchronized(module: nn.Module) -> nn.Module:
    """Replace each BatchNorm2d in a module by one that synchronizes."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            norm = CPUSyncBatchNorm(child.num_features, child.eps, child.momentum, dtype=child.weight.dtype)
            norm.load_state_dict(child.state_dict())
            setattr(module, name, norm)
        else:
            synchronized(child)
    return module


class Checkpointed(nn.Module):
    """The features of a tiny net, of which the inputs only are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.net = tiny_net()

    def forward(self, images: Tensor) -> Tensor:
        features = checkpoint(self.net[3:6], self.net[:3](images), use_reentrant=False, context_fn=checkpoint_contexts)
        return self.net[6:](features)


Case = tuple[Callable[[], nn.Module], Callable[[], tuple[LRPAttribution, Any]]]

CASES: dict[str, Case] = {
    "LRPFlex": (tiny_net, lambda: (LRPAttribution(), Selective())),
    "several heatmaps": (tiny_net, lambda: (LRPAttribution(), Original())),
    "detached statistics": (tiny_net, lambda: (LRPAttribution(LRPFlex(detach_statistics=True)), Selective())),
    "z^B": (tiny_net, lambda: (LRPAttribution(LRPFlex(box=(0.0, 1.0))), Selective())),
    "inner layers": (tiny_net, lambda: (LRPAttribution(layers=["5"]), Selective())),
    "BatchNorm before convolutions": (DenseNetLike, lambda: (LRPAttribution(), Selective())),
    "checkpoint": (Checkpointed, lambda: (LRPAttribution(), Selective())),
    "Dual": (tiny_net, lambda: (LRPAttribution((LRPFlex(), ZPlus())), AllLogits())),
    "EpsilonZBox": (tiny_net, lambda: (LRPAttribution(EpsilonZBox((0.0, 1.0))), Selective())),
    "differentiable": (
        tiny_net,
        lambda: (LRPAttribution(differentiable(EpsilonPlus(canonizers=[FuseBatchNorm()]))), Selective()),
    ),
}


def model_and_images(case: str, dtype: torch.dtype) -> tuple[nn.Module, Tensor]:
    """A model in train mode whose BatchNorms differ from the identity, and a whole batch."""
    torch.manual_seed(0)
    model = CASES[case][0]().to(dtype)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)
    return model, torch.rand(IMAGES, 3, SIZE, SIZE, dtype=dtype)


def relevance_and_gradients(model: nn.Module, case: str, images: Tensor, total: int) -> dict[str, Tensor]:
    """Logits, heatmaps, and the gradients of this batch's part of a mean over `total` images that mixes all of them."""
    attribution, formulation = CASES[case][1]()
    logits, relevance = attribution(model, images, formulation)
    size = sum(heatmaps.square().flatten(1).sum(1).sqrt().sum() for heatmaps in relevance.values())
    ((size + logits.square().sum()) / total).backward()
    found = {f"relevance {name}": heatmaps.detach() for name, heatmaps in relevance.items()}
    gradients = {f"gradient {name}": p.grad for name, p in model.named_parameters()}
    return {"logits": logits.detach(), **found, **gradients}
