"""Sees every operation of a forward pass, as a module or as a function, and gives it its relevance rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from zennit_isnet.signal.provenance import Kind, Provenance, module_path, tensors_in
from zennit_isnet.signal.substitute import Switch

if TYPE_CHECKING:
    from zennit_isnet.signal.stem import Stem


class Settings(Switch, Protocol):
    """What the rules read from the composite's hook."""

    epsilon: float
    detach_statistics: bool
    input_gradient: bool


Rule = Callable[..., Any]
"""``rule(mode, func, *args, **kwargs)`` runs ``func`` and returns its result with the signal rule attached."""


class FrozenGateMode(TorchFunctionMode):
    """Runs one forward pass of a model as the frozen-gate network.

    Parameters
    ----------
    root : Module
        The model, for the module paths in messages.
    settings : Settings
        Switch, ε and options; usually the composite's hook.
    rules : mapping of function to rule
        What is not in it must not touch the signal.
    """

    def __init__(self, root: nn.Module, settings: Settings, rules: Mapping[Any, Rule]) -> None:
        super().__init__()
        self.root = root
        self.settings = settings
        self.rules = rules
        self.kinds = Provenance()
        self.problems: list[str] = []
        self.entries: list[Tensor] = []
        self.stem: Stem | None = None

    def enter(self, entry: Tensor) -> None:
        """Declare a tensor as a source of the signal."""
        self.kinds[entry] = Kind.SIGNAL
        self.entries.append(entry)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not torch.is_grad_enabled():
            # in `no_grad` nothing carries the signal, and of a custom function the gradient is unknown
            result = func(*args, **kwargs)
            if func is Tensor.view_as:
                self.kinds.alias(result, self.kinds[args[0]])
            return result
        operands = list(tensors_in((*args, *kwargs.values())))
        kind = max((self.kinds[t] for t in operands), default=Kind.CONSTANT)
        if kind is Kind.UNKNOWN or kind is Kind.STALE:
            self._explain_origin(func, operands)
        elif kind is not Kind.SIGNAL:
            return self._mark(func(*args, **kwargs), kind)
        rule = self.rules.get(func)
        if rule is None:
            result = func(*args, **kwargs)
            if next(tensors_in((result,)), None) is not None or func is Tensor.__setitem__:
                self.report(func, "no rule covers it", "use an operation with a rule, or register one")
        else:
            if self.stem is not None:
                args, kwargs = self.stem.before(self, func, rule, args, kwargs)
            result = rule(self, func, *args, **kwargs)
        return self._mark(result, Kind.SIGNAL)

    def report(self, func: Any, reason: str, remedy: str) -> None:
        """Note a problem, with the path of the module that runs the operation."""
        name = func if isinstance(func, str) else (resolve_name(func) or getattr(func, "__name__", repr(func)))
        problem = f"{module_path(self.root)}: {name}: {reason}; {remedy}"
        if problem not in self.problems:
            self.problems.append(problem)

    def _mark(self, result: Any, kind: Kind) -> Any:
        for tensor in tensors_in((result,)):
            if not self.kinds.known(tensor) and (kind is not Kind.CONSTANT or tensor.grad_fn is not None):
                self.kinds[tensor] = kind
            elif kind is Kind.SIGNAL and self.kinds[tensor] is Kind.CONSTANT and tensor.grad_fn is not None:
                self.kinds[tensor] = kind  # a constant that an in-place operation wrote the signal to
        return result

    def _explain_origin(self, func: Any, operands: list[Tensor]) -> None:
        for tensor in operands:
            kind = self.kinds[tensor]
            if kind is Kind.STALE:
                self.report(func, "reads a tensor after an in-place operation overwrote it", "use that one's result")
            if kind is Kind.UNKNOWN:
                maker = type(tensor.grad_fn).__name__ if tensor.grad_fn is None else tensor.grad_fn.name()
                remedy = "register a rule for the module that computes it"
                self.report(func, f"reads a tensor of unknown origin ({maker})", remedy)
            if kind in (Kind.STALE, Kind.UNKNOWN):
                self.kinds[tensor] = Kind.SIGNAL
