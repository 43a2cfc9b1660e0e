"""What each tensor of a forward pass is to the signal pass, so that nothing wrong is propagated silently."""

from __future__ import annotations

import enum
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary


class Kind(enum.IntEnum):
    """Role of a tensor in the signal pass."""

    CONSTANT = 0
    """Does not depend on the images: parameters, buffers and what is computed from them."""
    HELD = 1
    """Depends on the images, held constant in the signal pass: sigmoid gates, attention weights."""
    SIGNAL = 2
    """Carries the signal."""
    STALE = 3
    """Was meant to be overwritten in place; only the result of that operation may be used."""
    UNKNOWN = 4
    """Has a gradient function that no observed operation made: a custom autograd function, for example."""


Flaws = frozenset[int]
"""Problems on a tensor's way from the images, as positions in a list of problems.

They make the relevance wrong only if the signal passes there. Of a tensor that is held constant they are the problems
behind the gate, where no signal passes.
"""

NO_FLAWS: Flaws = frozenset()


def tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    """Yield the tensors among values, and those in lists and tuples among them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from tensors_in(value)


def exchanged(value: Any, replacements: Mapping[int, Tensor]) -> Any:
    """Return a value, or lists and tuples of values, with the tensors that have a replacement by ``id`` replaced."""
    if isinstance(value, (list, tuple)):
        return type(value)(exchanged(item, replacements) for item in value)
    return replacements.get(id(value), value)


class Provenance:
    """Kinds and flaws of the tensors of one forward pass; holds no tensor alive."""

    def __init__(self) -> None:
        self._kinds: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._flaws: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._aliases: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._ungraded: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def __getitem__(self, tensor: Tensor) -> Kind:
        kind: Kind | None = self._kinds.get(tensor)
        if kind is not None:
            return kind
        if tensor.grad_fn is None:
            return Kind.HELD if tensor in self._ungraded else Kind.CONSTANT
        aliased: Kind | None = self._aliases.get(tensor)
        is_hook = aliased is not None and tensor.grad_fn.name() == "BackwardHookFunctionBackward"
        return aliased if is_hook else Kind.UNKNOWN  # type: ignore[return-value]

    def __setitem__(self, tensor: Tensor, kind: Kind) -> None:
        self._kinds[tensor] = kind

    def known(self, tensor: Tensor) -> bool:
        """Whether the tensor was given a kind."""
        return tensor in self._kinds

    def flaws(self, tensor: Tensor) -> Flaws:
        """Return the flaws of one tensor."""
        found: Flaws = self._flaws.get(tensor, NO_FLAWS)
        return found

    def flaws_of(self, tensors: Iterable[Tensor], kind: Kind = Kind.SIGNAL) -> Flaws:
        """Return the flaws of those tensors that are of a kind."""
        return NO_FLAWS.union(*(self.flaws(t) for t in tensors if self[t] is kind))

    def flaws_in_use(self) -> Flaws:
        """Return the flaws of all tensors with a signal that the model still holds."""
        return self.flaws_of(list(self._flaws))

    def add_flaws(self, tensor: Tensor, flaws: Flaws) -> None:
        """Note flaws of a tensor beside those that it has."""
        if flaws:
            self._flaws[tensor] = self.flaws(tensor) | flaws

    def copy(self, tensor: Tensor, origin: Tensor) -> None:
        """Note that a tensor is what another one is."""
        self[tensor] = self[origin]
        self.add_flaws(tensor, self.flaws(origin))

    def alias(self, tensor: Tensor, origin: Tensor) -> None:
        """Note what a view made without gradients is if it turns out to be a backward hook's identity.

        PyTorch gives a module's backward hooks their place in the graph by a custom function that returns its input,
        so the model's own custom functions look alike until they have a gradient function.
        """
        self._aliases[tensor] = self[origin]
        self.add_flaws(tensor, self.flaws(origin))

    def hold_ungraded(self, tensor: Tensor) -> None:
        """Note that a tensor made without gradients depends on the images.

        It counts while the tensor has no gradient function: what a custom function returns was made so too.
        """
        self._ungraded[tensor] = True


def module_path(root: nn.Module, paths: Mapping[int, str] | None = None) -> str:
    """Return path and type of the innermost module of `root` whose ``forward`` is on the call stack.

    Parameters
    ----------
    root : Module
        The model.
    paths : mapping of int to str, optional
        Path of each of its modules by ``id``, for callers that ask often.
    """
    if paths is None:
        paths = {id(module): name for name, module in root.named_modules()}
    frame = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and id(owner) in paths:
            return f"{paths[id(owner)] or '(the model)'} ({type(owner).__name__})"
        frame = frame.f_back  # type: ignore[assignment]
    return f"(the model) ({type(root).__name__})"
