"""Convolution: the signal goes back through the transposed weights, which stay attached to the graph."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.modules.utils import _ntuple

from zennit_isnet.signal.substitute import Switch

aten = torch.ops.aten


class Geometry(NamedTuple):
    """Arguments of a convolution other than its tensors, in the order of ``aten.convolution``."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int

    @classmethod
    def of_call(
        cls,
        input: Tensor,
        weight: Tensor,
        stride: int | tuple[int, ...],
        padding: int | str | tuple[int, ...],
        dilation: int | tuple[int, ...],
        groups: int,
    ) -> Geometry | None:
        """Geometry of a call of ``conv1d/2d/3d``, or None where PyTorch does more than one convolution.

        That is the case for an image without batch dimension, and for ``padding="same"`` with more on one side.
        """
        dims = weight.ndim - 2
        spread = _ntuple(dims)
        if input.ndim != weight.ndim:
            return None
        if padding == "same":
            total = [d * (k - 1) for d, k in zip(spread(dilation), weight.shape[2:], strict=True)]
            if any(t % 2 for t in total):
                return None
            padding = tuple(t // 2 for t in total)
        sides = 0 if padding == "valid" else padding
        return cls(spread(stride), spread(sides), spread(dilation), False, (0,) * dims, groups)


class TransposedSignal(Function):
    """``G_x = Wᵀ G_y`` for a convolution, with first-order kernels in both of its derivatives.

    PyTorch's double backward of a convolution computes the same from slower, more general pieces.
    """

    @staticmethod
    def forward(ctx: Any, signal: Tensor, weight: Tensor, input_like: Tensor, geometry: Geometry) -> Tensor:
        ctx.geometry = geometry
        ctx.save_for_backward(signal, weight)
        mask = [True, False, False]
        result: Tensor = aten.convolution_backward(signal, input_like, weight, None, *geometry, mask)[0]
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        signal, weight = ctx.saved_tensors
        grad_signal = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_signal = aten.convolution(grad, weight, None, *ctx.geometry)
        if ctx.needs_input_grad[1]:
            mask = [False, True, False]
            grad_weight = aten.convolution_backward(signal, grad, weight, None, *ctx.geometry, mask)[1]
        return grad_signal, grad_weight, None, None


class Convolution(Function):
    """A convolution with two backward passes: the signal, and the ordinary gradient.

    ``needs_input`` is False where the input is the image batch and nobody asked for its gradient: the ordinary pass
    then skips it, as it does in a plain training step.
    """

    @staticmethod
    def forward(
        ctx: Any,
        switch: Switch,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        geometry: Geometry,
        needs_input: bool,
    ) -> Tensor:
        ctx.switch, ctx.geometry, ctx.needs_input = switch, geometry, needs_input
        ctx.bias_sizes = None if bias is None else list(bias.shape)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(input, weight)
        result: Tensor = aten.convolution(input, weight, bias, *geometry)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 6
        input, weight = ctx.saved_tensors
        if ctx.switch.active:
            signal = TransposedSignal.apply(grad, weight, input.detach(), ctx.geometry)
            return None, signal, None, None, None, None
        mask = [ctx.needs_input_grad[1] and ctx.needs_input, *ctx.needs_input_grad[2:4]]
        grads = aten.convolution_backward(grad, input, weight, ctx.bias_sizes, *ctx.geometry, mask)
        return None, *(g if wanted else None for g, wanted in zip(grads, mask, strict=True)), None, None
