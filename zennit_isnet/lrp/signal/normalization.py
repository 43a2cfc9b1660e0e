"""BatchNorm, LayerNorm and the like: an affine map, constant in the signal pass.

BatchNorm multiplies the signal by ``γ/σ`` with the statistics of this forward pass (over the batches of all processes
for SyncBatchNorm). In LayerNorm, GroupNorm and the like, mean and ``σ`` belong to one sample: the centring stays and
``σ`` is held constant, so the map is linear up to its bias: ``y = γ (x − mean x)/σ + β``, and ``G_x = c − mean c`` with
``c = γ G_y/σ``. ``σ`` stays attached to the parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from zennit.core import RemovableHandle

from zennit_isnet.lrp.signal.linear import check_constant
from zennit_isnet.lrp.signal.mode import FrozenGateMode, Kind
from zennit_isnet.lrp.signal.modules import hide
from zennit_isnet.lrp.signal.substitute import Substitute, Switch
from zennit_isnet.parts import parts

aten = torch.ops.aten


def per_channel(vector: Tensor, like: Tensor) -> Tensor:
    """View a vector ``(C,)`` so that it broadcasts over ``(N, C, …)``, in the dtype of that tensor."""
    return vector.to(like.dtype).view(1, -1, *(1,) * (like.ndim - 2))


def laid_like(grad: Tensor, like: Tensor) -> Tensor:
    """Return a gradient in the memory layout of its tensor, on a CPU.

    There `native_batch_norm_backward` can misread single-image, single-row or single-column tensors, taking one as
    channels-last and the other as contiguous, and sum the wrong products. Equal layouts are always read correctly.
    """
    if grad.device.type != "cpu" or grad.stride() == like.stride():
        return grad
    return torch.empty_like(like, dtype=grad.dtype, device=grad.device).copy_(grad)


def channel_products(first: Tensor, second: Tensor) -> Tensor:
    """Sum of the products of two tensors ``(N, C, …)`` over everything but the channels."""
    if torch.is_grad_enabled() or not first.numel():
        return (first * second).sum([d for d in range(first.ndim) if d != 1])
    # the gradient of γ at mean 0 and deviation 1 is this sum, from a kernel without temporaries
    dtype = torch.promote_types(first.dtype, torch.float32)
    zero = torch.zeros(first.shape[1], dtype=dtype, device=first.device)
    one = torch.ones_like(zero)
    mask = [False, True, False]
    first = laid_like(first, second) if 1 in first.shape else first
    return aten.native_batch_norm_backward(first, second, one, None, None, zero, one, True, 0.0, mask)[1]


class Scaled(Function):
    """``G_x = s ⊙ G_y`` with one scale per channel, differentiable with respect to both."""

    @staticmethod
    def forward(ctx: Any, signal: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(signal, scale)
        return signal * per_channel(scale, signal)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        signal, scale = ctx.saved_tensors
        return grad * per_channel(scale, grad), channel_products(grad, signal).to(scale.dtype)


class BatchNorm(Function):
    """BatchNorm with the signal ``G_x = (γ/σ) ⊙ G_y``.

    Returns the normalised batch and ``γ/σ`` as a second, differentiable output. The signal pass multiplies by that
    output. So the signal depends on ``γ`` and, unless ``detach_statistics``, on ``σ(x)``, while one sample's signal
    does not depend on the other samples' gradients.
    """

    @staticmethod
    def forward(
        ctx: Any,
        switch: Switch,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        training: bool,
        momentum: float,
        eps: float,
        detach_statistics: bool,
    ) -> tuple[Tensor, Tensor]:
        output, mean, inverse_std = aten.native_batch_norm(
            input, weight, bias, running_mean, running_var, training, momentum, eps
        )
        if not training:
            assert running_mean is not None  # native_batch_norm has checked both
            assert running_var is not None
            inverse_std = torch.rsqrt(running_var + eps)
            mean = running_mean
        scale = inverse_std.clone() if weight is None else weight * inverse_std
        ctx.switch, ctx.training, ctx.eps, ctx.alive = switch, training, eps, training and not detach_statistics
        ctx.set_materialize_grads(False)
        # copies of the running statistics, because the next call of a shared module updates them
        kept = (None, None) if training else (running_mean.clone(), running_var.clone())  # type: ignore[union-attr]
        ctx.save_for_backward(input, weight, mean if training else kept[0], inverse_std, *kept, scale)
        return output, scale

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_scale: Tensor | None) -> tuple[Tensor | None, ...]:
        input, weight, mean, inverse_std, running_mean, running_var, scale = ctx.saved_tensors
        if ctx.switch.active:
            return None, None if grad is None else Scaled.apply(grad, scale), *(None,) * 8
        grad_input = grad_weight = grad_bias = None
        if grad is not None:
            mask = [ctx.needs_input_grad[1], weight is not None, ctx.needs_input_grad[3]]
            grad = laid_like(grad, input) if 1 in grad.shape else grad
            grad_input, grad_weight, grad_bias = aten.native_batch_norm_backward(
                grad, input, weight, running_mean, running_var, mean, inverse_std, ctx.training, ctx.eps, mask
            )
        if grad_scale is not None:
            if ctx.training and torch.is_grad_enabled():
                # for a second derivative σ must be a function of x, as in PyTorch's own kernel
                dims = [d for d in range(input.ndim) if d != 1]
                mean, inverse_std = input.mean(dims), torch.rsqrt(input.var(dims, unbiased=False) + ctx.eps)
            if weight is not None:
                through_scale = grad_scale * inverse_std
                grad_weight = through_scale if grad_weight is None else grad_weight + through_scale
            if ctx.alive:
                # ∂(γ/σ)/∂x = −γ (x − μ) / (n σ³)
                count = input.numel() // input.shape[1]
                factor = -grad_scale * scale * inverse_std**2 / count
                mean, factor = per_channel(mean, input), per_channel(factor, input)
                if grad_input is None:
                    grad_input = (input - mean) * factor
                elif torch.is_grad_enabled():
                    grad_input = torch.addcmul(grad_input, input - mean, factor)
                else:
                    for to_input, images in parts(grad_input, input):
                        to_input.addcmul_(images - mean, factor)
        return None, grad_input, grad_weight, grad_bias if ctx.needs_input_grad[3] else None, *(None,) * 6


def batch_norm(
    mode: FrozenGateMode,
    func: Any,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """BatchNorm: ``γ/σ`` with the statistics of this pass."""
    _check_parameters(mode, func, weight, bias, None if training else running_mean, None if training else running_var)
    if training and input.numel() == input.shape[1]:
        # a single value per channel has no variance: raise PyTorch's own error
        func(input, running_mean, running_var, weight, bias, training, momentum, eps)
    detach = mode.settings.detach_statistics
    return BatchNorm.apply(
        mode.settings, input, weight, bias, running_mean, running_var, training, momentum, eps, detach
    )[0]


def synchronizes(module: nn.Module) -> bool:
    """Whether a forward pass of the module in its current state uses the statistics of several processes."""
    return (
        isinstance(module, nn.SyncBatchNorm)
        and module.training
        and distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size(module.process_group) > 1
    )


class BatchStatistics(Function):
    """``μ`` and ``1/σ`` of each channel, with one pass over the input in the forward and one in the backward pass.

    With a SyncBatchNorm, over the batches of all processes in its group: one gather forward and one sum backward, in
    which all these processes must participate. The gradient is that of the sum of the processes' losses, as in
    `torch.nn.SyncBatchNorm`.
    """

    @staticmethod
    def forward(ctx: Any, input: Tensor, eps: float, synchronized: Any = None) -> tuple[Tensor, Tensor]:
        ctx.synchronized, ctx.count = synchronized, input.numel() // input.shape[1]
        if synchronized is None:
            # BatchNorm's kernel; torch.var is several times slower over these dimensions
            _, mean, inverse_std = torch.native_batch_norm(input, None, None, None, None, True, 0.0, eps)
        else:
            mean, variance, ctx.count = _gathered(input, ctx.count, synchronized.process_group)
            inverse_std = torch.rsqrt(variance + eps)
        ctx.save_for_backward(input, mean, inverse_std)
        return mean, inverse_std

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_mean: Tensor, grad_inverse_std: Tensor) -> tuple[Tensor, None, None]:
        input, mean, inverse_std = ctx.saved_tensors
        if ctx.synchronized is not None:
            grads = torch.cat([grad_mean, grad_inverse_std])
            distributed.all_reduce(grads, group=ctx.synchronized.process_group)
            grad_mean, grad_inverse_std = grads.chunk(2)
        # ∂μ/∂x = 1/n, ∂(1/σ)/∂x = −(x − μ) / (n σ³)
        slope = -grad_inverse_std * inverse_std**3 / ctx.count
        offset = grad_mean / ctx.count - slope * mean
        return torch.addcmul(per_channel(offset, input), input, per_channel(slope, input)), None, None


def _gathered(input: Tensor, count: int, group: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and variance of each channel over the batches of a group's processes, and the number of values."""
    channels, dims = input.shape[1], [d for d in range(input.ndim) if d != 1]
    values = input.to(torch.promote_types(input.dtype, torch.float32))
    variance, mean = torch.var_mean(values, dims, correction=0)
    own = torch.cat([mean, variance, mean.new_tensor([count])])
    gathered = [torch.empty_like(own) for _ in range(distributed.get_world_size(group))]
    distributed.all_gather(gathered, own, group)
    means, variances, counts = torch.stack(gathered).split([channels, channels, 1], dim=1)
    total = counts.sum()
    # over all values: the mean of means, and the mean variance plus the variance of the means
    mean = (counts / total * means).sum(0)
    return mean, (counts / total * (variances + (means - mean).square())).sum(0), total


def sync_batch_norm(mode: FrozenGateMode, func: Any, input: Tensor, output: Tensor, norm: Any) -> Tensor:
    """SyncBatchNorm: ``γ/σ`` with the statistics of all processes' batches.

    PyTorch's function has no second derivative and needs none: the signal skips it, and ``σ`` is recomputed as a
    differentiable function of all processes' batches.
    """
    source = input.detach() if mode.settings.detach_statistics else input
    _, inverse_std = BatchStatistics.apply(source, norm.eps, norm)
    scale = inverse_std if norm.weight is None else norm.weight * inverse_std

    def signal_function(signal: Tensor, input: Tensor, scale: Tensor) -> tuple[Tensor, None]:
        return Scaled.apply(signal, scale), None

    return Substitute.apply(mode.settings, signal_function, output, input, scale)


def scale_of(output: Tensor) -> Tensor:
    """Return ``γ/σ`` of what `batch_norm` or `sync_batch_norm` has just returned: the last saved tensor of both."""
    node: Any = output.grad_fn
    return node.saved_tensors[-1]


def register_synchronized(root: nn.Module, current: Callable[[], FrozenGateMode | None]) -> list[RemovableHandle]:
    """Hook the modules that synchronize; `current` returns the mode of the current pass."""

    def attach(module: nn.Module, mode: FrozenGateMode, operands: list[Tensor], output: Any) -> Any:
        name = f"module {type(module).__name__}"
        return mode.run(sync_batch_norm, name, (*operands, output, module), {})

    norms = [module for module in root.modules() if isinstance(module, nn.SyncBatchNorm)]
    return [handle for norm in norms for handle in hide(norm, "batch_norm", attach, current, synchronizes)]


def layer_norm(
    mode: FrozenGateMode,
    func: Any,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """LayerNorm: ``G_x = c − mean c``, ``c = γ G_y/σ``, over the last dimensions."""
    _check_parameters(mode, func, weight, bias)
    output, dims = func(input, normalized_shape, weight, bias, eps), len(normalized_shape)
    return _normalized(mode, output, input, weight, lambda scaled, x: Centred.apply(scaled, x, dims, eps))


def rms_norm(
    mode: FrozenGateMode,
    func: Any,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """RMSNorm: ``G_x = γ G_y / rms x``, over the last dimensions."""
    _check_parameters(mode, func, weight)
    dims = tuple(range(-len(normalized_shape), 0))
    precise = torch.promote_types(input.dtype, torch.float32)
    shift = _default_eps(input.dtype, precise) if eps is None else eps

    def formula(scaled: Tensor, x: Tensor) -> Tensor:
        # the derivative of 1/rms overflows in float16
        return scaled * (x.to(precise).square().mean(dims, keepdim=True) + shift).rsqrt()

    return _normalized(mode, func(input, normalized_shape, weight, eps), input, weight, formula)


def _default_eps(dtype: torch.dtype, precise: torch.dtype) -> float:
    """Return RMSNorm's default: that of the computation in recent versions of PyTorch, of the type in older ones."""
    eps = torch.finfo(precise).eps
    if dtype == precise:
        return eps
    probe = F.rms_norm(torch.full((1,), math.sqrt(eps), dtype=dtype), (1,))
    return eps if probe.item() > 0.5 else torch.finfo(dtype).eps


def group_norm(
    mode: FrozenGateMode,
    func: Any,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """GroupNorm: ``G_x = c − mean c``, ``c = γ G_y/σ``, over each group of channels."""
    _check_parameters(mode, func, weight, bias)
    return _grouped(mode, func(input, num_groups, weight, bias, eps), input, num_groups, weight, eps)


def instance_norm(
    mode: FrozenGateMode,
    func: Any,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """InstanceNorm: a GroupNorm with one channel per group, or a BatchNorm in eval mode with running statistics."""
    if not use_input_stats:
        # the same affine map, by the same kernel
        return batch_norm(mode, F.batch_norm, input, running_mean, running_var, weight, bias, False, momentum, eps)
    _check_parameters(mode, func, weight, bias)
    output = func(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)
    if output.requires_grad and output.device.type == "cpu":
        # PyTorch treats all channels as those of one image
        layout = output.detach().to("meta")
        # no gradient reaches this in a signal pass
        output.register_hook(lambda grad: None if grad is None else laid_like(grad, layout))
    return _grouped(mode, output, input, input.shape[1], weight, eps)


def _check_parameters(
    mode: FrozenGateMode,
    func: Any,
    weight: Tensor | None,
    bias: Tensor | None = None,
    mean: Tensor | None = None,
    variance: Tensor | None = None,
) -> None:
    """Report an addend that depends on the images, and a factor that carries the signal; gates are allowed factors."""
    if weight is not None and mode.kinds[weight] is Kind.HELD:
        weight = None
    check_constant(mode, func, weight=weight, bias=bias, running_mean=mean, running_var=variance)


class Centred(Function):
    """``G_x = (c − mean c)/σ`` over the last dimensions, differentiable with respect to ``c`` and, by ``σ``, ``x``."""

    @staticmethod
    def forward(ctx: Any, scaled: Tensor, input: Tensor, dims: int, eps: float) -> Tensor:
        shape = input.shape[-dims:]
        # LayerNorm's kernel; torch.var is several times slower
        _, mean, inverse_std = torch.native_layer_norm(input, shape, None, None, eps)
        inverse_std = inverse_std.to(scaled.dtype)
        ctx.dims, ctx.count, ctx.eps = tuple(range(-dims, 0)), math.prod(shape), eps
        centred = (scaled - scaled.mean(ctx.dims, keepdim=True)).mul_(inverse_std)
        ctx.save_for_backward(centred, input, mean.to(input.dtype), inverse_std)
        return centred

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        centred, input, mean, inverse_std = ctx.saved_tensors
        if torch.is_grad_enabled():
            # for a second derivative they must be functions of x
            mean = input.mean(ctx.dims, keepdim=True)
            inverse_std = torch.rsqrt(input.var(ctx.dims, correction=0, keepdim=True) + ctx.eps)
        grad_scaled = grad_input = None
        if ctx.needs_input_grad[0]:
            grad_scaled = (grad - grad.mean(ctx.dims, keepdim=True)) * inverse_std
        if ctx.needs_input_grad[1]:
            # ∂(1/σ)/∂x = −(x − μ)/(n σ³)
            slope = (grad * centred).sum(ctx.dims, keepdim=True) * inverse_std.square() / -ctx.count
            grad_input = (input - mean) * slope
        return grad_scaled, grad_input, None, None


def _grouped(
    mode: FrozenGateMode, output: Tensor, input: Tensor, groups: int, weight: Tensor | None, eps: float
) -> Tensor:
    def formula(scaled: Tensor, x: Tensor) -> Tensor:
        # (N, C, …) -> (N, groups, C/groups, …)
        scaled, x = scaled.unflatten(1, (groups, -1)), x.unflatten(1, (groups, -1))
        return Centred.apply(scaled, x, x.ndim - 2, eps).flatten(1, 2)

    by_channel = None if weight is None else weight.view(-1, *(1,) * (input.ndim - 2))
    return _normalized(mode, output, input, by_channel, formula)


def _normalized(
    mode: FrozenGateMode, output: Tensor, input: Tensor, weight: Tensor | None, formula: Callable[..., Tensor]
) -> Tensor:
    """Attach ``G_x = formula(γ G_y, x)``."""

    def signal_function(signal: Tensor, input: Tensor, weight: Tensor | None) -> tuple[Tensor, None]:
        scaled = signal if weight is None else signal * weight
        return formula(scaled, input.to(signal.dtype)).to(input.dtype), None

    return Substitute.apply(mode.settings, signal_function, output, input, weight)
