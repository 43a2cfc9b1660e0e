"""Building blocks of handlers: a registration's settings, and functions that only change the signal pass."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.autograd import Function
from torch.overrides import handle_torch_function, has_torch_function

from zennit_isnet.errors import UnsupportedModelError

if TYPE_CHECKING:
    from zennit_isnet.lrp.signal.activation import Epsilon


class Switch(Protocol):
    """Determines whether a backward pass is a signal pass.

    The switch belongs to one registration of a composite, never to a module or to the process: two models, or two
    composites, cannot interfere, and ``loss.backward()`` after the context is an ordinary pass.
    """

    @property
    def active(self) -> bool:
        """Whether the current backward pass is a signal pass."""


def ordinary_only(switch: Switch, hook: Callable[..., Any]) -> Callable[..., Any]:
    """Return a user's gradient hook wrapped to leave signals unchanged."""

    @functools.wraps(hook)
    def gated(*args: Any, **kwargs: Any) -> Any:
        return None if switch.active else hook(*args, **kwargs)

    return gated


Handler: TypeAlias = Callable[..., Any]
"""``handler(mode, func, *args, **kwargs)`` runs ``func`` and returns its result with its signal attached."""


class Settings(Switch, Protocol):
    """What a forward pass reads from the composite's hook, and registers there to be undone on removal."""

    after: list[Callable[[], Any]]
    handlers: Mapping[Any, Handler]
    epsilon: Epsilon
    detach_statistics: bool
    input_gradient: bool


def without_second_derivative(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse to differentiate the derivative of a signal again.

    PyTorch's `once_differentiable` does so in ``backward()``; ``torch.autograd.grad`` leaves out part of the result.
    """

    @functools.wraps(backward)
    def checked(ctx: Any, *grads: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise UnsupportedModelError(
                "the gradient of a relevance cannot be differentiated again through convolutions and the gates of "
                "ReLU, ReLU6 and smooth activations; compute it without create_graph=True"
            )
        return backward(ctx, *grads)

    return checked


SignalFunction = Callable[..., "tuple[Tensor | None, ...]"]
"""``signal_function(signal_at_output, *operands)`` returns a signal or None for each operand."""


class Substitute(Function):
    """Identity on ``output`` that sends gradients to ``output`` and signals to ``operands``.

    ``output`` is computed from the operands by PyTorch's own kernels, so values and ordinary gradients are PyTorch's.
    In a signal pass that computation gets no gradient; the signal function replaces it. It uses differentiable
    operations on attached operands, so the signal is a function of the parameters. If it is None, the signal goes to
    the first operand unchanged, and nothing is kept.
    """

    @staticmethod
    def forward(
        ctx: Any, switch: Switch, signal_function: SignalFunction | None, output: Tensor, *operands: Tensor | None
    ) -> Tensor:
        ctx.switch, ctx.signal_function, ctx.count = switch, signal_function, len(operands)
        ctx.set_materialize_grads(False)
        if signal_function is not None:
            ctx.save_for_backward(*operands)
        # a detached alias, because autograd forbids in-place changes to views returned by custom functions
        return output.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Any, ...]:
        count: int = ctx.count
        if grad is None:
            return (None,) * (3 + count)
        if not ctx.switch.active:
            return (None, None, grad, *(None,) * count)
        if ctx.signal_function is None:
            return (None, None, None, grad, *(None,) * (count - 1))
        signals: tuple[Any, ...] = ctx.signal_function(grad, *ctx.saved_tensors)
        return (None, None, None, *signals)


def substitute(
    switch: Switch, signal_function: SignalFunction | None, output: Tensor, *operands: Tensor | None
) -> Tensor:
    """Attach a signal function to an output; see `Substitute`.

    Other modes on the forward pass see a call of this function, so that two composites can share a pass.
    """
    relevant = (output, *(t for t in operands if t is not None))
    if has_torch_function(relevant):
        return handle_torch_function(substitute, relevant, switch, signal_function, output, *operands)
    return Substitute.apply(switch, signal_function, output, *operands)


class InputRelevance(Function):
    """Entry of the images: the arriving signal leaves as relevance ``(x − reference) ⊙ G``."""

    @staticmethod
    def forward(ctx: Any, switch: Switch, images: Tensor, reference: Tensor | None) -> Tensor:
        ctx.switch = switch
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(images, reference)
        # a copy, so that a model that starts with an in-place operation does not change the user's images
        return images.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[None, Tensor | None, None]:
        if grad is None or not ctx.switch.active:
            return None, grad, None
        images, reference = ctx.saved_tensors
        return None, (images if reference is None else images - reference) * grad, None
