"""Linear operations, products, quotients and constants: the plain gradient, or none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from zennit_isnet.lrp.signal.mode import FrozenGateMode, Kind, tensors_in, version_of
from zennit_isnet.lrp.signal.substitute import Substitute, Switch

PRODUCTS = frozenset({torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__})
"""Out-of-place elementwise products."""

REFLECTED_QUOTIENTS = frozenset({Tensor.__rdiv__, Tensor.__rtruediv__})
"""Methods called on the denominator."""

MASKS = frozenset({"condition", "mask", "indices"})
"""Names of the selecting arguments."""


def linear(mode: FrozenGateMode, func: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Plain gradient: sums, concatenation, pooling, reshaping."""
    _check_sum(mode, func, (*args, *kwargs.values()))
    return func(*args, **kwargs)


def _check_sum(mode: FrozenGateMode, func: Any, terms: Iterable[Any]) -> None:
    if Kind.HELD in mode.kinds_of(terms):
        reason = "adds a signal and a value that is constant in the signal pass (such as a sigmoid gate)"
        mode.report(
            func, reason, "a gate may only multiply a signal; remove this sum, or declare a rule for its module"
        )


def concatenate(mode: FrozenGateMode, func: Any, /, *args: Any, **kwargs: Any) -> Tensor:
    """Plain gradient of a concatenation, whose parts get their signals in one step."""
    output: Tensor = linear(mode, func, *args, **kwargs)
    call = dict(zip(("tensors", "dim"), args, strict=False)) | kwargs
    tensors, dim = call["tensors"], call.get("axis", call.get("dim", 0))
    # PyTorch also takes mixed types, empty tensors of another shape, and names of dimensions
    alike = isinstance(dim, int) and all(t.ndim == output.ndim and t.dtype == output.dtype for t in tensors)
    if not alike or not output.requires_grad or call.get("out") is not None:
        return output
    joined: Tensor = Concatenation.apply(mode.settings, output, dim, *tensors)
    return joined


class Concatenation(Function):
    """Identity on a concatenation; its signal is split in one step.

    PyTorch takes each part's gradient as a slice. The derivative of a slice is a tensor of the full size, so the
    derivative of the signals would cost one such tensor for each part.
    """

    @staticmethod
    def forward(ctx: Any, switch: Switch, output: Tensor, dim: int, *tensors: Tensor) -> Tensor:
        ctx.switch, ctx.dim, ctx.sizes = switch, dim, [t.shape[dim] for t in tensors]
        ctx.set_materialize_grads(False)
        return output.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None or not ctx.switch.active:
            return None, grad, None, *(None for _ in ctx.sizes)
        return None, None, None, *grad.split(ctx.sizes, ctx.dim)


def select(mode: FrozenGateMode, func: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Plain gradient of a selection of a signal's values, by indices that may depend on the images."""
    _check_sum(mode, func, _floating((*args, *kwargs.values())))
    return func(*args, **kwargs)


def fill(mode: FrozenGateMode, func: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Plain gradient of a selection between a signal and other values; a mask that depends on the images is a gate."""
    position = 0 if func is torch.where else 1
    masks = [*args[position : position + 1], *(v for k, v in kwargs.items() if k in MASKS)]
    values = [*args[:position], *args[position + 1 :], *(v for k, v in kwargs.items() if k not in MASKS)]
    _check_sum(mode, func, values)
    if Kind.HELD in mode.kinds_of(masks):
        others = [v for v in values if not (isinstance(v, Tensor) and mode.kinds[v] is not Kind.CONSTANT)]
        if not all(mode.kinds.is_zero(other) for other in others):
            remedy = "fill with zeros from torch.zeros_like, or multiply by the mask"
            mode.report(func, "selects between a signal and a constant by a mask that depends on the images", remedy)
    return func(*args, **kwargs)


def _floating(values: Iterable[Any]) -> list[Tensor]:
    return [t for t in tensors_in(values) if t.is_floating_point()]


def product(mode: FrozenGateMode, func: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Plain gradient of a product; factors without a signal are constant, and several signals get equal shares."""
    factors = list(tensors_in((*args, *kwargs.values())))
    kinds = mode.kinds_of(factors)
    output = func(*args, **kwargs)
    count = kinds.count(Kind.SIGNAL)
    if count > 1:
        return _shared(mode, func, output, factors, count)
    if func in PRODUCTS and sorted(kinds) == [Kind.HELD, Kind.SIGNAL]:
        signal, held = sorted(factors, key=lambda factor: mode.kinds[factor] is Kind.HELD)
        if output.shape == signal.shape:
            # otherwise the gate's gradient would be computed and then stopped
            gated: Tensor = GateProduct.apply(mode.settings, output, signal, held)
            return gated
    return output


class GateProduct(Function):
    """Identity on a product with a gate, with the signal going to the other factor, which is not kept."""

    @staticmethod
    def forward(ctx: Any, switch: Switch, output: Tensor, signal: Tensor, held: Tensor) -> Tensor:
        ctx.switch = switch
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(held)
        return output.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[None, Tensor | None, Tensor | None, None]:
        if grad is None or not ctx.switch.active:
            return None, grad, None, None
        (held,) = ctx.saved_tensors
        return None, None, grad * held, None


class Share(Function):
    """Identity that passes gradients on and divides the signal by a number."""

    @staticmethod
    def forward(ctx: Any, switch: Switch, output: Tensor, count: int) -> Tensor:
        ctx.switch, ctx.count = switch, count
        ctx.set_materialize_grads(False)
        return output.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[None, Tensor | None, None]:
        return None, grad / ctx.count if grad is not None and ctx.switch.active else grad, None


def _shared(mode: FrozenGateMode, func: Any, output: Tensor, factors: list[Tensor], count: int) -> Tensor:
    """Return a product of several signals as the mean of products with all factors but one held constant."""
    if any(output is factor for factor in factors):
        mode.report(func, "multiplies two tensors that both carry the signal in place", "multiply out of place")
        return output
    shared: Tensor = Share.apply(mode.settings, output, count)
    return shared


def added_product(mode: FrozenGateMode, func: Any, /, *args: Any, **kwargs: Any) -> Tensor:
    """``a + b·c`` or ``a + B c``: plain gradient of a sum whose second term may be a product with the signal."""
    call = dict(zip(ADDENDS[func.__name__.rstrip("_")], args, strict=False)) | kwargs
    addend, *factors = (call[name] for name in ADDENDS[func.__name__.rstrip("_")])
    signals = mode.kinds_of(factors).count(Kind.SIGNAL)
    _check_sum(mode, func, (addend,) if signals else (addend, *factors))
    if signals > 1:
        mode.report(func, "multiplies two tensors that both carry the signal", "multiply first, and then add")
    return func(*args, **kwargs)


ADDENDS: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {
        "addcmul": ("input", "tensor1", "tensor2"),
        "addmm": ("input", "mat1", "mat2"),
        "addmv": ("input", "mat", "vec"),
        "addbmm": ("input", "batch1", "batch2"),
        "baddbmm": ("input", "batch1", "batch2"),
    }
)
"""Names of the summand and the factors."""


def lerp(mode: FrozenGateMode, func: Any, input: Tensor, end: Tensor, weight: Any) -> Tensor:
    """``a + w (b − a)``: plain gradient, with weights that are constant in the signal pass."""
    _check_sum(mode, func, (input, end))
    if Kind.SIGNAL in mode.kinds_of((weight,)):
        mode.report(
            func, "has a weight that carries the signal", "compute the weight by a gate, such as sigmoid or softmax"
        )
    return func(input, end, weight)


def quotient(mode: FrozenGateMode, func: Any, input: Any, other: Any, **kwargs: Any) -> Any:
    """Plain gradient of a quotient whose denominator is constant in the signal pass."""
    divisor = input if func in REFLECTED_QUOTIENTS else other
    if isinstance(divisor, Tensor) and mode.kinds[divisor] is Kind.SIGNAL:
        mode.report(func, "divides by a tensor that carries the signal", "declare a rule for the module")
    if kwargs.get("rounding_mode") is not None:
        mode.report(func, "rounds its result", "divide without rounding_mode")
    return func(input, other, **kwargs)


class Hold(Function):
    """Identity that passes gradients on and stops the signal: its input is constant in the signal pass."""

    @staticmethod
    def forward(ctx: Any, switch: Switch, held: Tensor) -> Tensor:
        ctx.switch = switch
        ctx.set_materialize_grads(False)
        return held.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[None, Tensor | None]:
        return None, None if ctx.switch.active else grad


def hold(mode: FrozenGateMode, func: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Gates such as sigmoid, and attention weights: constant in the signal pass, attached to the parameters."""
    operands = list(tensors_in((*args, *kwargs.values())))
    versions = [version_of(t) for t in operands]
    values = func(*args, **kwargs)
    if not isinstance(values, Tensor):
        mode.report(func, f"is declared a gate and returns {type(values).__name__}", "use a function with one result")
        return values
    held = held_constant(mode, values, operands)
    mode.note_gate(func)
    for tensor, before in zip(operands, versions, strict=True):
        if version_of(tensor) != before:
            mode.kinds[tensor] = Kind.STALE
            if mode.kinds.shared(tensor):
                reason = "overwrites part of a signal, or a signal with a view in use, with a gate"
                mode.report(func, reason, "compute the gate out of place")
    return held


def held_constant(mode: FrozenGateMode, values: Tensor, operands: Iterable[Tensor]) -> Tensor:
    """Return values computed from operands, constant in the signal pass; the operands' problems end here."""
    held: Tensor = Hold.apply(mode.settings, values)
    mode.kinds[held] = Kind.HELD
    mode.kinds.add_flaws(held, mode.kinds.flaws_of(operands))
    return held


def shaped(mode: FrozenGateMode, func: Any, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Plain gradient of functions that only use the shape or dtype of their other operands."""
    result: Tensor = func(input, *args, **kwargs)
    if result is not input:
        mode.kinds.copy(result, input)
    return result


def constant(mode: FrozenGateMode, func: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Results without a gradient, such as comparisons and ``detach``: they depend on the images."""
    result = func(*args, **kwargs)
    for tensor in tensors_in((result,)):
        mode.kinds[tensor] = Kind.HELD
    return result


def alias(
    mode: FrozenGateMode, func: Any, switch: Any, signal_function: Any, output: Tensor, *operands: Tensor | None
) -> Any:
    """Another composite on the same pass: the result of its `substitute` has the kind of its output."""
    result = func(switch, signal_function, output, *operands)
    mode.kinds.copy(result, output)
    return result


def dropout(
    mode: FrozenGateMode, func: Any, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Dropout is linear; it runs out of place, so that gates can keep their activation."""
    result: Tensor = func(input, p, training, False)
    return overwrite(mode, input, result) if inplace and result is not input else result


def overwrite(mode: FrozenGateMode, input: Tensor, result: Tensor) -> Tensor:
    """Return the result of an in-place operation that was run out of place.

    Other tensors in the input's memory (its base, or a view that the model still holds) must see the values, so they
    are copied there. If there are none, the input itself may not be read any more.
    """
    if mode.kinds.shared(input):
        return input.copy_(result)
    mode.kinds[input] = Kind.STALE
    return result


def affine(
    mode: FrozenGateMode, func: Any, input: Tensor, weight: Tensor, bias: Any = None, *args: Any, **kwargs: Any
) -> Any:
    """``W x + b``: plain gradient, with weights that do not depend on the images."""
    check_constant(mode, func, weight=weight, bias=bias)
    output = func(input, weight, bias, *args, **kwargs)
    is_linear = func is F.linear and weight.ndim == 2
    return Linear.apply(mode.settings, output, input, weight, bias) if is_linear else output


class Linear(Function):
    """Identity on the output of a linear layer, with the signal ``G_x = Wᵀ G``, and ``Σ G`` for the bias.

    PyTorch's own derivative of the signal with respect to ``W`` is a transposed view, which cannot be added in place to
    the ordinary gradient.
    """

    @staticmethod
    def forward(ctx: Any, switch: Switch, output: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.switch, ctx.dtype, ctx.bias_dtype = switch, input.dtype, None if bias is None else bias.dtype
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(weight)
        return output.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None or not ctx.switch.active:
            return None, grad, None, None, None
        (weight,) = ctx.saved_tensors
        signal = TransposedWeights.apply(grad, weight.to(grad.dtype)).to(ctx.dtype) if ctx.needs_input_grad[2] else None
        through_bias = _rows(grad).sum(0).to(ctx.bias_dtype) if ctx.needs_input_grad[4] else None
        return None, None, signal, None, through_bias


class TransposedWeights(Function):
    """``Wᵀ G``, whose derivatives have the layout of their tensors."""

    @staticmethod
    def forward(ctx: Any, signal: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(signal, weight)
        return signal @ weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        signal, weight = ctx.saved_tensors
        grad_signal = grad @ weight.t() if ctx.needs_input_grad[0] else None
        grad_weight = _rows(signal).t() @ _rows(grad) if ctx.needs_input_grad[1] else None
        return grad_signal, grad_weight


def _rows(values: Tensor) -> Tensor:
    """View ``(…, C)`` as ``(n, C)``."""
    return values.unsqueeze(0) if values.ndim == 1 else values.flatten(0, -2)


def check_constant(mode: FrozenGateMode, func: Any, **parameters: Any) -> None:
    """Report a layer's parameters that depend on the images; an added one would carry its own signal."""
    dependent = [name for name, value in parameters.items() if {*mode.kinds_of((value,))} - {Kind.CONSTANT}]
    if dependent:
        reason = f"has a {' and a '.join(dependent)} that depends on the images"
        mode.report(func, reason, "multiply by it and add it in separate operations, or declare a rule")


def glu(mode: FrozenGateMode, func: Any, input: Tensor, dim: int = -1) -> Tensor:
    """``a ⊙ sigmoid(b)`` with the halves of the input: the signal goes through ``a``, the gate is held constant."""

    def signal_function(signal: Tensor, input: Tensor) -> tuple[Tensor]:
        gate = input.chunk(2, dim)[1].sigmoid()
        return (torch.cat([signal * gate, torch.zeros_like(signal)], dim),)

    output = func(input, dim)
    return Substitute.apply(mode.settings, signal_function, output, input)


def grid_sample(mode: FrozenGateMode, func: Any, /, input: Tensor, grid: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Interpolation at positions that are held constant, even if they depend on the images."""
    if mode.kinds[grid] is Kind.SIGNAL:
        grid = held_constant(mode, grid, (grid,))
    if mode.kinds[input] is Kind.SIGNAL:
        return func(input, grid, *args, **kwargs)
    return held_constant(mode, func(input, grid, *args, **kwargs), (input, grid))


def divided(signal: Tensor, input: Tensor, denominator: Tensor) -> tuple[Tensor, None]:
    """``G_x = G_y / d`` with ``d`` held constant."""
    return signal / denominator, None


def normalize(
    mode: FrozenGateMode, func: Any, input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Any = None
) -> Tensor:
    """``x / max(‖x‖, eps)`` with the norm held constant."""
    if out is not None:
        mode.report(func, "writes to out", "use out=None")
    norm = torch.linalg.vector_norm(input, p, dim, keepdim=True).clamp_min(eps)
    return Substitute.apply(mode.settings, divided, func(input, p, dim, eps, out=out), input, norm)


def local_response_norm(
    mode: FrozenGateMode, func: Any, input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """``x / (k + α · mean of x² over neighbouring channels)^β`` with the denominator held constant."""
    squares = F.pad(input.square().movedim(1, -1), (size // 2, (size - 1) // 2))
    denominator = (k + alpha * squares.unfold(-1, size, 1).mean(-1).movedim(-1, 1)) ** beta
    return Substitute.apply(mode.settings, divided, func(input, size, alpha, beta, k), input, denominator)
