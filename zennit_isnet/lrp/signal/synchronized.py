"""SyncBatchNorm: BatchNorm with the statistics of all processes' batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from zennit.core import RemovableHandle

from zennit_isnet.lrp.signal import rules
from zennit_isnet.lrp.signal.batchnorm import Scaled, statistics_gradient
from zennit_isnet.lrp.signal.mode import FrozenGateMode
from zennit_isnet.lrp.signal.modules import HiddenModule
from zennit_isnet.lrp.signal.substitute import Substitute


def synchronizes(module: nn.Module) -> bool:
    """Whether a forward pass of the module, as it is now, uses the statistics of several processes."""
    return (
        isinstance(module, nn.SyncBatchNorm)
        and module.training
        and distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size(module.process_group) > 1
    )


class SynchronizedStatistics(Function):
    """``μ`` and ``1/σ`` of each channel over the batches of all processes of a group, None for all processes.

    One gather forwards and one sum backwards, which all of these processes have to take part in. The gradient is that
    of the sum of the processes' losses, as in `torch.nn.SyncBatchNorm`.
    """

    @staticmethod
    def forward(ctx: Any, input: Tensor, eps: float, group: Any) -> tuple[Tensor, Tensor]:
        channels, dims = input.shape[1], [d for d in range(input.ndim) if d != 1]
        values = input.to(torch.promote_types(input.dtype, torch.float32))
        variance, mean = torch.var_mean(values, dims, correction=0)
        own = torch.cat([mean, variance, mean.new_tensor([input.numel() // channels])])
        gathered = [torch.empty_like(own) for _ in range(distributed.get_world_size(group))]
        distributed.all_gather(gathered, own, group)
        means, variances, counts = torch.stack(gathered).split([channels, channels, 1], dim=1)
        count = counts.sum()
        # of all values: the mean of the means, and the mean of the variances with what the means lie apart
        mean = (counts / count * means).sum(0)
        variance = (counts / count * (variances + (means - mean).square())).sum(0)
        inverse_std = torch.rsqrt(variance + eps)
        ctx.group = group
        ctx.save_for_backward(input, mean, inverse_std, count)
        return mean, inverse_std

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_mean: Tensor, grad_inverse_std: Tensor) -> tuple[Tensor, None, None]:
        grads = torch.cat([grad_mean, grad_inverse_std])
        distributed.all_reduce(grads, group=ctx.group)
        return statistics_gradient(*ctx.saved_tensors, *grads.chunk(2)), None, None


class SynchronizedBatchNorm(HiddenModule):
    """Gives a `torch.nn.SyncBatchNorm` that synchronizes the rule ``G_x = (γ/σ) ⊙ G_y``; else it is a BatchNorm.

    PyTorch's function has no second derivative and needs none: the signal jumps over it, and ``σ`` is computed again as
    a function of all processes' batches that has a derivative.
    """

    word = "batch_norm"

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if synchronizes(module):
            super().enter(module, args, kwargs)

    def attach(self, module: nn.Module, mode: FrozenGateMode, operands: list[Tensor], output: Any) -> Any:
        (input,) = operands
        if mode.stem is not None:
            (input,), _ = mode.stem.before(mode, f"module {type(module).__name__}", rules.batch_norm, (input,), {})
        scale = _scale(module, input.detach() if mode.settings.detach_statistics else input)
        result = Substitute.apply(mode.settings, _scaled, output, input, scale)
        if mode.stem is not None and input is mode.stem.tail:
            mode.stem.fold(result, scale)
        return result


def register_synchronized(root: nn.Module, current: Callable[[], FrozenGateMode | None]) -> list[RemovableHandle]:
    """Put hooks on the modules that synchronize; `current` returns the mode of the pass that runs."""
    norms = [module for module in root.modules() if isinstance(module, nn.SyncBatchNorm)]
    return [handle for norm in norms for handle in SynchronizedBatchNorm(current).register(norm)]


def _scale(norm: Any, input: Tensor) -> Tensor:
    """Return ``γ/σ``."""
    _, inverse_std = SynchronizedStatistics.apply(input, norm.eps, norm.process_group)
    scale: Tensor = inverse_std if norm.weight is None else norm.weight * inverse_std
    return scale


def _scaled(signal: Tensor, input: Tensor, scale: Tensor) -> tuple[Tensor, None]:
    scaled: Tensor = Scaled.apply(signal, scale)
    return scaled, None
