"""Activations: the signal is multiplied by a gate that damps weak activations.

The gate of an activation ``a(z)`` is ``a / (z + ε·sign z)``. For smooth one-sided activations (SiLU, GELU, Hardswish,
Mish) this would close the gate around ``z = 0``, where it should be half open. Their gate is ``g₀ · u/(u + ε)`` with
the exact gate ``g₀ = a/z`` and its integral ``u`` from −∞, a smooth ReLU. For ReLU itself both forms are ``a/(a + ε)``.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F
from torch.nn.modules.utils import _ntuple

from zennit_isnet.checks import kind_of
from zennit_isnet.lrp.signal import linear
from zennit_isnet.lrp.signal.mode import FrozenGateMode, Kind, version_of
from zennit_isnet.lrp.signal.substitute import Substitute, Switch, without_second_derivative
from zennit_isnet.parts import parts

IN_PLACE: Mapping[Any, Callable[..., Any]] = MappingProxyType(
    {
        func: getattr(F, name, None) or getattr(torch, name)
        for name in (
            *("celu", "elu", "hardtanh", "leaky_relu", "relu", "rrelu", "selu", "threshold"),
            *("clamp", "clip", "pow", "sqrt", "square", "tanh"),
        )
        for func in (getattr(owner, name + "_", None) for owner in (F, torch, Tensor))
        if func is not None
    }
    | {Tensor.__ipow__: torch.pow}
)
"""In-place functions, and their out-of-place versions."""

OPTIONAL = (
    *(F.celu, F.elu, F.hardswish, F.hardtanh, F.leaky_relu, F.mish, F.relu, F.relu6, F.rrelu, F.selu, F.silu),
    F.threshold,
)

INPLACE_POSITION: Mapping[Any, int] = MappingProxyType(
    {func: list(inspect.signature(func).parameters).index("inplace") for func in OPTIONAL}
)
"""Position of the `inplace` argument, for functions that have it."""


def computed(tensor: Tensor) -> Tensor:
    """Return float16 as float32: quotients by large activations underflow in float16."""
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
    # adding zero makes −0 positive; `torch.where` with numbers is ten times slower
    shift = torch.as_tensor(epsilon, dtype=values.dtype, device=values.device)
    return values + torch.copysign(shift, values.detach() + 0.0)


class Epsilon(NamedTuple):
    """The ``ε`` of the gates: a number, or a multiple of the root mean square of each image's activations.

    A relative ``ε_n = value · √(mean a_n²)`` follows the layer's scale: the relevance does not change if a layer's
    activations are scaled and the next layer's weights are scaled inversely. Like the rest of the gate, it is a
    function of the parameters. With 0 the gates are exact, ``a/z``, and 0 where ``z = 0``.

    `images` is the number N of images, if known.
    """

    value: float
    relative: bool = False
    images: int | None = None

    @property
    def exact(self) -> bool:
        """Whether the gates are ``a/z``."""
        return self.value == 0

    def misfit(self, shape: Sequence[int]) -> str | None:
        """Return why a relative ``ε`` has no images in activations of this shape, as far as their shape shows."""
        count = self.images or 1
        # more rows than images may be their crops, windows or tokens, each with an ε of its own
        if not self.relative or not shape or shape[0] >= count or _is_second(shape, count):
            return None
        return f"returns {tuple(shape)} for {count} images, so that ε cannot be measured for each image"

    def images_first(self, *activations: Tensor) -> tuple[Tensor, ...]:
        """Return views ``(N, …)`` of activations ``(L, N, …)``, a transformer's, or ``(N,)``, for a relative ``ε``."""
        shape, count = activations[0].shape, self.images
        if not self.relative or count is None:
            return activations
        if shape == (count,):
            return tuple(a.unsqueeze(1) for a in activations)
        return tuple(a.transpose(0, 1) for a in activations) if _is_second(shape, count) else activations

    def of(self, output: Tensor) -> Tensor:
        """``ε`` for the outputs ``a`` of a layer ``(N, …)``, broadcastable to them."""
        if not self.relative:
            dtype = torch.float32 if output.dtype == torch.float16 else output.dtype
            return output.new_full(_one_an_image(output), self.value, dtype=dtype)
        rows = image_rows(output)
        norm = torch.linalg.vector_norm(rows, dim=1, dtype=torch.promote_types(output.dtype, torch.float32))
        # avoids 0/0: an all-zero layer has gates 0
        epsilon = (norm * (self.value / math.sqrt(max(rows.shape[1], 1)))).clamp(min=1e-30)
        return epsilon.to(computed(output).dtype).view(_one_an_image(output))

    def slope(self, output: Tensor, epsilon: Tensor, grad_epsilon: Tensor) -> Tensor:
        """Return ``s`` of the gradient ``s·a`` at the outputs, for a gradient at a relative ``ε`` ``(N,)``.

        ``∂ε/∂a = value² a / (n ε)``.
        """
        count = output[:1].numel() if output.ndim > 1 else output.numel()
        return grad_epsilon.view(_one_an_image(output)) * (self.value**2 / count) / epsilon


def _is_second(shape: Sequence[int], count: int) -> bool:
    return len(shape) == 3 and shape[0] != count == shape[1]


def _one_an_image(output: Tensor) -> tuple[int, ...]:
    return (output.shape[0], *(1,) * (output.ndim - 1)) if output.ndim > 1 else (1,) * output.ndim


def image_rows(values: Tensor) -> Tensor:
    """Return one row of values per image, in memory order."""
    if values.ndim < 2:
        return values.reshape(1, -1)
    if values.ndim in (4, 5) and not values.is_contiguous():
        values = values.movedim(1, -1)  # a view of channels-last memory
    return values.flatten(1)


def _per_image(values: Tensor) -> Tensor:
    """Sum for each image, ``(N,)``."""
    return image_rows(values).sum(1)


class Gate(Function):
    """``G_z = G_a · a/(z + ε·sign z)`` with ``sign 0 = 1``, differentiable with respect to ``G_a``, ``a`` and ``z``."""

    @staticmethod
    def forward(ctx: Any, signal: Tensor, output: Tensor, input: Tensor, epsilon: Epsilon) -> Tensor:
        ctx.epsilon = epsilon
        ctx.save_for_backward(signal, output, input)
        return _inverse(input, output, epsilon).mul_(output).mul_(signal).to(signal.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        signal, output, input = ctx.saved_tensors
        inverse = _inverse(input, output, ctx.epsilon)
        gate = inverse * output
        # in place, because allocating memory costs most, unless this gradient must itself be differentiable
        times = Tensor.mul if torch.is_grad_enabled() else Tensor.mul_
        # ∂/∂a of a/z is 1/z, ∂/∂z is −(a/z)/z
        grad_output = times(times(inverse, grad), signal)
        grad_input = (grad_output * gate).neg_()
        if ctx.epsilon.relative:
            sign = torch.copysign(torch.ones_like(input), input.detach() + 0.0)
            grad_epsilon = (grad_input * sign).sum(tuple(range(input.ndim > 1, input.ndim)))
            slope = ctx.epsilon.slope(output, ctx.epsilon.of(output), grad_epsilon)
            grad_output = grad_output + computed(output) * slope
        grad_signal = times(gate, grad)
        return grad_signal.to(signal.dtype), grad_output.to(output.dtype), grad_input.to(input.dtype), None


def _inverse(input: Tensor, output: Tensor, epsilon: Epsilon) -> Tensor:
    """``1 / (z + ε·sign z)``; for exact gates 0 where ``z = 0``."""
    inverse = stabilize(computed(input), epsilon.of(output)).reciprocal_()
    return inverse.masked_fill_(input == 0, 0) if epsilon.exact else inverse


class ReLUGate(Function):
    """``G_z = G_a · a/(a + ε)``: a ReLU's gate only needs its output, so an in-place ReLU stays in place.

    Keeps ``a`` and its result ``G_z``, which the layer before the ReLU keeps as well. ``G_a/(a + ε) = G_z/a`` where
    ``a > 0``; elsewhere the gradient at ``a`` is not needed, because the ReLU stops it.
    """

    @staticmethod
    def forward(ctx: Any, signal: Tensor, output: Tensor, epsilon: Epsilon) -> Tensor:
        ctx.epsilon, ctx.value = epsilon, epsilon.of(output)
        shifted = computed(output) + ctx.value
        result = torch.div(signal, shifted, out=shifted).mul_(output)
        ctx.save_for_backward(result, output)
        return result.to(signal.dtype)

    @staticmethod
    @without_second_derivative
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        result, output = ctx.saved_tensors
        epsilon, activation = ctx.value, computed(output)
        shifted = activation + epsilon
        quotient = torch.div(grad, shifted, out=shifted)
        # ∂/∂a of a/(a + ε) is ε/(a + ε)², ∂/∂ε is −a/(a + ε)²
        product = result * quotient
        through_epsilon = -_per_image(product) if ctx.epsilon.relative else None
        grad_output = _where_positive(activation, product.div_(activation)).mul_(epsilon)
        if through_epsilon is not None:
            grad_output.addcmul_(activation, ctx.epsilon.slope(output, epsilon, through_epsilon))
        return quotient.mul_(activation).to(grad.dtype), grad_output.to(output.dtype), None


class BoundedReLUGate(Function):
    """``G_z = G_a · a/(z + ε)`` of a ReLU with an upper bound, ``a = min(z, bound)`` for ``z > 0`` and 0 elsewhere.

    Differentiable with respect to ``G_a`` and ``z``. Keeps ``z`` and, like `ReLUGate`, its result: ``G_a/(z + ε) =
    G_z/a``.
    """

    @staticmethod
    def forward(ctx: Any, signal: Tensor, input: Tensor, bound: float, epsilon: Epsilon) -> Tensor:
        z = computed(input)
        output = z.clamp(0, bound)
        ctx.bound, ctx.epsilon, ctx.value = bound, epsilon, epsilon.of(output)
        result = output.div_(_positive(z).add_(ctx.value)).mul_(signal)
        ctx.save_for_backward(result, input)
        return result.to(signal.dtype)

    @staticmethod
    @without_second_derivative
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        result, input = ctx.saved_tensors
        z, epsilon = computed(input), ctx.value
        output, shifted = z.clamp(0, ctx.bound), _positive(z).add_(epsilon)
        gate = torch.div(output, shifted, out=shifted)
        product = _where_positive(z, (result * grad).div_(output))
        # ∂/∂z of a/(z + ε) is (∂a/∂z − gate)/(z + ε), ∂/∂ε is −gate/(z + ε)
        through_gate = product * gate
        grad_input = _where_within(z, ctx.bound, product).sub_(through_gate)
        if ctx.epsilon.relative:
            slope = ctx.epsilon.slope(output, epsilon, -_per_image(through_gate))
            grad_input.addcmul_(_where_within(z, ctx.bound, output), slope)
        return gate.mul_(grad).to(grad.dtype), grad_input.to(input.dtype), None, None


def _where_positive(condition: Tensor, values: Tensor) -> Tensor:
    """Put 0, in place, where a tensor is not positive. A mask and `torch.where` would cost several passes."""
    return torch.ops.aten.threshold_backward.grad_input(values, condition, 0, grad_input=values)


def _where_within(condition: Tensor, bound: float, values: Tensor) -> Tensor:
    """Put 0, in place, where a tensor is not between 0 and a bound."""
    return torch.ops.aten.hardtanh_backward.grad_input(values, condition, 0, bound, grad_input=values)


def _positive(values: Tensor, out: Tensor | None = None) -> Tensor:
    """Put the smallest normal number in place of values that are not positive."""
    return torch.clamp(values, min=torch.finfo(values.dtype).tiny, out=out)


class SmoothActivation(NamedTuple):
    """Exact gate ``g₀ = a/z`` of an activation and its integral ``u`` from −∞, a smooth ReLU, with their derivatives.

    ``gate(z)`` is ``g₀``, ``slope(z, g₀)`` the derivative of its logarithm, and ``height(z, g₀)`` the pair of ``u`` and
    ``u'``. All are new tensors, except that ``u'`` may be ``g₀`` itself.
    """

    gate: Callable[..., Tensor]
    slope: Callable[..., Tensor]
    height: Callable[..., tuple[Tensor, Tensor]]


def _softplus(z: Tensor, sigmoid: Tensor) -> Tensor:
    # max(z, 0) − log(sigmoid |z|), to one rounding of 1; log1p(exp(z)) takes several times as long
    return z.clamp(min=0).sub_(torch.maximum(sigmoid, 1 - sigmoid).log_())


def _normal_density(z: Tensor) -> Tensor:
    return z.square().mul_(-0.5).exp_().mul_(1 / math.sqrt(2 * math.pi))


def _normal_distribution(z: Tensor) -> Tensor:
    # as in PyTorch's GELU; `torch.special.ndtr` is several times slower
    return z.mul(math.sqrt(0.5)).erf_().add_(1).mul_(0.5)


def _gelu_gate(z: Tensor, approximate: str = "none") -> Tensor:
    if approximate == "tanh":
        return (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))) / 2
    return _normal_distribution(z)


def _gelu_slope(z: Tensor, gate: Tensor, approximate: str = "none") -> Tensor:
    if approximate == "tanh":
        return 2 * (1 - gate) * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * z.square())
    return _normal_density(z).div_(_positive(gate))


def _gelu_height(z: Tensor, gate: Tensor, approximate: str = "none") -> tuple[Tensor, Tensor]:
    # of the exact gate in either case, from which the approximation differs by less than 3e-4
    distribution = gate if approximate == "none" else _normal_distribution(z)
    # ∫ Φ = z Φ + φ; far below zero the two cancel
    return _normal_density(z).addcmul_(z, distribution), distribution


SMOOTH: Mapping[Any, SmoothActivation] = MappingProxyType(
    {
        F.silu: SmoothActivation(
            gate=torch.sigmoid,
            slope=lambda z, gate: 1 - gate,
            height=lambda z, gate: (_softplus(z, gate), gate),
        ),
        F.gelu: SmoothActivation(_gelu_gate, _gelu_slope, _gelu_height),
        F.hardswish: SmoothActivation(
            gate=lambda z: z.add(3).div_(6).clamp_(0, 1),
            slope=lambda z, gate: (z.abs() < 3).to(z.dtype).div_(6).div_(_positive(gate)),
            height=lambda z, gate: (F.relu(z - 3).addcmul_(gate, gate, value=3), gate),
        ),
        # the integral has no closed form; softplus is within 0.2 of it and has the same limits
        F.mish: SmoothActivation(
            gate=lambda z: F.softplus(z).tanh_(),
            slope=lambda z, gate: (1 - gate.square()).mul_(torch.sigmoid(z)).div_(_positive(gate)),
            height=lambda z, gate: (F.softplus(z), torch.sigmoid(z)),
        ),
    }
)
"""Smooth one-sided activations."""


class SmoothGate(Function):
    """``G_z = G_a · g₀ · u/(u + ε)`` of a smooth activation, differentiable with respect to ``G_a`` and ``z``.

    Keeps ``z`` and, like `ReLUGate`, its result. With the logarithm's derivative ``∂G_z/∂z = G_z · (g₀'/g₀ + u'/u ·
    ε/(u + ε))``.
    """

    @staticmethod
    def forward(
        ctx: Any, signal: Tensor, input: Tensor, activation: SmoothActivation, options: Any, epsilon: Epsilon
    ) -> Tensor:
        ctx.recipe = activation, options, epsilon
        result = torch.empty_like(input, dtype=signal.dtype)
        precise = torch.promote_types(input.dtype, torch.float32)
        value = torch.empty(_one_an_image(input), dtype=precise, device=input.device)
        for to_result, to_value, g, z in parts(result, value, signal, input):
            z = _precise(z)
            gate = activation.gate(z, **options)
            if not epsilon.exact:
                height, _ = activation.height(z, gate, **options)
                _positive(height, out=height)
                to_value.copy_(epsilon.of(z * gate))
                gate.mul_(height).div_(height.add_(to_value))
            torch.mul(gate, g, out=to_result)
        ctx.save_for_backward(result, input, value)
        return result

    @staticmethod
    @without_second_derivative
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        result, input, values = ctx.saved_tensors
        activation, options, epsilon = ctx.recipe
        grad_signal, grad_input = torch.empty_like(grad), torch.empty_like(input)
        for to_signal, to_input, value, g, r, z in parts(grad_signal, grad_input, values, grad, result, input):
            z = _precise(z)
            gate = activation.gate(z, **options)
            slope, product = activation.slope(z, gate, **options), _precise(g) * r
            if epsilon.exact:
                torch.mul(gate, g, out=to_signal)
                torch.mul(product, slope, out=to_input)
                continue
            height, rise = activation.height(z, gate, **options)
            _positive(height, out=height)
            shifted = height + value
            torch.mul((gate * height).div_(shifted), g, out=to_signal)
            quotient = torch.div(product, shifted, out=shifted)
            # ∂/∂ε of u/(u + ε) is −u/(u + ε)²
            through_epsilon = epsilon.slope(z, value, -_per_image(quotient)) if epsilon.relative else None
            product.mul_(slope).add_(quotient.mul_(rise).div_(height).mul_(value))
            if through_epsilon is not None:
                # ∂a/∂z of a = z g₀ is g₀ + a g₀'/g₀
                output = torch.mul(z, gate, out=height)
                product.addcmul_(slope.mul_(output).add_(gate).mul_(output), through_epsilon)
            to_input.copy_(product)
        return grad_signal, grad_input, None, None, None


def _precise(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


class ReLU(Function):
    """ReLU with the signal of `ReLUGate`; ``inplace`` writes to the input as ``torch.relu_`` does."""

    @staticmethod
    def forward(ctx: Any, switch: Switch, input: Tensor, epsilon: Epsilon, inplace: bool) -> Tensor:
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
        if ctx.switch.active and ctx.epsilon.exact:
            return None, grad * (output > 0), None, None
        if ctx.switch.active:
            return None, gated(ReLUGate, ctx.epsilon, (grad, output)), None, None
        return None, torch.ops.aten.threshold_backward(grad, output, 0), None, None


def gated(gate: type[Function], epsilon: Epsilon, operands: tuple[Tensor, ...], *options: Any) -> Tensor:
    """Apply a gate to the signal and the activations, images first."""
    arranged = epsilon.images_first(*operands)
    result: Tensor = gate.apply(*arranged, *options, epsilon)
    if arranged[0] is operands[0]:
        return result
    return result.squeeze(1) if operands[0].ndim == 1 else result.transpose(0, 1)


def relu(mode: FrozenGateMode, func: Any, input: Tensor, inplace: bool = False) -> Tensor:
    """ReLU: gate ``a/(a + ε)``, in place if the model's is."""
    inplace = inplace or func in IN_PLACE
    check_images_known(mode, func, input)
    if inplace and mode.kinds.shared(input):
        return input.copy_(relu(mode, torch.relu, input))
    return ReLU.apply(mode.settings, input, mode.settings.epsilon, inplace)


def activation(mode: FrozenGateMode, func: Any, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Any elementwise activation with ``a(0) = 0``: gate ``a / (z + ε·sign z)``, or the gate of a smooth ReLU."""
    epsilon = mode.settings.epsilon
    linear.check_constant(mode, func, parameter=[*args, *kwargs.values()])
    inplace, func, args, kwargs = out_of_place(func, args, kwargs)
    overwrites = inplace and mode.kinds.shared(input)
    preactivation = input.clone() if overwrites else input
    before = version_of(preactivation)
    output = func(preactivation, *args, **kwargs)
    # only user-declared rules can get here
    if version_of(preactivation) != before:
        mode.report(func, "is declared an activation and works in place", "use the function that returns a new tensor")
        return output
    if misfit := misfit_of_activation(mode, input, output):
        mode.report(func, f"is declared an activation and {misfit}", 'declare it "gate" or "linear", or give it a rule')
        return output

    check_images_known(mode, func, output)
    smooth, options = SMOOTH.get(func), dict(zip(("approximate",), args, strict=False)) | kwargs
    bound = 6.0 if func is F.relu6 else args[1] if func is F.hardtanh and args[0] == 0 else None
    # recomputed instead of kept, unless random: the model may modify the output in place later
    kept = output if func is F.rrelu else None

    def signal_function(signal: Tensor, preactivation: Tensor, kept: Tensor | None) -> tuple[Tensor, None]:
        if smooth is not None:
            return gated(SmoothGate, epsilon, (signal, preactivation), smooth, options), None
        if bound is not None:
            return gated(BoundedReLUGate, epsilon, (signal, preactivation), bound), None
        output = func(preactivation, *args, **kwargs) if kept is None else kept
        return gated(Gate, epsilon, (signal, output, preactivation)), None

    result: Tensor = Substitute.apply(mode.settings, signal_function, output, preactivation, kept)
    return linear.overwrite(mode, input, result) if inplace else result


def threshold(
    mode: FrozenGateMode, func: Any, input: Tensor, threshold: float, value: float, inplace: bool = False
) -> Tensor:
    """Threshold: values above it are kept, values below it become 0."""
    if value != 0:
        mode.report(func, f"sets values below the threshold to {value}", "set it to 0")
    return activation(mode, func, input, threshold, value, **({"inplace": True} if inplace else {}))


def power(mode: FrozenGateMode, func: Any, input: Any, exponent: Any) -> Tensor:
    """``z^p`` with ``p > 0``, which is ``z`` times the gate ``z^(p−1)``."""
    if isinstance(exponent, (int, float)) and exponent <= 0:
        mode.report(func, f"has the exponent {exponent}", "use a positive exponent, so that a(0) = 0")
    if not isinstance(input, Tensor) or mode.kinds[input] is not Kind.SIGNAL:
        mode.report(func, "has an exponent that carries the signal", "declare a rule for the module")
        return func(input, exponent)
    return activation(mode, func, input, exponent)


def clamp(mode: FrozenGateMode, func: Any, input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """Clamp: an activation if zero is in its range; with a positive lower bound ``c + relu(z − c)``, ``c`` a bias."""
    if isinstance(min, Tensor) or isinstance(max, Tensor):
        mode.report(func, "has tensors as bounds", "use numbers, or torch.maximum and torch.minimum")
        return func(input, min, max)
    if min is not None and min > 0 and max is None:
        check_images_known(mode, func, input)
        inplace, func, _, _ = out_of_place(func, (), {})
        epsilon = mode.settings.epsilon

        def signal_function(signal: Tensor, preactivation: Tensor) -> tuple[Tensor]:
            above = torch.relu(preactivation - min)
            return (signal * (above > 0) if epsilon.exact else gated(ReLUGate, epsilon, (signal, above)),)

        preactivation = input.clone() if inplace and mode.kinds.shared(input) else input
        result = Substitute.apply(mode.settings, signal_function, func(preactivation, min), preactivation)
        return linear.overwrite(mode, input, result) if inplace else result
    if not (min is None or min <= 0) or not (max is None or max >= 0):
        mode.report(func, f"has the range [{min}, {max}]", "use a range that contains 0, so that a(0) = 0")
    return activation(mode, func, input, min, max)


def clamp_min(mode: FrozenGateMode, func: Any, input: Tensor, min: Any) -> Tensor:
    """Clamp by a lower bound."""
    return clamp(mode, torch.clamp_ if func.__name__.endswith("_") else torch.clamp, input, min)


def clamp_max(mode: FrozenGateMode, func: Any, input: Tensor, max: Any) -> Tensor:
    """Clamp by an upper bound."""
    return clamp(mode, torch.clamp_ if func.__name__.endswith("_") else torch.clamp, input, None, max)


def lp_pool(
    mode: FrozenGateMode,
    func: Any,
    input: Tensor,
    norm_type: float,
    kernel_size: Any,
    stride: Any = None,
    ceil_mode: bool = False,
) -> Tensor:
    """``(Σ z^p)^(1/p)``: power, sum and root, each with its own rule."""
    dims = int(func.__name__.removeprefix("lp_pool")[0])
    count = math.prod(_ntuple(dims)(kernel_size))
    pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[dims - 1]
    with mode:
        # as in PyTorch, where a negative sum gives NaN
        return (pool(input.pow(norm_type), kernel_size, stride, 0, ceil_mode) * count).pow(1 / norm_type)


def check_images_known(mode: FrozenGateMode, func: Any, output: Tensor) -> None:
    """Report activations whose images are not along the first or second axis."""
    if misfit := mode.settings.epsilon.misfit(output.shape):
        mode.report(func, misfit, "make the images the first axis, or use an absolute LRPFlex(epsilon=…)")


def misfit_of_activation(mode: FrozenGateMode, input: Any, output: Any) -> str | None:
    """Return why a call is not an elementwise function of one signal, as far as visible without its values."""
    if not isinstance(input, Tensor) or mode.kinds[input] is not Kind.SIGNAL:
        return "has further arguments that carry the signal"
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return f"returns {kind_of(output)}"
    if output.shape != input.shape:
        return f"makes {tuple(output.shape)} of {tuple(input.shape)}"
    return None


def hardtanh(
    mode: FrozenGateMode, func: Any, input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Tensor:
    """Hardtanh has ``a(0) = 0`` only where its range contains zero."""
    if not min_val <= 0 <= max_val:
        mode.report(func, f"has the range [{min_val}, {max_val}]", "use a range that contains 0, so that a(0) = 0")
    return activation(mode, func, input, min_val, max_val, inplace=inplace)


def out_of_place(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bool, Any, Any, Any]:
    """Return whether a call works in place, and the same call out of place."""
    if func in IN_PLACE:
        return True, IN_PLACE[func], args, kwargs
    if func in INPLACE_POSITION:
        position = INPLACE_POSITION[func] - 1  # the input is not among args
        inplace = kwargs.get("inplace", args[position] if len(args) > position else False)
        return inplace, func, args[:position], {k: v for k, v in kwargs.items() if k != "inplace"}
    return False, func, args, kwargs
