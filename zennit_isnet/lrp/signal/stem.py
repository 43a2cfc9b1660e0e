"""The z^B rule at the first layer: finds convolution, BatchNorm and activation, and jumps over them at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zennit_isnet.checks import fitted_bound
from zennit_isnet.lrp.signal.provenance import Kind, exchanged, tensors_in
from zennit_isnet.lrp.signal.rules import ACTIVATIONS, alias, batch_norm, constant, convolution
from zennit_isnet.lrp.signal.substitute import Substitute
from zennit_isnet.lrp.signal.zbox import zbox_relevance

if TYPE_CHECKING:
    from zennit_isnet.lrp.signal.convolution import Geometry
    from zennit_isnet.lrp.signal.mode import FrozenGateMode


ABSOLUTE = 1e-2
"""Stabilizer of z^B where the gates' ``ε`` is relative: the authors' value."""


class Stem:
    """Follows the images through convolution, BatchNorm and activation, in this order, the last two optional.

    At the end of the stem a `Substitute` sends the relevance ``a ⊙ G`` straight to the images by the z^B rule.

    Parameters
    ----------
    images : Tensor
        What the user gave to the model.
    entry : Tensor
        What the model reads instead.
    box : tuple of Tensor
        Lowest and highest value of the images.
    """

    def __init__(self, images: Tensor, entry: Tensor, box: tuple[Tensor, Tensor]) -> None:
        self.images, self.entry = images, entry
        self.low, self.high = (fitted_bound(bound, images) for bound in box)
        self.first: tuple[Tensor, Tensor, Tensor | None, Geometry] | None = None
        self.scale: Tensor | None = None
        self.tail: Tensor | None = None
        self.passed: list[Tensor] = []

    def before(self, mode: FrozenGateMode, func: Any, rule: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Check an operation that is about to run; end the stem before one that does not belong to it."""
        if rule in (constant, alias):
            return args, kwargs  # a look at the shape reads no values
        operands = list(tensors_in((*args, *kwargs.values())))
        if rule is not convolution and any(t is self.entry for t in operands):
            remedy = "normalise the images before the model, or use box=None"
            mode.report(func, "z^B needs a convolution as the first operation on the images", remedy)
        if any(t is passed for t in operands for passed in self.passed):
            mode.report(func, "z^B needs a first layer whose output only one operation reads", "use box=None")
        belongs = (rule is batch_norm and self.scale is None) or rule in ACTIVATIONS
        if self.tail is None or belongs or all(t is not self.tail for t in operands):
            return args, kwargs
        ended = {id(self.tail): self.end(mode, self.tail)}
        return exchanged(args, ended), {key: exchanged(value, ended) for key, value in kwargs.items()}

    def start(self, output: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> None:
        """Note the first layer."""
        self.first, self.tail = (output, weight, bias, geometry), output

    def fold(self, output: Tensor, scale: Tensor) -> None:
        """Note the BatchNorm, whose ``γ/σ`` multiplies the first layer's weights."""
        assert self.tail is not None
        self.passed.append(self.tail)
        self.scale, self.tail = scale, output

    def end(self, mode: FrozenGateMode, output: Tensor) -> Tensor:
        """Return `output`, the last of the stem, with the z^B rule attached; another stem may start."""
        assert self.first is not None
        assert self.tail is not None
        preactivation, weight, bias, geometry = self.first
        low, high = self.low, self.high
        # denominators of z^B need a stabilizer and no damping
        epsilon = ABSOLUTE if mode.settings.epsilon.relative else mode.settings.epsilon.value

        def rule(
            signal: Tensor,
            output: Tensor,
            images: Tensor,
            preactivation: Tensor,
            weight: Tensor,
            bias: Tensor | None,
            scale: Tensor | None,
        ) -> tuple[Tensor | None, ...]:
            # under autocast too in the images' precision, which their relevance has
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
            mode.settings, rule, output, output, self.images, preactivation, weight, bias, self.scale
        )
        mode.kinds[ended] = Kind.SIGNAL
        mode.kinds.add_flaws(ended, mode.kinds.flaws_of((self.entry, self.tail)))
        self.passed += [self.tail, output]
        self.first = self.scale = self.tail = None
        return ended
