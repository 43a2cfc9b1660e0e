"""What each tensor of a forward pass is to the signal pass, so that nothing wrong is propagated silently."""

from __future__ import annotations

import enum
import sys
from collections.abc import Iterable, Iterator
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


def tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    """Yield the tensors among values, and those in lists and tuples among them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from tensors_in(value)


class Provenance:
    """Kinds of the tensors of one forward pass; holds no tensor alive."""

    def __init__(self) -> None:
        self._kinds: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._aliases: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def __getitem__(self, tensor: Tensor) -> Kind:
        kind: Kind | None = self._kinds.get(tensor)
        if kind is not None:
            return kind
        if tensor.grad_fn is None:
            return Kind.CONSTANT
        aliased: Kind | None = self._aliases.get(tensor)
        is_hook = aliased is not None and tensor.grad_fn.name() == "BackwardHookFunctionBackward"
        return aliased if is_hook else Kind.UNKNOWN  # type: ignore[return-value]

    def __setitem__(self, tensor: Tensor, kind: Kind) -> None:
        self._kinds[tensor] = kind

    def alias(self, tensor: Tensor, kind: Kind) -> None:
        """Note the kind that a view made without gradients has if it turns out to be a backward hook's identity.

        PyTorch gives a module's backward hooks their place in the graph by a custom function that returns its input,
        so the model's own custom functions look alike until they have a gradient function.
        """
        self._aliases[tensor] = kind

    def known(self, tensor: Tensor) -> bool:
        """Whether the tensor was given a kind."""
        return tensor in self._kinds


def module_path(root: nn.Module) -> str:
    """Return path and type of the innermost module of `root` whose ``forward`` is on the call stack."""
    paths = {id(module): name for name, module in root.named_modules()}
    frame = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and id(owner) in paths:
            return f"{paths[id(owner)] or '(the model)'} ({type(owner).__name__})"
        frame = frame.f_back  # type: ignore[assignment]
    return f"(the model) ({type(root).__name__})"
