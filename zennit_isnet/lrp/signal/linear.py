"""Linear operations, products, quotients and what is held constant: the plain gradient, or none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from zennit_isnet.lrp.signal.mode import FrozenGateMode, Kind, tensors_in
from zennit_isnet.lrp.signal.substitute import Substitute, Switch, version

PRODUCTS = frozenset({torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__})
"""Elementwise products that make a new tensor."""

REFLECTED_QUOTIENTS = frozenset({Tensor.__rdiv__, Tensor.__rtruediv__})
"""Methods of the denominator."""

DETACH = frozenset({torch.detach, torch.detach_, Tensor.detach, Tensor.detach_})
"""Functions whose result has the values of a signal and carries none."""


def linear(mode: FrozenGateMode, func: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Plain gradient: sums, concatenation, pooling, reshaping, assignment to parts."""
    _check_sum(mode, func, (*args, *kwargs.values()))
    return func(*args, **kwargs)


def _check_sum(mode: FrozenGateMode, func: Any, terms: Iterable[Any]) -> None:
    if Kind.HELD in mode.kinds_of(terms):
        reason = "adds a signal and something that is constant in the signal pass (a sigmoid gate, for example)"
        mode.report(func, reason, "a gate may only multiply a signal; explain the model without this sum")


def product(mode: FrozenGateMode, func: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Plain gradient of a product in which exactly one factor carries the signal; the others are constant."""
    _check_product(mode, func, (*args, *kwargs.values()))
    output = func(*args, **kwargs)
    factors = dict(zip(mode.kinds_of(args), tensors_in(args), strict=True))
    if func in PRODUCTS and set(factors) == {Kind.SIGNAL, Kind.HELD} and output.shape == factors[Kind.SIGNAL].shape:
        # the plain gradient would be computed for the gate too, and then stopped
        return Substitute.apply(mode.settings, _times_gate, output, factors[Kind.SIGNAL], factors[Kind.HELD])
    return output


def _check_product(mode: FrozenGateMode, func: Any, factors: Iterable[Any]) -> None:
    if mode.kinds_of(factors).count(Kind.SIGNAL) > 1:
        reason = "multiplies two tensors that both carry the signal"
        mode.report(func, reason, "hold one factor constant (a gate), or register a rule for the module")


def _times_gate(signal: Tensor, _: Tensor, held: Tensor) -> tuple[Tensor, None]:
    return signal * held, None


def addcmul(mode: FrozenGateMode, func: Any, input: Tensor, tensor1: Tensor, tensor2: Tensor, **kwargs: Any) -> Tensor:
    """``a + b·c``: plain gradient of a sum whose second term may be a product with the signal."""
    factors = (tensor1, tensor2)
    _check_product(mode, func, factors)
    _check_sum(mode, func, (input,) if Kind.SIGNAL in mode.kinds_of(factors) else (input, *factors))
    return func(input, *factors, **kwargs)


def quotient(mode: FrozenGateMode, func: Any, input: Any, other: Any, **kwargs: Any) -> Any:
    """Plain gradient of a quotient whose denominator is constant in the signal pass."""
    divisor = input if func in REFLECTED_QUOTIENTS else other
    if isinstance(divisor, Tensor) and mode.kinds[divisor] is Kind.SIGNAL:
        mode.report(func, "divides by a tensor that carries the signal", "register a rule for the module")
    return func(input, other, **kwargs)


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


def hold(mode: FrozenGateMode, func: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Gates such as the sigmoid, and attention weights: constant in the signal pass, alive for the parameters."""
    operands = list(tensors_in((*args, *kwargs.values())))
    versions = [version(t) for t in operands]
    values = func(*args, **kwargs)
    if not isinstance(values, Tensor):
        mode.report(func, f"is declared a gate and returns {type(values).__name__}", "use a function with one result")
        return values
    held = held_constant(mode, values, operands)
    mode.note_gate(func)
    for tensor, before in zip(operands, versions, strict=True):
        if version(tensor) != before:
            mode.kinds[tensor] = Kind.STALE
    return held


def held_constant(mode: FrozenGateMode, values: Tensor, operands: Iterable[Tensor]) -> Tensor:
    """Return values computed from operands, constant in the signal pass; what is wrong with them ends here."""
    held: Tensor = Hold.apply(mode.settings, values)
    mode.kinds[held] = Kind.HELD
    mode.kinds.add_flaws(held, mode.kinds.flaws_of(operands))
    return held


def shaped(mode: FrozenGateMode, func: Any, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Plain gradient of functions that look only at the shape or dtype of their other operands."""
    result: Tensor = func(input, *args, **kwargs)
    if result is not input:
        mode.kinds.copy(result, input)
    return result


def constant(mode: FrozenGateMode, func: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Results that have no gradient anyway, such as comparisons and ``detach``."""
    result = func(*args, **kwargs)
    for tensor in tensors_in((result,)):
        mode.kinds[tensor] = Kind.HELD if func in DETACH else Kind.CONSTANT
    return result


def alias(
    mode: FrozenGateMode, func: Any, switch: Any, signal_function: Any, output: Tensor, *operands: Tensor | None
) -> Any:
    """Another composite on the same pass: here the result of its `substitute` is what its output is."""
    result = func(switch, signal_function, output, *operands)
    mode.kinds.copy(result, output)
    return result


def dropout(
    mode: FrozenGateMode, func: Any, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Dropout is linear; run out of place, so that gates may keep their activation."""
    result: Tensor = func(input, p, training, False)
    if inplace and result is not input:
        mode.kinds[input] = Kind.STALE
    return result


def affine(
    mode: FrozenGateMode, func: Any, input: Tensor, weight: Tensor, bias: Any = None, *args: Any, **kwargs: Any
) -> Any:
    """``W x + b``: plain gradient, with weights that do not depend on the images."""
    if {*mode.kinds_of((weight, bias))} != {Kind.CONSTANT}:
        mode.report(func, "has a bias or weight that depends on the images", "register a rule for the module")
    return func(input, weight, bias, *args, **kwargs)
