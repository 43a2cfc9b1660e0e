"""Activations: the signal is multiplied by the gate ``a / (z + ε·sign z)``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from zennit_isnet.signal.substitute import Switch, stabilize

aten = torch.ops.aten


def gate(output: Tensor, input: Tensor, epsilon: float) -> Tensor:
    """Gate of an elementwise activation ``a = g·z``: ``g = a / (z + ε·sign z)``, with ``sign 0 = 1``."""
    return output / stabilize(input, epsilon)


class ReLUGate(Function):
    """``G_z = G_a · a/(a + ε)``: the gate of a ReLU needs its output only, so an in-place ReLU stays in place."""

    @staticmethod
    def forward(ctx: Any, signal: Tensor, output: Tensor, epsilon: float) -> Tensor:
        ctx.epsilon = epsilon
        ctx.save_for_backward(signal, output)
        return signal * (output / (output + epsilon))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        signal, output = ctx.saved_tensors
        shifted = output + ctx.epsilon
        grad_signal = grad * (output / shifted)
        # ∂/∂a of a/(a + ε) = ε/(a + ε)²
        grad_output = signal * grad * (ctx.epsilon / shifted**2)
        return grad_signal, grad_output, None


class ReLU(Function):
    """ReLU with the signal rule of `ReLUGate`; ``inplace`` writes to the input as ``torch.relu_`` does."""

    @staticmethod
    def forward(ctx: Any, switch: Switch, input: Tensor, epsilon: float, inplace: bool) -> Tensor:
        ctx.switch, ctx.epsilon = switch, epsilon
        ctx.set_materialize_grads(False)
        if inplace:
            ctx.mark_dirty(input)
        output = torch.relu_(input) if inplace else torch.relu(input)
        ctx.save_for_backward(output)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[None, Tensor | None, None, None]:
        if grad is None:
            return None, None, None, None
        (output,) = ctx.saved_tensors
        if ctx.switch.active:
            return None, ReLUGate.apply(grad, output, ctx.epsilon), None, None
        return None, aten.threshold_backward(grad, output, 0), None, None
