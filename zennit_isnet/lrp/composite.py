"""Base classes of this package's composites and hooks: the protocol for propagating relevance."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Literal

import torch
from torch import Tensor, nn
from zennit.core import Composite, Hook, RemovableHandle, RemovableHandleList

from zennit_isnet.checks import Described, check_model
from zennit_isnet.errors import InvalidTypeError, InvalidValueError, UnsupportedModelError
from zennit_isnet.lrp.signal.substitute import Switch, ordinary_only
from zennit_isnet.model import uncompiled, unwrapped

Bound = float | Sequence[float] | Tensor
"""One number, or one per channel."""


class Switched(Hook):
    """Zennit hook that is the switch of what it attaches: on until `remove`."""

    def copy(self) -> Switched:
        """Return the hook itself, which belongs to one registration."""
        return self

    def remove(self) -> None:
        """Switch off, including for graphs that still exist."""
        self.active = False
        super().remove()

    def __getstate__(self) -> Any:
        """Refuse to be copied with a model: nothing could remove the copied hook."""
        raise InvalidValueError(
            f"a model cannot be copied or pickled while a composite is registered with it (its hook is a "
            f"{type(self).__name__}); leave the composite's context or call its remove() first"
        )


class PassHook(Switched, ABC):
    """Hook of a root module whose forward passes run in a mode, which `_enter` starts and `_leave` ends.

    Attributes
    ----------
    ran : bool
        Whether there has been a pass.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mode: Any = None
        self.ran = False
        self._depth = 0
        self.after: list[Callable[[], Any]] = []
        self._stack = ExitStack()

    def register(self, module: nn.Module) -> RemovableHandleList:
        """Hook the root module."""
        before = module.register_forward_pre_hook(self._before, prepend=True, with_kwargs=True)
        after = module.register_forward_hook(self._after, always_call=True)
        return RemovableHandleList([RemovableHandle(self), before, after])

    def remove(self) -> None:
        """Switch off, even in the middle of a pass."""
        self.end()
        super().remove()
        while self.after:
            self.after.pop()()

    def start(self, mode: Any) -> None:
        """Enter the mode of a pass."""
        self.mode, self.ran = mode, True
        self._stack.enter_context(uncompiled())
        self._stack.enter_context(mode)

    def end(self) -> Any:
        """Leave the mode of the current pass and return it; None if there is none."""
        mode, self.mode, self._depth = self.mode, None, 0
        self._stack.close()
        return mode

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # a model that calls itself is still in the pass of its outer call
        self._depth += self.mode is not None
        return None if self._depth else self._enter(module, args, kwargs)

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._depth:
            self._depth -= 1
        else:
            self._leave(module, args, output)

    @abstractmethod
    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run before the root module's forward pass."""

    @abstractmethod
    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        """Run after it, also after an exception."""


class LRPComposite(Described, Composite):
    """Base class of composites whose relevance is a differentiable function of the parameters.

    It can be registered with one model at a time and raises otherwise. Zennit's composites silently leave the first
    model when registered again, so its relevance becomes the plain gradient.

    Attributes
    ----------
    propagates : str
        ``"signal"``, relevance divided by activation, or ``"relevance"``.
    box : tuple of Tensor, optional
        Lowest and highest value of the images, for the z^B rule.
    """

    propagates: Literal["signal", "relevance"]
    box: tuple[Tensor, Tensor] | None = None
    _model: weakref.ref[nn.Module] | None = None

    def entry(self, images: Tensor, *, input_gradient: bool = True) -> Tensor:
        """Return the model's input for images: a copy, so that the model may modify it in place.

        Parameters
        ----------
        images : Tensor
            ``(N, …)``.
        input_gradient : bool, default=True
            Whether ordinary backward passes need the gradient at the images. A training step does not.
        """
        return images.clone()

    def start(self, logits: Tensor, seed: Tensor) -> Tensor:
        """Return what is propagated from the logits for a signal seed: the seed, or the relevance ``y ⊙ seed``.

        The result has the seed's shape.
        """
        return seed if self.propagates == "signal" else logits * seed

    def relevance(self, activation: Tensor, arrived: Tensor) -> Tensor:
        """Return the relevance of a layer's activation, ``R = a ⊙ G``, from the signal that arrives at it."""
        return activation * arrived if self.propagates == "signal" else arrived

    def check_followed(self) -> None:
        """Raise if the model's hooks did not run in its forward pass.

        Raises
        ------
        UnsupportedModelError
            If they did not, so that operations have no rules.
        """
        if any(isinstance(hook, PassHook) and not hook.ran for hook in self.hook_refs):
            raise UnsupportedModelError(
                "the model's forward pass ran without its hooks, so it has no relevance rules: its class replaces "
                "nn.Module.__call__, or its forward method was called directly; call the module, and do not replace "
                "__call__"
            )

    def note_copy(self, output: Tensor, copy: Tensor) -> None:
        """Treat a copy of a layer's output like the output itself."""

    def seed(self, formulation: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Return the ``attr_output`` for explaining a formulation with Zennit's attributors and this composite.

        Parameters
        ----------
        formulation : callable
            ``formulation(logits) -> seeds (N, 1, C)`` of the signal.

        Returns
        -------
        callable
            ``attr_output(logits) -> (N, C)``: the signal at the logits, or the relevance there, whichever the composite
            propagates.

        Raises
        ------
        InvalidValueError
            From `attr_output`, if the formulation makes more than one heatmap per image.

        Examples
        --------
        >>> import torch
        >>> from zennit.attribution import Gradient
        >>> from zennit_isnet import EpsilonZBox, LRPFlex, Target
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3, bias=False))
        >>> images = torch.rand(2, 3, 2, 2)
        >>> for composite in (LRPFlex(), EpsilonZBox(epsilon=1e-9)):
        ...     with Gradient(model, composite, attr_output=composite.seed(Target(1))) as attributor:
        ...         logits, relevance = attributor(images)
        ...     torch.allclose(relevance.sum((1, 2, 3)), logits[:, 1], rtol=1e-3)
        True
        True
        """

        def attr_output(logits: Tensor) -> Tensor:
            seeds = formulation(logits)
            if seeds.ndim != 3 or seeds.shape[1] != 1:
                raise InvalidValueError(
                    f"an attributor makes one heatmap per image, but {formulation!r} has seeds of shape "
                    f"{tuple(seeds.shape)}; explain one class at a time with Target(class)"
                )
            self.check_followed()
            return self.start(logits, seeds.squeeze(1))

        return attr_output

    def register(self, module: nn.Module) -> None:
        """Register with a model. The user's gradient hooks do not see signals. Errors leave the model unchanged.

        Parameters
        ----------
        module : Module
            The model, possibly in `DistributedDataParallel`.

        Raises
        ------
        InvalidTypeError
            If `module` is not a module.
        UnsupportedModelError
            If it is compiled, scripted or a `DataParallel`.
        InvalidValueError
            If the composite is already registered with a model.
        """
        check_model(module)
        module = unwrapped(module)
        other = None if self._model is None else self._model()
        if other is not None:
            which = "this model already" if other is module else f"another model ({type(other).__name__})"
            raise InvalidValueError(
                f"this {type(self).__name__} is registered with {which}; leave its context or call remove() first, or "
                "use a separate composite there"
            )
        try:
            self.register_with(module)
            switch = next(iter(self.hook_refs), None)  # all are switched on and off together
            if switch is not None:
                self.handles += _gated_hooks(module, switch)
            self._model = weakref.ref(module)
        except BaseException:
            self.remove()
            raise

    def register_with(self, module: nn.Module) -> None:
        """Put hooks on a model, after the checks."""
        super().register(module)

    def remove(self) -> None:
        """Remove all hooks and canonizers from the model."""
        super().remove()
        self._model = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the settings: a copy is not registered with any model."""
        return {name: value for name, value in vars(self).items() if name not in ("handles", "hook_refs", "_model")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        module_map = state["module_map"]
        if isinstance(getattr(module_map, "__self__", None), type(self)):
            # use the settings of the copy, not of the original
            module_map = getattr(self, module_map.__name__)
        super().__init__(module_map, state["canonizers"])
        self.__dict__ |= {**state, "module_map": module_map}


class _GatedHook:
    """Handle of a user's gradient hook, which only acts in ordinary backward passes until `remove`."""

    def __init__(self, hooks: dict[int, Any], key: int, switch: Switch) -> None:
        self.hooks, self.key, self.original = hooks, key, hooks[key]
        self.gated = hooks[key] = ordinary_only(switch, self.original)

    def remove(self) -> None:
        """Put the original hook back, unless its owner has removed it."""
        if self.hooks.get(self.key) is self.gated:
            self.hooks[self.key] = self.original


def _gated_hooks(module: nn.Module, switch: Switch) -> list[_GatedHook]:
    everywhere: Any = torch.nn.modules.module
    found = [everywhere._global_backward_hooks, everywhere._global_backward_pre_hooks]
    found += [hooks for child in module.modules() for hooks in (child._backward_hooks, child._backward_pre_hooks)]
    return [_GatedHook(hooks, key, switch) for hooks in found for key in hooks]


def check_free(model: nn.Module) -> None:
    """Raise if a composite, of this package or of Zennit, is registered with a model.

    Raises
    ------
    InvalidValueError
        If one is: its rules would also apply in backward passes.
    """
    for name, module in model.named_modules():
        for hook in module._forward_pre_hooks.values():
            owner = getattr(hook, "__self__", None)
            if isinstance(owner, Hook):
                raise InvalidValueError(
                    f"a composite is registered with the model ({type(owner).__name__} on {name or 'the model'}), and "
                    "its rules would also apply; leave its context or call its remove() first"
                )


def as_composites(composite: Any) -> tuple[LRPComposite, ...]:
    """Return one composite, or a sequence of distinct ones, as a tuple.

    Raises
    ------
    InvalidTypeError
        If the relevance of one is not differentiable, or one is not a composite.
    InvalidValueError
        If there is none, or one occurs twice.
    """
    composites = tuple(composite) if isinstance(composite, (list, tuple)) else (composite,)
    for one in composites:
        if not isinstance(one, LRPComposite):
            came = f"the class {one.__name__}" if isinstance(one, type) else type(one).__name__
            remedy = "; wrap it: differentiable(composite)" if isinstance(one, Composite) else ""
            raise InvalidTypeError(
                "composite must be differentiable, such as LRPFlex() or differentiable(…), or several of these; "
                f"got {came}{remedy}"
            )
    if not composites or len({id(one) for one in composites}) < len(composites):
        raise InvalidValueError(f"composite must contain distinct composites, at least one; got {composites!r}")
    return composites


def as_bound(bound: Bound, name: str) -> Tensor:
    """Return one number, or one per channel, as a tensor that broadcasts over ``(N, C, …)``."""
    try:
        values = torch.as_tensor(bound, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidTypeError(f"{name} must be a number, or one number per channel; got {bound!r}") from error
    if not bool(values.isfinite().all()):
        raise InvalidValueError(f"{name} must be finite; got {values.flatten().tolist()}")
    return values.view(-1, 1, 1) if values.ndim == 1 else values


def as_box(box: tuple[Bound, Bound]) -> tuple[Tensor, Tensor]:
    """Return bounds as tensors that broadcast over ``(N, C, …)``; low ≤ high, not everywhere equal."""
    if not (isinstance(box, (list, tuple)) and len(box) == 2):
        raise InvalidTypeError(f"box must be a pair (low, high); got {box!r}")
    low, high = (as_bound(bound, "box") for bound in box)
    if not bool((low < high).all()):
        raise InvalidValueError(f"box must have low < high; got {low.flatten().tolist()} and {high.flatten().tolist()}")
    return low, high
