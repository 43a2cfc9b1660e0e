"""Convolution: the signal goes back through the transposed weights, which stay attached to the graph."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F
from torch.nn.modules.utils import _ntuple

from zennit_isnet.lrp.signal.linear import affine
from zennit_isnet.lrp.signal.mode import FrozenGateMode, Kind
from zennit_isnet.lrp.signal.normalization import Scaled, channel_products, per_channel
from zennit_isnet.lrp.signal.substitute import Switch, without_second_derivative

aten = torch.ops.aten

Sizes: TypeAlias = int | str | tuple[int, ...]
"""One number for all dimensions, or one per dimension; or the name of a padding mode."""

VECTOR_WIDTH = 16
"""Numbers of single precision in a vector register of a CPU."""


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
        cls, input: Tensor, weight: Tensor, stride: Sizes = 1, padding: Sizes = 0, dilation: Sizes = 1, groups: int = 1
    ) -> Geometry | None:
        """Geometry of a call of ``conv1d/2d/3d``, or None if PyTorch does more than one convolution.

        That is the case for unbatched images, and for asymmetric ``padding="same"``.
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


def input_gradient(grad: Tensor, input_like: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """Gradient of a convolution with respect to its input, ``Wᵀ G``.

    Uses PyTorch's own kernel, except for strided convolutions of few channels (the first layer): transposed
    convolutions vectorise over channels, so three channels leave most of each vector empty. There the pixels of a
    stride cell become channels of a convolution without stride.
    """
    dims = weight.ndim - 2
    few = weight.shape[1] < VECTOR_WIDTH and max(geometry.stride) > 1
    if grad.device.type == "cpu" and dims == 2 and few and max(geometry.dilation) == 1 and geometry.groups == 1:
        return _input_gradient_by_phases(grad, input_like, weight, geometry)
    return aten.convolution_backward(grad, input_like, weight, None, *geometry, [True, False, False])[0]


def _input_gradient_by_phases(grad: Tensor, input_like: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """``x_i = Σ_o w_{i+p−so} g_o``: with ``i + p = s·q + r`` a convolution over ``q`` for each phase ``r``."""
    (rows, columns), (top, left) = geometry.stride, geometry.padding
    outputs, inputs, height, width = weight.shape
    tall, wide = -(-height // rows), -(-width // columns)
    padded = F.pad(weight, (0, wide * columns - width, 0, tall * rows - height))
    phases = padded.view(outputs, inputs, tall, rows, wide, columns).permute(1, 3, 5, 0, 2, 4).flip(4, 5)
    kernel = phases.reshape(inputs * rows * columns, outputs, tall, wide)
    cells = F.conv2d(grad, kernel, padding=(tall - 1, wide - 1))
    grid = cells.view(len(cells), inputs, rows, columns, *cells.shape[2:])
    image = grid.permute(0, 1, 4, 2, 5, 3).reshape(len(cells), inputs, cells.shape[2] * rows, cells.shape[3] * columns)
    bottom, right = (top + input_like.shape[2] - image.shape[2], left + input_like.shape[3] - image.shape[3])
    return F.pad(image, (-left, right, -top, bottom))


class TransposedSignal(Function):
    """``G_x = Wᵀ (s ⊙ G)`` for a convolution, with first-order kernels in all its derivatives.

    PyTorch's double backward of a convolution computes the same, but slower.

    The scale ``s`` of each output channel comes from a BatchNorm after the convolution, or is None. ``s ⊙ G`` is passed
    in from where it was computed, and only ``G`` is kept; in the derivatives the scale multiplies the weights or the
    signals, whichever are smaller.
    """

    @staticmethod
    def forward(
        ctx: Any,
        unscaled: Tensor,
        scale: Tensor | None,
        signal: Tensor,
        weight: Tensor,
        input_like: Tensor,
        geometry: Geometry,
    ) -> Tensor:
        ctx.geometry = geometry
        ctx.save_for_backward(unscaled, scale, weight)
        return input_gradient(signal, input_like, weight, geometry)

    @staticmethod
    @without_second_derivative
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        unscaled, scale, weight = ctx.saved_tensors
        needs_unscaled, needs_scale, _, needs_weight, *_ = ctx.needs_input_grad
        grad_unscaled = grad_scale = grad_weight = None
        if scale is not None and weight.numel() > unscaled.numel() > 0:
            factor = per_channel(scale, unscaled)
            if needs_unscaled or needs_scale:
                product = aten.convolution(grad, weight, None, *ctx.geometry)
                grad_scale = channel_products(product, unscaled).to(scale.dtype) if needs_scale else None
                grad_unscaled = product.mul_(factor)
            if needs_weight:
                grad_weight = weight_gradient(unscaled * factor, grad, weight, ctx.geometry)
            return grad_unscaled, grad_scale, None, grad_weight, None, None
        rows = None if scale is None else scale.to(weight.dtype).view(-1, *(1,) * (weight.ndim - 1))
        scaled = weight if rows is None else weight * rows
        if needs_unscaled:
            grad_unscaled = aten.convolution(grad, scaled, None, *ctx.geometry)
        if needs_scale or needs_weight:
            grad_weight = weight_gradient(unscaled, grad, weight, ctx.geometry)
            if rows is not None:
                # the sum of the products in the scaled weights' memory, which is not needed any more
                grad_scale = torch.mul(grad_weight, weight, out=scaled).flatten(1).sum(1, dtype=scale.dtype)
                grad_weight.mul_(rows)
        return grad_unscaled, grad_scale, None, grad_weight, None, None


def weight_gradient(grad: Tensor, input: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """Gradient of a convolution with respect to its weights."""
    return aten.convolution_backward(grad, input, weight, None, *geometry, [False, True, False])[1]


def transposed_signal(signal: Tensor, weight: Tensor, input_like: Tensor, geometry: Geometry) -> Tensor:
    """Return the signal at a convolution's input from the signal at its output.

    If `Scaled` made the signal in this pass, the graph continues from the input of `Scaled`, so that `Scaled` and its
    result are freed if unused.
    """
    node: Any = signal.grad_fn
    unscaled, scale = node.saved_tensors if getattr(node, "_forward_cls", None) is Scaled else (signal, None)
    return TransposedSignal.apply(unscaled, scale, signal.detach(), weight, input_like, geometry)


class Convolution(Function):
    """A convolution with two backward passes: the signal, and the ordinary gradient.

    ``needs_input`` is False if the input is the image batch and its gradient is not needed: the ordinary pass then
    skips it, as in a plain training step.
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
        return aten.convolution(input, weight, bias, *geometry)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 6
        input, weight = ctx.saved_tensors
        if ctx.switch.active:
            signal = transposed_signal(grad, weight, input.detach(), ctx.geometry)
            return None, signal, None, None, None, None
        mask = [ctx.needs_input_grad[1] and ctx.needs_input, *ctx.needs_input_grad[2:4]]
        grads = aten.convolution_backward(grad, input, weight, ctx.bias_sizes, *ctx.geometry, mask)
        return None, *(g if wanted else None for g, wanted in zip(grads, mask, strict=True)), None, None


def convolution(mode: FrozenGateMode, func: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Convolution: transposed weights."""
    return convolution_and_weights(mode, func, *args, **kwargs)[0]


def convolution_and_weights(
    mode: FrozenGateMode,
    func: Any,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> tuple[Any, tuple[Tensor, Tensor | None, Geometry] | None]:
    """Return a convolution's output and the geometry and tensors used; None if it is more than one convolution."""
    geometry = Geometry.of_call(input, weight, *args, **kwargs)
    if geometry is None or {*mode.kinds_of((weight, bias))} != {Kind.CONSTANT}:
        return affine(mode, func, input, weight, bias, *args, **kwargs), None
    reads_images = any(input is entry for entry in mode.entries)
    device = input.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        input, weight, bias = input.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    needs_input = mode.settings.input_gradient or not reads_images
    output: Tensor = Convolution.apply(mode.settings, input, weight, bias, geometry, needs_input)
    return output, (weight, bias, geometry)
