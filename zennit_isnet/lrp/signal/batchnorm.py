"""BatchNorm: an affine map with the statistics of this forward pass, constant in the signal pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from zennit_isnet.lrp.signal.substitute import Switch

aten = torch.ops.aten


def per_channel(vector: Tensor, like: Tensor) -> Tensor:
    """View a vector ``(C,)`` so that it broadcasts over ``(N, C, …)``, in the dtype of that tensor."""
    return vector.to(like.dtype).view(1, -1, *(1,) * (like.ndim - 2))


def channel_products(first: Tensor, second: Tensor) -> Tensor:
    """Sum of the products of two tensors ``(N, C, …)`` over everything but the channels."""
    if torch.is_grad_enabled():
        return (first * second).sum([d for d in range(first.ndim) if d != 1])
    # the gradient of γ at mean 0 and deviation 1 is this sum, by a kernel that makes no temporary
    dtype = torch.promote_types(first.dtype, torch.float32)
    zero = torch.zeros(first.shape[1], dtype=dtype, device=first.device)
    one = torch.ones_like(zero)
    mask = [False, True, False]
    result: Tensor = aten.native_batch_norm_backward(first, second, one, None, None, zero, one, True, 0.0, mask)[1]
    return result


class Scaled(Function):
    """``G_x = s ⊙ G_y`` with one scale for each channel, differentiable with respect to both."""

    @staticmethod
    def forward(ctx: Any, signal: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(signal, scale)
        return signal * per_channel(scale, signal)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        signal, scale = ctx.saved_tensors
        return grad * per_channel(scale, grad), channel_products(grad, signal).to(scale.dtype)


class BatchNorm(Function):
    """BatchNorm with the signal rule ``G_x = (γ/σ) ⊙ G_y``.

    Returns the normalised batch and ``γ/σ`` as a second, differentiable output. The signal pass multiplies by that
    output, so the signal depends on ``γ`` and, unless ``detach_statistics``, on ``σ(x)``, while one sample's signal
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
        # copies of the running statistics, because the next forward pass of a shared module moves them
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
            grad_input, grad_weight, grad_bias = aten.native_batch_norm_backward(
                grad, input, weight, running_mean, running_var, mean, inverse_std, ctx.training, ctx.eps, mask
            )
        if grad_scale is not None:
            if ctx.training and torch.is_grad_enabled():
                # a gradient of this gradient was asked for: σ must be a function of x in it, as in PyTorch's own kernel
                dims = [d for d in range(input.ndim) if d != 1]
                mean, inverse_std = input.mean(dims), torch.rsqrt(input.var(dims, unbiased=False) + ctx.eps)
            if weight is not None:
                through_scale = grad_scale * inverse_std
                grad_weight = through_scale if grad_weight is None else grad_weight + through_scale
            if ctx.alive:
                # ∂(γ/σ)/∂x = −γ (x − μ) / (n σ³)
                count = input.numel() // input.shape[1]
                factor = -grad_scale * scale * inverse_std**2 / count
                centered, factor = input - per_channel(mean, input), per_channel(factor, input)
                if grad_input is None:
                    grad_input = centered * factor
                elif torch.is_grad_enabled():
                    grad_input = torch.addcmul(grad_input, centered, factor)
                else:
                    grad_input.addcmul_(centered, factor)
        return None, grad_input, grad_weight, grad_bias if ctx.needs_input_grad[3] else None, *(None,) * 6


class BatchStatistics(Function):
    """``μ`` and ``1/σ`` of each channel, with one pass over the input forwards and one backwards."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        # the kernel of BatchNorm; torch.var takes several times as long over such dimensions
        _, mean, inverse_std = torch.native_batch_norm(input, None, None, None, None, True, 0.0, eps)
        ctx.save_for_backward(input, mean, inverse_std)
        return mean, inverse_std

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_mean: Tensor, grad_inverse_std: Tensor) -> tuple[Tensor, None]:
        input, mean, inverse_std = ctx.saved_tensors
        count = input.numel() // input.shape[1]
        return statistics_gradient(input, mean, inverse_std, count, grad_mean, grad_inverse_std), None


def statistics_gradient(
    input: Tensor, mean: Tensor, inverse_std: Tensor, count: int | Tensor, grad_mean: Tensor, grad_inverse_std: Tensor
) -> Tensor:
    """Gradient at the input of ``μ`` and ``1/σ`` of each channel, taken over ``count`` values."""
    # ∂μ/∂x = 1/n, ∂(1/σ)/∂x = −(x − μ) / (n σ³)
    slope = -grad_inverse_std * inverse_std**3 / count
    offset = grad_mean / count - slope * mean
    return torch.addcmul(per_channel(offset, input), input, per_channel(slope, input))
