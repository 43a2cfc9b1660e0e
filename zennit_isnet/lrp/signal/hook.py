"""The hook that turns one registration of a composite into frozen-gate passes, also where checkpoints repeat them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack
from zennit.core import Hook, RemovableHandle, RemovableHandleList

from zennit_isnet.checks import fitted_bound
from zennit_isnet.errors import InvalidValueError, UncoveredOperationError
from zennit_isnet.lrp.signal.mode import FrozenGateMode, Inspection, Kind, Provenance, exchanged, tensors_in
from zennit_isnet.lrp.signal.modules import ModuleRule, register_declared
from zennit_isnet.lrp.signal.normalization import register_synchronized
from zennit_isnet.lrp.signal.substitute import Epsilon, Handler, InputRelevance, Settings
from zennit_isnet.lrp.signal.zbox import ZBoxMode
from zennit_isnet.model import buffers_restored

OPTIONS = ("handlers", "epsilon", "box", "reference", "detach_statistics", "modules", "inspect")


class FrozenGates(Hook):
    """Zennit hook for the root module: every forward pass runs in a `FrozenGateMode`.

    The hook is the switch of its passes: a backward pass is a signal pass while the hook is registered and active.
    It puts a forward pre-hook and a forward hook on the root module, and on those modules below it that are not looked
    into, and touches nothing else of the model.

    Parameters
    ----------
    handlers : mapping of function to Handler
        What runs each operation.
    epsilon : Epsilon
        Stabilizer of the gates.
    box : tuple of Tensor, optional
        Bounds of the images for z^B at the first layer; None for no z^B.
    reference : Tensor or "darkest", optional
        The value of the images that carries no relevance; None for zero.
    detach_statistics : bool
        Whether ``σ`` of a BatchNorm is constant also as a function of the parameters.
    modules : mapping of module type to ModuleRule
        Rules of module types, which are not looked into.
    inspect : callable, optional
        Gets an `Inspection` of each pass, whose problems are then no error.
    """

    def __init__(
        self,
        *,
        handlers: Mapping[Any, Handler],
        epsilon: Epsilon,
        box: tuple[Tensor, Tensor] | None,
        reference: Tensor | Literal["darkest"] | None,
        detach_statistics: bool,
        modules: Mapping[type[nn.Module], ModuleRule],
        inspect: Callable[[Inspection], None] | None = None,
    ) -> None:
        super().__init__()
        self.handlers, self.modules, self.inspect = handlers, modules, inspect
        self.epsilon, self.box, self.reference, self.detach_statistics = epsilon, box, reference, detach_statistics
        self.active = False
        self.input_gradient = True
        self._mode: FrozenGateMode | None = None
        self._stack = ExitStack()

    def copy(self) -> FrozenGates:
        """Return an unregistered hook with the same settings."""
        return FrozenGates(**{name: getattr(self, name) for name in OPTIONS})

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
        return [*register_declared(module, self.modules, current), *register_synchronized(module, current)]

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
        entries = {id(t): InputRelevance.apply(self, t, _fitted_reference(self.reference, t)) for t in images}
        if self.box is None:
            mode = FrozenGateMode(module, self)
        elif len(entries) == 1:
            mode = ZBoxMode(module, self, images[0], self.box)
        else:
            raise InvalidValueError(f"z^B needs one image batch as input, this model reads {len(entries)} tensors")
        mode.seen = None if self.inspect is None else []
        for entry in entries.values():
            mode.enter(entry)
        self._mode = mode
        self._stack.enter_context(mode)
        return exchanged(args, entries), {key: exchanged(value, entries) for key, value in kwargs.items()}

    def _leave(self, module: nn.Module, args: Any, output: Any) -> Any:
        """End the pass and raise, or report, what it found."""
        mode = self._end_mode()
        if mode is None or output is None:
            return None
        main = next(tensors_in(output.values() if isinstance(output, dict) else (output,)), None)
        problems = [] if main is None else mode.conclude(main)
        if self.inspect is not None:
            self.inspect(Inspection(mode.seen or [], mode.found, problems))
        elif problems:
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


def checkpoint_contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Let a checkpointed part of a model be computed again by the handlers it was computed by first.

    For the ``context_fn`` of `torch.utils.checkpoint.checkpoint`, which needs ``use_reentrant=False``. A checkpointed
    part keeps its inputs only and is computed again in the signal pass and in ``loss.backward()``: less memory for two
    more forward passes of that part. Relevance and gradients are the same, and BatchNorm counts the batch once. Where
    no composite is on the model nothing changes but that.

    With z^B (``box=…``) the first convolution, its BatchNorm and activation have to stay outside of the checkpoint.

    Returns
    -------
    first, again : context managers
        For the forward pass, and for each time that it is repeated.

    Examples
    --------
    >>> import torch
    >>> from torch.utils.checkpoint import checkpoint
    >>> from zennit_isnet import ISNetRegularizer
    >>> from zennit_isnet.lrp import checkpoint_contexts
    >>> class Checkpointed(torch.nn.Sequential):
    ...     def forward(self, x):
    ...         return checkpoint(super().forward, x, use_reentrant=False, context_fn=checkpoint_contexts)
    >>> block = Checkpointed(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU())
    >>> model = torch.nn.Sequential(block, torch.nn.Flatten(), torch.nn.Linear(4 * 6 * 6, 2))
    >>> regularizer = ISNetRegularizer(model)
    >>> calibration = regularizer.calibrate([torch.rand(4, 3, 8, 8)], progress=False)
    >>> logits, penalty = regularizer(torch.rand(4, 3, 8, 8), torch.ones(4, 1, 8, 8))
    >>> penalty.backward()
    """
    modes = [mode for mode in _get_current_function_mode_stack() if isinstance(mode, FrozenGateMode)]
    return nullcontext(), _Again([(mode.root, mode.settings) for mode in modes])


class _Inherited(Provenance):
    """Kinds in a part of a pass that starts from tensors whose kinds were known in the first forward pass."""

    def __getitem__(self, tensor: Tensor) -> Kind:
        kind = super().__getitem__(tensor)
        return Kind.SIGNAL if kind is Kind.UNKNOWN else kind


class _Again(AbstractContextManager[None]):
    """Context that can be entered any number of times, one after the other; keeps no tensor of the first pass."""

    def __init__(self, passes: list[tuple[nn.Module, Settings]]) -> None:
        self.passes = passes
        self.stack = ExitStack()

    def __enter__(self) -> None:
        for root, settings in self.passes:
            self.stack.enter_context(buffers_restored(root))
            repeated = FrozenGateMode(root, settings)
            repeated.kinds = _Inherited()
            self.stack.enter_context(repeated)
            if isinstance(settings, FrozenGates):
                # those of the first pass look at that pass only, and are gone once the composite has left the model
                for handle in settings.hide_modules(root, lambda mode=repeated: mode):  # type: ignore[misc]
                    self.stack.callback(handle.remove)

    def __exit__(self, *error: Any) -> None:
        self.stack.close()
