"""Composites of this package, registered with Zennit by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from zennit.composites import register_composite

from zennit_isnet.checks import check_choice, check_number
from zennit_isnet.errors import InvalidValueError
from zennit_isnet.lrp.composite import Bound, LRPComposite, as_bound, as_box
from zennit_isnet.lrp.signal.hook import FrozenGates
from zennit_isnet.lrp.signal.mode import Inspection
from zennit_isnet.lrp.signal.modules import Declared, ModuleRule, function_handlers, module_rules
from zennit_isnet.lrp.signal.substitute import Epsilon, Handler
from zennit_isnet.lrp.signal.table import HANDLERS


@register_composite("lrp_flex")
class LRPFlex(LRPComposite):
    """LRP by frozen gates: gradient × input of the network whose gates are constant in the backward pass.

    Sees modules and functional calls alike, changes nothing of the model, and supplies relevance that is an exactly
    differentiable function of the parameters.

    Parameters
    ----------
    epsilon : float, optional
        Absolute stabilizer ``ε ≥ 0`` of the gates ``a / (z + ε·sign z)``. The papers have 1e-2, which hardly damps
        anything in a network with BatchNorm, where activations are of size 1. 0 makes the gates exact, ``a/z``, with
        a noisier relevance and a quieter gradient. Default None: `epsilon_ratio` counts.
    box : tuple of (float, sequence or Tensor), optional
        Lowest and highest value of the images as the model gets them, one number or one for each channel; switches
        the z^B rule on at the first layer, whose denominators are stabilized by `epsilon`, or by the papers' 1e-2.
        `box_from_normalization` makes it. Default None: the papers use z^B, but a wrong box is a silent error.
    epsilon_ratio : float, default 0.3
        ``ε`` of each layer and image in units of the root mean square of the layer's activations in that image. So
        the relevance does not depend on the scale of a layer, and an activation much weaker than its neighbours
        carries little relevance in a shallow network and in a deep one alike.
    reference : float, sequence, Tensor or "darkest", default 0.0
        The value of the images that carries no relevance, one number or one for each channel: the relevance is
        ``(x − reference) ⊙ G``. ``"darkest"`` takes the lowest value of each channel of each image. After
        normalization by mean and standard deviation 0 is a mid-grey, and black borders carry relevance. Not with
        `box`.
    detach_statistics : bool, default False
        Whether ``σ`` of a BatchNorm in train mode is constant also as a function of the parameters. By default it
        is alive, so that parameter gradients agree with finite differences.
    rules : mapping of function to rule, optional
        Rules for further operations, which come before the built-in ones: ``"linear"`` (plain gradient),
        ``"activation"`` (elementwise with ``a(0) = 0``), ``"gate"`` (held constant, may multiply a signal), or a
        function ``rule(mode, func, *args, **kwargs)``.
    modules : mapping of module type to rule, optional
        Rules for modules that are not looked into: one of the same words, or a function
        ``rule(module, input, output, signal)`` that returns the signal at the input.

    Attributes
    ----------
    propagates : str
        ``"signal"``. Under Zennit's `Gradient`, ``attr_output`` is the signal at the logits, which `seed` makes of a
        formulation, and what comes back at the images is relevance, ``(x − reference) ⊙ G``.

    Raises
    ------
    InvalidValueError
        If `epsilon` is negative, `epsilon_ratio` is not positive, one of them is not finite, the box is empty, or
        `reference` is given with it.
    UncoveredOperationError
        From the forward pass inside of the context, if the model runs an operation that no rule covers.

    References
    ----------
    Bassi, Decherchi, Cavalli, "Faster ISNet for Background Bias Mitigation on Deep Neural Networks", IEEE Access 12
    (2024), LRP-Flex.

    Examples
    --------
    >>> import torch
    >>> from torchvision.models import resnet18
    >>> from zennit.attribution import Gradient
    >>> from zennit_isnet import LRPFlex
    >>> model = resnet18(num_classes=3).eval()
    >>> with Gradient(model, LRPFlex()) as attributor:
    ...     logits, relevance = attributor(torch.rand(2, 3, 32, 32), torch.eye(3)[[0, 2]])
    >>> relevance.shape
    torch.Size([2, 3, 32, 32])

    A module of your own gets its rule in one line:

    >>> class Cube(torch.nn.Module):
    ...     def forward(self, features):
    ...         return features**3
    >>> composite = LRPFlex(modules={Cube: "activation"})
    """

    propagates: Literal["signal"] = "signal"

    def __init__(
        self,
        epsilon: float | None = None,
        box: tuple[Bound, Bound] | None = None,
        *,
        epsilon_ratio: float = 0.3,
        reference: Bound | Literal["darkest"] = 0.0,
        detach_statistics: bool = False,
        rules: Mapping[Any, Handler | Declared] | None = None,
        modules: Mapping[type[nn.Module], ModuleRule] | None = None,
    ) -> None:
        if epsilon is not None:
            check_number("epsilon", epsilon, include_low=True)
        check_number("epsilon_ratio", epsilon_ratio)
        self.epsilon = None if epsilon is None else float(epsilon)
        self.epsilon_ratio = float(epsilon_ratio)
        self.box = None if box is None else as_box(box)
        self.reference = as_reference(reference)
        if self.box is not None and self.reference is not None:
            raise InvalidValueError("give box or reference, not both: z^B has its zero at the ends of the box")
        self.detach_statistics = detach_statistics
        self._own_handlers = function_handlers(rules)
        self.modules = module_rules(modules)
        self._inspect: Callable[[Inspection], None] | None = None
        super().__init__(module_map=self._rule_of_module)

    @property
    def handlers(self) -> Mapping[Any, Handler]:
        """The handler of each function, the user's before the built-in ones."""
        # put together when asked for: the keys cannot all be copied, and a composite must be
        return {**HANDLERS, **self._own_handlers} if self._own_handlers else HANDLERS

    def _rule_of_module(self, ctx: dict[str, Any], name: str, module: nn.Module) -> FrozenGates | None:
        # one hook sees all operations below it, so the root is the only module that gets one
        if name:
            return None
        return FrozenGates(
            handlers=self.handlers,
            epsilon=Epsilon(self.epsilon_ratio if self.epsilon is None else self.epsilon, self.epsilon is None),
            box=self.box,
            reference=self.reference,
            detach_statistics=self.detach_statistics,
            modules=self.modules,
            inspect=self._inspect,
        )

    @contextmanager
    def inspected(self, inspect: Callable[[Inspection], None]) -> Iterator[None]:
        """Hand what the passes of new registrations find to a function, and raise nothing."""
        self._inspect = inspect
        try:
            yield
        finally:
            self._inspect = None

    def entry(self, images: Tensor, *, input_gradient: bool = True) -> Tensor:
        """Return the images: the model gets a copy of them, at which the signal becomes relevance."""
        for hook in self.hook_refs:
            # without it the input gradient of the first convolution is skipped
            hook.input_gradient = input_gradient
        return images

    def start(self, logits: Tensor, seed: Tensor) -> Tensor:
        """Return the seed: it is the signal at the logits."""
        return seed

    def relevance(self, activation: Tensor, arrived: Tensor) -> Tensor:
        """``R = a ⊙ G``."""
        return activation * arrived


def box_from_normalization(mean: Bound, std: Bound) -> tuple[Tensor, Tensor]:
    """Return the box of images in [0, 1] after ``(image − mean) / std``.

    Parameters
    ----------
    mean, std : float, sequence or Tensor
        As for `torchvision.transforms.v2.Normalize`: one number or one for each channel; `std` positive.

    Returns
    -------
    low, high : Tensor
        Bounds of shape ``(C, 1, 1)``, or scalars.

    Raises
    ------
    InvalidValueError
        If a standard deviation is not positive.

    Examples
    --------
    >>> low, high = box_from_normalization(mean=(0.5, 0.5, 0.25), std=(0.5, 0.25, 0.25))
    >>> low.flatten().tolist(), high.flatten().tolist()
    ([-1.0, -2.0, -1.0], [1.0, 2.0, 3.0])
    """
    center, scale = torch.as_tensor(mean, dtype=torch.float64), torch.as_tensor(std, dtype=torch.float64)
    if not bool((scale > 0).all()):
        raise InvalidValueError(f"std must be positive, got {scale.tolist()}")
    return as_box((-center / scale, (1 - center) / scale))


def as_reference(reference: Bound | Literal["darkest"]) -> Tensor | Literal["darkest"] | None:
    """Return the reference as a tensor; None for zero, which needs no subtraction."""
    if isinstance(reference, str):
        check_choice("reference", reference, Literal["darkest"])
        return "darkest"
    values = as_bound(reference, "reference")
    return values if bool(values.any()) else None
