"""What handlers are made of: the settings of a registration, and functions that change the signal pass only."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.autograd import Function
from torch.overrides import handle_torch_function, has_torch_function


class Switch(Protocol):
    """Tells a backward pass whether it is a signal pass.

    The switch belongs to one registration of a composite, never to a module or to the process: two models, or two
    composites, cannot disturb each other, and ``loss.backward()`` after the context is an ordinary pass.
    """

    @property
    def active(self) -> bool:
        """Whether a backward pass that runs now is a signal pass."""


def ordinary_only(switch: Switch, hook: Callable[..., Any]) -> Callable[..., Any]:
    """Return a user's hook for gradients that lets signals pass unchanged."""

    @functools.wraps(hook)
    def gated(*args: Any, **kwargs: Any) -> Any:
        return None if switch.active else hook(*args, **kwargs)

    return gated


def computed(tensor: Tensor) -> Tensor:
    """Return float16 as float32: quotients by a large activation leave the range of float16."""
    return tensor.float() if tensor.dtype == torch.float16 else tensor


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


class Epsilon(NamedTuple):
    """The ``ε`` of the gates: a number, or a multiple of the root mean square of each image's activations.

    Relative, ``ε_n = value · √(mean a_n²)`` follows the scale of the layer: the relevance stays as it is when a layer's
    activations are scaled and the next layer's weights by the inverse. It is a function of the parameters like the
    rest of the gate. 0 makes the gates exact, ``a/z``, and 0 where ``z = 0``.
    """

    value: float
    relative: bool = False

    @property
    def exact(self) -> bool:
        """Whether the gates are ``a/z``."""
        return self.value == 0

    def of(self, output: Tensor) -> Tensor | float:
        """``ε`` for the outputs ``a`` of a layer ``(N, …)``, broadcastable to them."""
        if not self.relative:
            return self.value
        rows = image_rows(output)
        norm = torch.linalg.vector_norm(rows, dim=1, dtype=torch.promote_types(output.dtype, torch.float32))
        # a layer that is silent throughout has gates 0 and no 0/0
        epsilon = (norm * (self.value / math.sqrt(max(rows.shape[1], 1)))).clamp(min=1e-30)
        return epsilon.to(computed(output).dtype).view(_one_an_image(output))

    def gradient(self, output: Tensor, epsilon: Tensor | float, grad_epsilon: Tensor) -> Tensor:
        """Gradient at ``a`` of a relative ``ε`` from its own, one an image: ``∂ε/∂a = value² a / (n ε)``."""
        count = output[:1].numel() if output.ndim > 1 else output.numel()
        return computed(output) * (grad_epsilon.view(_one_an_image(output)) * (self.value**2 / count) / epsilon)


def _one_an_image(output: Tensor) -> tuple[int, ...]:
    return (output.shape[0], *(1,) * (output.ndim - 1)) if output.ndim > 1 else (1,) * output.ndim


def image_rows(values: Tensor) -> Tensor:
    """One row of values for each image, in the order of the memory."""
    if values.ndim < 2:
        return values.reshape(1, -1)
    if values.ndim in (4, 5) and not values.is_contiguous():
        values = values.movedim(1, -1)  # a view of memory in the order (N, H, W, C)
    return values.flatten(1)


Handler: TypeAlias = Callable[..., Any]
"""``handler(mode, func, *args, **kwargs)`` runs ``func`` and returns its result with its signal attached."""


class Settings(Switch, Protocol):
    """What a forward pass reads from the composite's hook, and writes there to be done once that is removed."""

    after: list[Callable[[], Any]]
    handlers: Mapping[Any, Handler]
    epsilon: Epsilon
    detach_statistics: bool
    input_gradient: bool


SignalFunction = Callable[..., "tuple[Tensor | None, ...]"]
"""``signal_function(signal_at_output, *operands)`` returns one signal, or None, for each operand."""


class Substitute(Function):
    """Identity on ``output`` whose gradient goes to ``output``, and whose signal goes to ``operands``.

    ``output`` is what PyTorch computed from the operands by its own kernels, so values and ordinary gradients are
    PyTorch's. In a signal pass that computation gets no gradient at all; the signal function jumps over it. It is made
    of differentiable operations on operands that are attached to the graph, so the signal is a function of the
    parameters. Without one (None) the signal goes to the first operand as it is, and nothing is kept.
    """

    @staticmethod
    def forward(
        ctx: Any, switch: Switch, signal_function: SignalFunction | None, output: Tensor, *operands: Tensor | None
    ) -> Tensor:
        ctx.switch, ctx.signal_function, ctx.count = switch, signal_function, len(operands)
        ctx.set_materialize_grads(False)
        if signal_function is not None:
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
        if ctx.signal_function is None:
            return (None, None, None, grad, *(None,) * (count - 1))
        signals: tuple[Any, ...] = ctx.signal_function(grad, *ctx.saved_tensors)
        return (None, None, None, *signals)


def substitute(
    switch: Switch, signal_function: SignalFunction | None, output: Tensor, *operands: Tensor | None
) -> Tensor:
    """Attach a signal function to an output; see `Substitute`.

    Modes that watch the forward pass see a call of this function, so that two composites can share one pass.
    """
    relevant = (output, *(t for t in operands if t is not None))
    if has_torch_function(relevant):
        return handle_torch_function(substitute, relevant, switch, signal_function, output, *operands)
    return Substitute.apply(switch, signal_function, output, *operands)


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
