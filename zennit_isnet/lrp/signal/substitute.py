"""Autograd functions that leave the value and the ordinary gradient alone and change the signal pass only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import Function
from torch.overrides import handle_torch_function, has_torch_function


class Switch(Protocol):
    """Tells a backward pass whether it is a signal pass.

    The switch belongs to one registration of a composite, never to a module or to the process: two models, or two
    composites, cannot disturb each other, and ``loss.backward()`` after the context is an ordinary pass.
    """

    active: bool


SignalRule = Callable[..., "tuple[Tensor | None, ...]"]
"""``rule(signal_at_output, *operands)`` returns one signal, or None, for each operand."""


class Substitute(Function):
    """Identity on ``output`` whose gradient goes to ``output``, and whose signal goes to ``operands`` by ``rule``.

    ``output`` is what PyTorch computed from the operands by its own kernels, so values and ordinary gradients are
    PyTorch's. In a signal pass that computation gets no gradient at all; the rule jumps over it. The rule is made of
    differentiable operations on operands that are attached to the graph, so the signal is a function of the
    parameters. Without a rule (None) the signal goes to the first operand as it is, and nothing is kept.
    """

    @staticmethod
    def forward(ctx: Any, switch: Switch, rule: SignalRule | None, output: Tensor, *operands: Tensor | None) -> Tensor:
        ctx.switch, ctx.rule, ctx.count = switch, rule, len(operands)
        ctx.set_materialize_grads(False)
        if rule is not None:
            ctx.save_for_backward(*operands)
        # a detached alias, because autograd forbids in-place changes of views that custom functions return
        return output.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Any, ...]:
        count: int = ctx.count
        if grad is None:
            return (None,) * (3 + count)
        if not ctx.switch.active:
            return (None, None, grad, *(None,) * count)
        if ctx.rule is None:
            return (None, None, None, grad, *(None,) * (count - 1))
        signals: tuple[Any, ...] = ctx.rule(grad, *ctx.saved_tensors)
        return (None, None, None, *signals)


def substitute(switch: Switch, rule: SignalRule | None, output: Tensor, *operands: Tensor | None) -> Tensor:
    """Attach a rule to an output; see `Substitute`.

    Modes that watch the forward pass see a call of this function, so that two composites can share one pass.
    """
    relevant = (output, *(t for t in operands if t is not None))
    if has_torch_function(relevant):
        result: Tensor = handle_torch_function(substitute, relevant, switch, rule, output, *operands)
    else:
        result = Substitute.apply(switch, rule, output, *operands)
    return result


class Hold(Function):
    """Identity that lets gradients through and stops the signal: its input is constant in the signal pass."""

    @staticmethod
    def forward(ctx: Any, switch: Switch, held: Tensor) -> Tensor:
        ctx.switch = switch
        ctx.set_materialize_grads(False)
        return held.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[None, Tensor | None]:
        return None, None if ctx.switch.active else grad


class InputRelevance(Function):
    """Entry of the images: the signal that arrives here leaves as relevance ``(x − reference) ⊙ G``."""

    @staticmethod
    def forward(ctx: Any, switch: Switch, images: Tensor, reference: Tensor | None) -> Tensor:
        ctx.switch = switch
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(images, reference)
        # a copy, so that a model that starts with an in-place operation does not write to the user's images
        return images.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[None, Tensor | None, None]:
        if grad is None or not ctx.switch.active:
            return None, grad, None
        images, reference = ctx.saved_tensors
        return None, (images if reference is None else images - reference) * grad, None


def stabilize(values: Tensor, epsilon: float | Tensor) -> Tensor:
    """Return ``z + ε·sign(z)`` with ``sign(0) = 1``.

    Parameters
    ----------
    values : Tensor
        Denominators ``z``.
    epsilon : float
        Positive shift away from zero.

    Returns
    -------
    Tensor
        Same shape as `values`, nowhere zero.
    """
    # adding zero makes −0 positive; `torch.where` with numbers costs ten times as much
    shift = torch.as_tensor(epsilon, dtype=values.dtype, device=values.device)
    return values + torch.copysign(shift, values.detach() + 0.0)
