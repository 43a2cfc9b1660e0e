"""Activations: the signal is multiplied by the gate ``a / (z + ε·sign z)``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from zennit_isnet.signal.substitute import Switch, stabilize

aten = torch.ops.aten


def computed(tensor: Tensor) -> Tensor:
    """Return float16 as float32: quotients by a large activation leave the range of float16."""
    return tensor.float() if tensor.dtype == torch.float16 else tensor


class Gate(Function):
    """``G_z = G_a · a/(z + ε·sign z)`` with ``sign 0 = 1``, differentiable with respect to ``G_a``, ``a`` and ``z``."""

    @staticmethod
    def forward(ctx: Any, signal: Tensor, output: Tensor, input: Tensor, epsilon: float) -> Tensor:
        ctx.epsilon = epsilon
        ctx.save_for_backward(signal, output, input)
        return stabilize(computed(input), epsilon).reciprocal_().mul_(output).mul_(signal).to(signal.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        signal, output, input = ctx.saved_tensors
        inverse = stabilize(computed(input), ctx.epsilon).reciprocal_()
        gate = inverse * output
        # in place, fresh memory being what costs most, unless this gradient has to be differentiated itself
        times = Tensor.mul if torch.is_grad_enabled() else Tensor.mul_
        # ∂/∂a of a/z is 1/z, ∂/∂z is −(a/z)/z
        grad_output = times(times(inverse, grad), signal)
        grad_input = (grad_output * gate).neg_()
        grad_signal = times(gate, grad)
        return grad_signal.to(signal.dtype), grad_output.to(output.dtype), grad_input.to(input.dtype), None


class ReLUGate(Function):
    """``G_z = G_a · a/(a + ε)``: the gate of a ReLU needs its output only, so an in-place ReLU stays in place.

    Keeps the share ``G_a/(a + ε)``, of which both the result and the derivatives are products.
    """

    @staticmethod
    def forward(ctx: Any, signal: Tensor, output: Tensor, epsilon: float) -> Tensor:
        ctx.epsilon = epsilon
        shifted = computed(output) + epsilon
        share = torch.div(signal, shifted, out=shifted)
        ctx.save_for_backward(share.to(signal.dtype), output)
        return (share * output).to(signal.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        share, output = ctx.saved_tensors
        shifted = computed(output) + ctx.epsilon
        quotient = torch.div(grad, shifted, out=shifted)
        grad_signal = quotient * output
        # ∂/∂a of a/(a + ε) = ε/(a + ε)²
        grad_output = quotient.mul_(share).mul_(ctx.epsilon)
        return grad_signal.to(grad.dtype), grad_output.to(output.dtype), None


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
