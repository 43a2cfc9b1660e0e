"""The rules of the frozen-gate network: each runs an operation and attaches what the signal does there."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from zennit_isnet.lrp.signal.activation import SMOOTH, Gate, ReLU, SmoothGate
from zennit_isnet.lrp.signal.batchnorm import BatchNorm
from zennit_isnet.lrp.signal.convolution import Convolution, Geometry
from zennit_isnet.lrp.signal.mode import FrozenGateMode
from zennit_isnet.lrp.signal.provenance import Kind, tensors_in
from zennit_isnet.lrp.signal.substitute import Hold, SignalRule, Substitute

ELEMENTWISE: tuple[Callable[..., Any], ...] = (
    *(F.celu, F.elu, F.gelu, F.hardshrink, F.hardswish, F.leaky_relu, F.mish, F.prelu, F.relu6, F.rrelu, F.selu),
    *(F.silu, F.softshrink, F.softsign, F.tanh, F.tanhshrink, torch.celu, torch.hardshrink, torch.prelu, torch.selu),
    *(torch.tanh, Tensor.tanh, Tensor.hardshrink),
)
"""Elementwise activations with ``a(0) = 0``."""

RANDOM_ACTIVATIONS = frozenset({F.rrelu})

IN_PLACE_RELUS = frozenset({F.relu_, torch.relu_, Tensor.relu_})

IN_PLACE_ACTIVATIONS: Mapping[Any, Callable[..., Any]] = MappingProxyType(
    {
        **{F.celu_: F.celu, F.elu_: F.elu, F.leaky_relu_: F.leaky_relu, F.rrelu_: F.rrelu, F.selu_: F.selu},
        **{torch.celu_: torch.celu, torch.selu_: torch.selu, torch.tanh_: torch.tanh, Tensor.tanh_: torch.tanh},
    }
)
"""Functions that always work in place, and the same out of place."""

PRODUCTS = frozenset({torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__})
"""Elementwise products that make a new tensor."""

REFLECTED_QUOTIENTS = frozenset({Tensor.__rdiv__, Tensor.__rtruediv__})
"""Methods of the denominator."""

DETACH = frozenset({torch.detach, torch.detach_, Tensor.detach, Tensor.detach_})
"""Functions whose result has the values of a signal and carries none."""

INPLACE_POSITION: Mapping[Any, int] = MappingProxyType(
    {
        func: list(inspect.signature(func).parameters).index("inplace")
        for func in (F.celu, F.elu, F.hardswish, F.hardtanh, F.leaky_relu, F.mish, F.relu6, F.rrelu, F.selu, F.silu)
    }
)
"""Where the functions that can work in place take that argument."""


def linear(mode: FrozenGateMode, func: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Plain gradient: sums, concatenation, pooling, reshaping, linear layers."""
    _check_sum(mode, func, tensors_in((*args, *kwargs.values())))
    return func(*args, **kwargs)


def _check_sum(mode: FrozenGateMode, func: Any, terms: Iterable[Tensor]) -> None:
    if any(mode.kinds[term] is Kind.HELD for term in terms):
        reason = "adds a signal and something that is constant in the signal pass (a sigmoid gate, for example)"
        mode.report(func, reason, "a gate may only multiply a signal; explain the model without this sum")


def assignment(mode: FrozenGateMode, func: Any, target: Tensor, index: Any, value: Any) -> None:
    """``target[index] = value`` is linear and makes the target carry the signal."""
    linear(mode, func, target, index, value)


def product(mode: FrozenGateMode, func: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Plain gradient of a product in which exactly one factor carries the signal; the others are constant."""
    _check_product(mode, func, tensors_in((*args, *kwargs.values())))
    output = func(*args, **kwargs)
    factors = dict(zip((mode.kinds[t] for t in tensors_in(args)), tensors_in(args), strict=True))
    if func in PRODUCTS and set(factors) == {Kind.SIGNAL, Kind.HELD} and output.shape == factors[Kind.SIGNAL].shape:
        # the plain gradient would be computed for the gate too, and then stopped
        return Substitute.apply(mode.settings, _times_gate, output, factors[Kind.SIGNAL], factors[Kind.HELD])
    return output


def _check_product(mode: FrozenGateMode, func: Any, factors: Iterable[Tensor]) -> None:
    if sum(mode.kinds[factor] is Kind.SIGNAL for factor in factors) > 1:
        reason = "multiplies two tensors that both carry the signal"
        mode.report(func, reason, "hold one factor constant (a gate), or register a rule for the module")


def addcmul(mode: FrozenGateMode, func: Any, input: Tensor, tensor1: Tensor, tensor2: Tensor, **kwargs: Any) -> Tensor:
    """``a + b·c``: plain gradient of a sum whose second term may be a product with the signal."""
    factors = (tensor1, tensor2)
    _check_product(mode, func, factors)
    carries_signal = any(mode.kinds[factor] is Kind.SIGNAL for factor in factors)
    _check_sum(mode, func, (input,) if carries_signal else (input, *factors))
    result: Tensor = func(input, *factors, **kwargs)
    return result


def _times_gate(signal: Tensor, _: Tensor, held: Tensor) -> tuple[Tensor, None]:
    return signal * held, None


def quotient(mode: FrozenGateMode, func: Any, numerator: Any, denominator: Any, **kwargs: Any) -> Any:
    """Plain gradient of a quotient whose denominator is constant in the signal pass."""
    divisor = numerator if func in REFLECTED_QUOTIENTS else denominator
    if isinstance(divisor, Tensor) and mode.kinds[divisor] is Kind.SIGNAL:
        mode.report(func, "divides by a tensor that carries the signal", "register a rule for the module")
    return func(numerator, denominator, **kwargs)


def hold(mode: FrozenGateMode, func: Any, /, *args: Any, **kwargs: Any) -> Tensor:
    """Gates such as the sigmoid, and attention weights: constant in the signal pass, alive for the parameters."""
    operands = list(tensors_in((*args, *kwargs.values())))
    versions = [t._version for t in operands]
    held = held_constant(mode, func(*args, **kwargs), operands)
    for tensor, version in zip(operands, versions, strict=True):
        if tensor._version != version:
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


def alias(mode: FrozenGateMode, func: Any, switch: Any, rule: Any, output: Tensor, *operands: Tensor | None) -> Any:
    """Another composite's rule on the same pass: here its result is what its output is."""
    result = func(switch, rule, output, *operands)
    mode.kinds.copy(result, output)
    if mode.stem is not None and output is mode.stem.tail:
        mode.stem.tail = result
    return result


def dropout(
    mode: FrozenGateMode, func: Any, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Dropout is linear; run out of place, so that gates may keep their activation."""
    result: Tensor = func(input, p, training, False)
    if inplace and result is not input:
        mode.kinds[input] = Kind.STALE
    return result


def affine(mode: FrozenGateMode, func: Any, input: Tensor, weight: Tensor, bias: Any = None, *args: Any) -> Any:
    """``W x + b``: plain gradient, with weights that do not depend on the images."""
    for name, parameter in (("weight", weight), ("bias", bias)):
        if isinstance(parameter, Tensor) and mode.kinds[parameter] is not Kind.CONSTANT:
            mode.report(func, f"has a {name} that depends on the images", "register a rule for the module")
    return func(input, weight, bias, *args)


def convolution(
    mode: FrozenGateMode,
    func: Any,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: int | str | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
) -> Any:
    """Convolution: transposed weights."""
    geometry = Geometry.of_call(input, weight, stride, padding, dilation, groups)
    if geometry is None or mode.kinds[weight] is not Kind.CONSTANT:
        return affine(mode, func, input, weight, bias, stride, padding, dilation, groups)
    reads_images = any(input is entry for entry in mode.entries)
    device = input.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        input, weight, bias = input.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    needs_input = mode.settings.input_gradient or not reads_images
    output: Tensor = Convolution.apply(mode.settings, input, weight, bias, geometry, needs_input)
    if reads_images and mode.stem is not None:
        mode.stem.start(output, weight, bias, geometry)
    return output


def batch_norm(
    mode: FrozenGateMode,
    func: Any,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """BatchNorm: ``γ/σ`` with the statistics of this pass."""
    if training and input.numel() == input.shape[1]:
        # one value per channel has no variance: PyTorch's own error
        return func(input, running_mean, running_var, weight, bias, training, momentum, eps)
    detach = mode.settings.detach_statistics
    output, scale = BatchNorm.apply(
        mode.settings, input, weight, bias, running_mean, running_var, training, momentum, eps, detach
    )
    if mode.stem is not None and input is mode.stem.tail:
        mode.stem.fold(output, scale)
    return output


def relu(mode: FrozenGateMode, func: Any, input: Tensor, inplace: bool = False) -> Tensor:
    """ReLU: gate ``a/(a + ε)``, in place where the model says so."""
    inplace = inplace or func in IN_PLACE_RELUS
    ends_stem = mode.stem is not None and input is mode.stem.tail
    if inplace and input._is_view():
        return input.copy_(relu(mode, torch.relu, input))
    output: Tensor = ReLU.apply(mode.settings, input, mode.settings.epsilon, inplace and not ends_stem)
    if ends_stem and mode.stem is not None:
        output = mode.stem.end(mode, output)
        if inplace:
            mode.kinds[input] = Kind.STALE
    return output


def activation(mode: FrozenGateMode, func: Any, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Any elementwise activation with ``a(0) = 0``: gate ``a / (z + ε·sign z)``, or that of a smooth ReLU."""
    epsilon = mode.settings.epsilon
    inplace, func, args, kwargs = out_of_place(func, args, kwargs)
    overwrites = inplace and input._is_view()
    preactivation = input.clone() if overwrites else input
    output = func(preactivation, *args, **kwargs)

    rule: SignalRule
    operands: tuple[Tensor, ...] = (preactivation,)
    if func in SMOOTH:
        options = dict(zip(("approximate",), args, strict=False)) | kwargs

        def rule(signal: Tensor, preactivation: Tensor) -> tuple[Tensor]:
            return (SmoothGate.apply(signal, preactivation, SMOOTH[func], options, epsilon),)
    elif func in RANDOM_ACTIVATIONS:
        operands = (preactivation, output)

        def rule(signal: Tensor, preactivation: Tensor, output: Tensor) -> tuple[Tensor, None]:
            return Gate.apply(signal, output, preactivation, epsilon), None
    else:
        # the output is computed again instead of kept: the model may go on to write to the output in place
        def rule(signal: Tensor, preactivation: Tensor) -> tuple[Tensor]:
            return (Gate.apply(signal, func(preactivation, *args, **kwargs), preactivation, epsilon),)

    result: Tensor = Substitute.apply(mode.settings, rule, output, *operands)
    if mode.stem is not None and input is mode.stem.tail:
        result = mode.stem.end(mode, output)
    if overwrites:
        return input.copy_(result)
    if inplace:
        mode.kinds[input] = Kind.STALE
    return result


def hardtanh(
    mode: FrozenGateMode, func: Any, input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Tensor:
    """Hardtanh has ``a(0) = 0`` only where its range contains zero."""
    if not min_val <= 0 <= max_val:
        mode.report(func, f"has the range [{min_val}, {max_val}]", "use a range that contains 0, so that a(0) = 0")
    return activation(mode, func, input, min_val, max_val, inplace=inplace)


def out_of_place(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bool, Any, Any, Any]:
    """Return whether a call works in place, and the same call out of place."""
    if func in IN_PLACE_ACTIVATIONS:
        return True, IN_PLACE_ACTIVATIONS[func], args, kwargs
    if func in INPLACE_POSITION:
        position = INPLACE_POSITION[func] - 1  # the input is not among args
        inplace = kwargs.get("inplace", args[position] if len(args) > position else False)
        return inplace, func, args[:position], {k: v for k, v in kwargs.items() if k != "inplace"}
    return False, func, args, kwargs


ACTIVATIONS = frozenset({relu, activation, hardtanh})
"""The rules that end the first layer of the z^B rule."""
