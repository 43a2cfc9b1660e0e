"""The hook that turns one registration of a composite into frozen-gate passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, Literal

import torch
from torch import Tensor, nn
from zennit.core import Hook, RemovableHandle, RemovableHandleList

from zennit_isnet.checks import fitted_bound
from zennit_isnet.errors import InvalidValueError, UncoveredOperationError
from zennit_isnet.lrp.signal.activation import Epsilon
from zennit_isnet.lrp.signal.mode import FrozenGateMode, Observation, Rule
from zennit_isnet.lrp.signal.modules import ModuleRules
from zennit_isnet.lrp.signal.provenance import exchanged, tensors_in
from zennit_isnet.lrp.signal.stem import Stem
from zennit_isnet.lrp.signal.substitute import InputRelevance
from zennit_isnet.lrp.signal.synchronized import register_synchronized


class FrozenGates(Hook):
    """Zennit hook for the root module: every forward pass runs in a `FrozenGateMode`.

    The hook is the switch of its passes: a backward pass is a signal pass while the hook is registered and active.
    It puts a forward pre-hook and a forward hook on the root module, and on those modules below it that are not looked
    into, and touches nothing else of the model.

    Parameters
    ----------
    rules : mapping of function to rule
        Rule of each operation.
    epsilon : Epsilon
        Stabilizer of the gates.
    box : tuple of Tensor, optional
        Bounds of the images for z^B at the first layer; None for no z^B.
    reference : Tensor or "darkest", optional
        The value of the images that carries no relevance; None for zero.
    detach_statistics : bool
        Whether ``σ`` of a BatchNorm is constant also as a function of the parameters.
    modules : ModuleRules
        Rules of module types, which are not looked into.
    observe : callable, optional
        Gets each operation on the signal; see `FrozenGateMode`.
    """

    def __init__(
        self,
        *,
        rules: Mapping[Any, Rule],
        epsilon: Epsilon,
        box: tuple[Tensor, Tensor] | None,
        reference: Tensor | Literal["darkest"] | None,
        detach_statistics: bool,
        modules: ModuleRules,
        observe: Callable[[Observation], None] | None = None,
    ) -> None:
        super().__init__()
        self.rules, self.modules, self.observe = rules, modules, observe
        self.epsilon, self.box, self.reference, self.detach_statistics = epsilon, box, reference, detach_statistics
        self.active = False
        self.input_gradient = True
        self._mode: FrozenGateMode | None = None
        self._stack = ExitStack()

    def copy(self) -> FrozenGates:
        """Return an unregistered hook with the same settings."""
        return FrozenGates(
            rules=self.rules,
            epsilon=self.epsilon,
            box=self.box,
            reference=self.reference,
            detach_statistics=self.detach_statistics,
            modules=self.modules,
            observe=self.observe,
        )

    def register(self, module: nn.Module) -> RemovableHandleList:
        """Hook the root module and switch the signal pass on."""
        self.active = True
        return RemovableHandleList(
            [
                RemovableHandle(self),
                module.register_forward_pre_hook(self._enter, prepend=True, with_kwargs=True),
                module.register_forward_hook(self._leave, always_call=True),
                *self.hide_modules(module, lambda: self._mode),
            ]
        )

    def hide_modules(self, module: nn.Module, current: Callable[[], FrozenGateMode | None]) -> list[RemovableHandle]:
        """Hook the modules that are not looked into; `current` returns the mode of the pass that runs."""
        return [*self.modules.register(module, current), *register_synchronized(module, current)]

    def remove(self) -> None:
        """Switch the signal pass off, for graphs that still exist too."""
        self.active = False
        self._end_mode()
        super().remove()

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Let the images in through `InputRelevance`; without a gradient there is nothing to do."""
        if self._mode is not None or not torch.is_grad_enabled():
            return None
        images = [t for t in tensors_in((*args, *kwargs.values())) if t.requires_grad]
        if not images:
            return None
        mode = FrozenGateMode(module, self, self.rules, self.observe)
        entries = {id(t): InputRelevance.apply(self, t, _fitted_reference(self.reference, t)) for t in images}
        for entry in entries.values():
            mode.enter(entry)
        if self.box is not None:
            if len(entries) != 1:
                raise InvalidValueError(f"z^B needs one image batch as input, this model reads {len(entries)} tensors")
            mode.stem = Stem(images[0], mode.entries[0], self.box)
        self._mode = mode
        self._stack.enter_context(mode)
        return exchanged(args, entries), {key: exchanged(value, entries) for key, value in kwargs.items()}

    def _leave(self, module: nn.Module, args: Any, output: Any) -> Any:
        """End the pass and raise what it found."""
        mode = self._end_mode()
        if mode is None or output is None:
            return None
        if mode.stem is not None and not mode.stem.passed:
            reason = "no convolution with equal padding on both sides reads the images"
            mode.refuse("z^B", reason, "use box=None")
        main = next(tensors_in(output.values() if isinstance(output, dict) else (output,)), None)
        problems = [] if main is None else mode.conclude(main)
        if problems:
            raise UncoveredOperationError([str(problem) for problem in problems])
        return None

    def _end_mode(self) -> FrozenGateMode | None:
        mode, self._mode = self._mode, None
        if mode is not None:
            self._stack.close()
        return mode


def _fitted_reference(reference: Tensor | Literal["darkest"] | None, images: Tensor) -> Tensor | None:
    """Return the reference in the shape and dtype of a batch."""
    if isinstance(reference, str):
        if images.ndim < 3:
            raise InvalidValueError(f'reference="darkest" needs images (N, C, …), got shape {tuple(images.shape)}')
        dims = tuple(range(2, images.ndim))
        return images.detach().amin(dims, keepdim=True)
    return None if reference is None else fitted_bound(reference, images)
