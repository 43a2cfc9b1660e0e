"""The z^B rule at the first layer: finds convolution, BatchNorm and activation, and handles them as one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zennit_isnet.checks import fitted_bound
from zennit_isnet.lrp.signal.activation import activation, hardtanh, out_of_place, relu, stabilize
from zennit_isnet.lrp.signal.convolution import Geometry, convolution, convolution_and_weights, transposed_signal
from zennit_isnet.lrp.signal.linear import alias, constant
from zennit_isnet.lrp.signal.mode import FrozenGateMode, Kind, Problem, exchanged, tensors_in
from zennit_isnet.lrp.signal.normalization import batch_norm, scale_of, sync_batch_norm
from zennit_isnet.lrp.signal.substitute import Handler, Settings, Substitute

aten = torch.ops.aten

ABSOLUTE = 1e-2
"""Stabilizer of z^B if the gates' ``ε`` is relative: the authors' value."""

NORMS = (batch_norm, sync_batch_norm)

ACTIVATIONS = (relu, activation, hardtanh)


class ZBoxMode(FrozenGateMode):
    """Follows the images through convolution, BatchNorm and activation, in this order, the last two optional.

    At the end of this stem a `Substitute` sends the relevance ``a ⊙ G`` straight to the images by the z^B rule.

    Parameters
    ----------
    root, settings
        See `FrozenGateMode`.
    images : Tensor
        The user's input; the model reads the first of `entries` instead.
    box : tuple of Tensor
        Lowest and highest value of the images.
    """

    def __init__(self, root: nn.Module, settings: Settings, images: Tensor, box: tuple[Tensor, Tensor]) -> None:
        super().__init__(root, settings)
        self.images = images
        self.low, self.high = (fitted_bound(bound, images) for bound in box)
        self.first: tuple[Tensor, Tensor, Tensor | None, Geometry] | None = None
        self.scale: Tensor | None = None
        self.tail: Tensor | None = None
        self.passed: list[Tensor] = []

    def run(self, handler: Handler, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation with its handler, and follow the stem."""
        if handler in (constant, alias):  # only reads the shape
            result = handler(self, func, *args, **kwargs)
            if handler is alias and args[2] is self.tail:
                self.tail = result
            return result
        args, kwargs = self._before(handler, func, args, kwargs)
        if handler is convolution:
            return self._convolution(func, *args, **kwargs)
        if handler in NORMS:
            return self._norm(handler, func, *args, **kwargs)
        if handler in ACTIVATIONS:
            return self._activation(handler, func, *args, **kwargs)
        return handler(self, func, *args, **kwargs)

    def conclude(self, output: Tensor) -> list[Problem]:
        """Return the problems that make the relevance of this output wrong, including a missing stem."""
        if not self.passed:
            reason = "no convolution with equal padding on both sides reads the images"
            self.refuse("z^B", reason, "remove backward hooks from that layer if it has any, or use box=None")
        return super().conclude(output)

    def _before(self, handler: Handler, func: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Check the next operation; end the stem before one that does not belong to it."""
        operands = list(tensors_in((*args, *kwargs.values())))
        if handler is not convolution and any(t is self.entries[0] for t in operands):
            remedy = "normalise the images before the model, or use box=None"
            self.report(func, "z^B needs a convolution as the first operation on the images", remedy)
        if any(t is passed for t in operands for passed in self.passed):
            self.report(func, "z^B needs a first layer whose output only one operation reads", "use box=None")
        belongs = (handler in NORMS and self.scale is None) or handler in ACTIVATIONS
        if self.tail is None or belongs or all(t is not self.tail for t in operands):
            return args, kwargs
        ended = {id(self.tail): self._end(self.tail)}
        return exchanged(args, ended), {key: exchanged(value, ended) for key, value in kwargs.items()}

    def _convolution(self, func: Any, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        """A convolution is the first layer if it reads the images."""
        output, weights = convolution_and_weights(self, func, input, *args, **kwargs)
        if weights is not None and input is self.entries[0]:
            self.first, self.tail = (output, *weights), output
        return output

    def _norm(self, handler: Handler, func: Any, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The ``γ/σ`` of a BatchNorm after the first layer multiplies that layer's weights."""
        output = handler(self, func, input, *args, **kwargs)
        if self.tail is not None and input is self.tail:
            self.passed.append(self.tail)
            self.scale, self.tail = scale_of(output), output
        return output

    def _activation(self, handler: Handler, func: Any, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        """An activation ends the stem; it runs out of place, because z^B reads its input."""
        if input is not self.tail:
            return handler(self, func, input, *args, **kwargs)
        inplace, func, args, kwargs = out_of_place(func, args, kwargs)
        if inplace and self.kinds.shared(input):
            self.report(func, "z^B needs the values that this overwrites", "use an out-of-place operation, or box=None")
        ended = self._end(handler(self, func, input, *args, **kwargs))
        if inplace:
            self.kinds[input] = Kind.STALE
        return ended

    def _end(self, output: Tensor) -> Tensor:
        """Return `output`, the last of the stem, with the z^B rule attached; a new stem may start."""
        assert self.first is not None and self.tail is not None  # noqa: PT018
        preactivation, weight, bias, geometry = self.first
        low, high = self.low, self.high
        # denominators of z^B need a stabilizer but no damping
        epsilon = ABSOLUTE if self.settings.epsilon.relative else self.settings.epsilon.value

        def signal_function(signal: Tensor, *operands: Any) -> tuple[Tensor | None, ...]:
            output, images, preactivation, weight, bias, scale = operands
            # under autocast too, in the precision of the images and their relevance
            signal, output, preactivation, weight = (
                operand.to(images.dtype) for operand in (signal, output, preactivation, weight)
            )
            trailing = (1,) * (weight.ndim - 2)
            if bias is not None:
                preactivation = preactivation - bias.view(1, -1, *trailing)
            if scale is not None:
                scale = scale.to(weight.dtype)
                preactivation = preactivation * scale.view(1, -1, *trailing)
                weight = weight * scale.view(-1, 1, *trailing)
            relevance = output * signal
            with torch.autocast(images.device.type, enabled=False):
                relevance = zbox_relevance(relevance, images, preactivation, weight, geometry, low, high, epsilon)
            return None, relevance, None, None, None, None

        ended: Tensor = Substitute.apply(
            self.settings, signal_function, output, output, self.images, preactivation, weight, bias, self.scale
        )
        self.kinds[ended] = Kind.SIGNAL
        self.kinds.add_flaws(ended, self.kinds.flaws_of((self.entries[0], self.tail)))
        self.passed += [self.tail, output]
        self.first = self.scale = self.tail = None
        return ended


def zbox_relevance(
    relevance: Tensor,
    images: Tensor,
    preactivation: Tensor,
    weight: Tensor,
    geometry: Geometry,
    low: Tensor,
    high: Tensor,
    epsilon: float,
) -> Tensor:
    r"""z^B rule of a convolution: ``R_i = Σ_k (x_i w_ik − l_i w⁺_ik − h_i w⁻_ik) R_k / stab(z_k)``.

    Parameters
    ----------
    relevance : Tensor
        ``R_k``, shape ``(N, K, …)``.
    images : Tensor
        ``x``, shape ``(N, C, …)``, inside the box.
    preactivation : Tensor
        ``Σ_i x_i w_ik`` without bias, shape ``(N, K, …)``, from the forward pass.
    weight : Tensor
        ``w``, BatchNorm folded in.
    geometry : Geometry
        Stride, padding and the like.
    low, high : Tensor
        Bounds ``l`` and ``h``, broadcastable to ``(1, C, …)``.
    epsilon : float
        Stabilizer of the denominator.

    Returns
    -------
    Tensor
        ``R_i``, shape of `images`. With ``s = R/stab(z)`` it is ``(x−l) ⊙ W⁺ᵀs + (x−h) ⊙ W⁻ᵀs``, because
        ``w = w⁺ + w⁻``.

    References
    ----------
    .. [1] Montavon, G. et al. "Explaining nonlinear classification decisions with deep Taylor decomposition". Pattern
       Recognit. 65 (2017). Equation 18.
    """
    positive, negative = weight.clamp(min=0), weight.clamp(max=0)
    one_image = images[:1].shape
    lower = aten.convolution(low.expand(one_image), positive, None, *geometry)
    upper = aten.convolution(high.expand(one_image), negative, None, *geometry)
    share = relevance / stabilize(preactivation - lower - upper, epsilon)
    through_positive = transposed_signal(share, positive, images, geometry)
    through_negative = transposed_signal(share, negative, images, geometry)
    return (images - low) * through_positive + (images - high) * through_negative
