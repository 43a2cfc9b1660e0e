"""Sees every operation of a forward pass, as a module or as a function, and gives it its relevance rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from zennit_isnet.lrp.signal.provenance import Flaws, Kind, Provenance, module_path, tensors_in
from zennit_isnet.lrp.signal.substitute import Switch

if TYPE_CHECKING:
    from zennit_isnet.lrp.signal.activation import Epsilon
    from zennit_isnet.lrp.signal.stem import Stem


class Settings(Switch, Protocol):
    """What the rules read from the composite's hook."""

    epsilon: Epsilon
    detach_statistics: bool
    input_gradient: bool


Rule = Callable[..., Any]
"""``rule(mode, func, *args, **kwargs)`` runs ``func`` and returns its result with the signal rule attached."""


VALUE_FREE = (
    *("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "new_zeros", "new_ones"),
    *("new_empty", "new_full", "new_tensor"),
)
"""Functions that make tensors and read no values of the tensor they are called with."""


class Problem(NamedTuple):
    """An operation that no rule covers."""

    path: str
    operation: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path}: {self.operation}: {self.reason}; {self.remedy}"


class Observation(NamedTuple):
    """An operation on the signal, its rule, and the positions of the problems found there."""

    path: str
    operation: str
    rule: str | None
    problems: Flaws


class FrozenGateMode(TorchFunctionMode):
    """Runs one forward pass of a model as the frozen-gate network.

    What no rule covers is a problem only where the signal passes: problems follow the tensors, end at a gate, and
    count in `conclude` if they reach the model's output.

    Parameters
    ----------
    root : Module
        The model, for the module paths in messages.
    settings : Settings
        Switch, ε and options; usually the composite's hook.
    rules : mapping of function to rule
        What is not in it must not touch the signal.
    observe : callable, optional
        Gets an `Observation` of each operation on the signal.
    """

    def __init__(
        self,
        root: nn.Module,
        settings: Settings,
        rules: Mapping[Any, Rule],
        observe: Callable[[Observation], None] | None = None,
    ) -> None:
        super().__init__()
        self.root = root
        self.settings = settings
        self.rules = rules
        self.observe = observe
        self.kinds = Provenance()
        self.found: list[Problem] = []
        self.fatal: set[int] = set()
        self.entries: list[Tensor] = []
        self.stem: Stem | None = None
        self.opaque = 0
        self._here: set[int] = set()
        self._paths: dict[int, str] = {}

    def enter(self, entry: Tensor) -> None:
        """Declare a tensor as a source of the signal."""
        self.kinds[entry] = Kind.SIGNAL
        self.entries.append(entry)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.opaque:
            return func(*args, **kwargs)
        if not torch.is_grad_enabled():
            # in `no_grad` nothing carries the signal, and of a custom function the gradient is unknown
            result = func(*args, **kwargs)
            if func is Tensor.view_as:
                self.kinds.alias(result, args[0])
            elif getattr(func, "__name__", None) not in VALUE_FREE:
                self._mark_ungraded(result, [*tensors_in((*args, *kwargs.values()))])
            return result
        operands = list(tensors_in((*args, *kwargs.values())))
        kind = max((self.kinds[t] for t in operands), default=Kind.CONSTANT)
        if kind > Kind.SIGNAL:
            self._explain_origin(func, operands)
            kind = Kind.SIGNAL
        flaws = self.kinds.flaws_of(operands, kind)
        versions = [t._version for t in operands]
        if kind is Kind.SIGNAL:
            outside, self._here = self._here, set()
            try:
                result = self._follow_rule(func, operands, args, kwargs)
                here = frozenset(self._here)
            finally:
                self._here = outside
        else:
            result, here = func(*args, **kwargs), frozenset()
        for tensor, version in zip(operands, versions, strict=True):
            if tensor._version != version and kind is not Kind.CONSTANT:
                self._overwritten(tensor, kind, flaws | here)
        self._mark(result, operands, kind, flaws, here)
        return result

    def declare(self, name: str, rule: str, operands: list[Tensor], output: Any, attach: Callable[[], Any]) -> Any:
        """Give the output of a module that was not looked into its declared rule."""
        kind = max((self.kinds[t] for t in operands), default=Kind.CONSTANT)
        if kind > Kind.SIGNAL:
            self._explain_origin(name, operands)
            kind = Kind.SIGNAL
        flaws = self.kinds.flaws_of(operands, kind)
        self._here = set()
        result = attach() if kind is Kind.SIGNAL else output
        here = frozenset(self._here)
        if kind is Kind.SIGNAL and self.observe is not None:
            self.observe(Observation(self._path(), name, rule, here))
        self._mark(result, operands, kind, flaws, here)
        return result

    def report(self, func: Any, reason: str, remedy: str) -> None:
        """Note a problem of the operation that runs; it counts if the signal that passes here reaches the output."""
        self._here.add(self._position(func, reason, remedy))

    def refuse(self, func: Any, reason: str, remedy: str) -> None:
        """Note a problem that counts wherever it is."""
        self.fatal.add(self._position(func, reason, remedy))

    def conclude(self, output: Tensor) -> list[Problem]:
        """Return the problems that make relevance of this output wrong, in the order of the forward pass."""
        kind = self.kinds[output]
        if kind is Kind.UNKNOWN:
            self._explain_origin("the model's output", [output])
        elif kind is not Kind.SIGNAL:
            name = "the model's output, behind a gate," if kind is Kind.HELD else "the model's output"
            remedy = "return logits, and connect them to the images by operations that have a rule"
            self.refuse(name, "carries no signal from the images", remedy)
        return [self.found[i] for i in sorted(self.fatal | self.kinds.flaws(output))]

    def _follow_rule(self, func: Any, operands: list[Tensor], args: Any, kwargs: Any) -> Any:
        """Run an operation on the signal by its rule."""
        rule = self.rules.get(func)
        if rule is None:
            result = func(*args, **kwargs)
            written = func is Tensor.__setitem__ or kwargs.get("out") is not None
            if written or any(t.requires_grad for t in tensors_in((result,))):
                self.report(func, "no rule covers it", "use an operation with a rule, or register one")
        else:
            if self.stem is not None:
                args, kwargs = self.stem.before(self, func, rule, args, kwargs)
            result = rule(self, func, *args, **kwargs)
        moves_signal = self._here or func is Tensor.__setitem__ or any(t.requires_grad for t in tensors_in((result,)))
        if self.observe is not None and moves_signal:
            name = None if rule is None else getattr(rule, "__name__", type(rule).__name__)
            self.observe(Observation(self._path(), _name(func), name, frozenset(self._here)))
        return result

    def _mark(self, result: Any, operands: list[Tensor], kind: Kind, flaws: Flaws, here: Flaws) -> None:
        """Note what the results of an operation are, unless its rule has."""
        for tensor in tensors_in((result,)):
            if any(tensor is operand for operand in operands):
                continue
            if self.kinds.known(tensor):
                self.kinds.add_flaws(tensor, here)
            elif tensor.requires_grad and (kind is not Kind.CONSTANT or tensor.grad_fn is not None):
                self.kinds[tensor] = kind
                self.kinds.add_flaws(tensor, flaws | here)
            elif kind is not Kind.CONSTANT and tensor.is_floating_point():
                self.kinds[tensor] = Kind.HELD

    def _mark_ungraded(self, result: Any, operands: list[Tensor]) -> None:
        """Note which results of an operation without a gradient depend on the images."""
        if any(self.kinds[t] in (Kind.HELD, Kind.SIGNAL) for t in operands):
            for tensor in tensors_in((result,)):
                if tensor.is_floating_point() and not any(tensor is operand for operand in operands):
                    self.kinds.hold_ungraded(tensor)

    def _overwritten(self, tensor: Tensor, kind: Kind, flaws: Flaws) -> None:
        """Note what an operand is that the operation wrote to, and what it is a view of."""
        for target in (tensor, tensor._base):
            if target is not None and target.grad_fn is not None and self.kinds[target] is not Kind.STALE:
                self.kinds[target] = kind if self.kinds[target] > Kind.SIGNAL else max(kind, self.kinds[target])
                self.kinds.add_flaws(target, flaws)

    def _explain_origin(self, func: Any, operands: list[Tensor]) -> None:
        for tensor in operands:
            kind = self.kinds[tensor]
            if kind is Kind.STALE:
                # its value is not what the model means
                self.refuse(func, "reads a tensor after an in-place operation overwrote it", "use that one's result")
            if kind is Kind.UNKNOWN:
                maker = type(tensor.grad_fn).__name__ if tensor.grad_fn is None else tensor.grad_fn.name()
                remedy = "register a rule for the module that computes it"
                position = self._position(func, f"reads a tensor of unknown origin ({maker})", remedy)
                # what lies before it is unknown too: it may be any tensor that is still in use
                self.kinds.add_flaws(tensor, self.kinds.flaws_in_use() | {position})
            if kind in (Kind.STALE, Kind.UNKNOWN):
                self.kinds[tensor] = Kind.SIGNAL

    def _position(self, func: Any, reason: str, remedy: str) -> int:
        problem = Problem(self._path(), _name(func), reason, remedy)
        if problem not in self.found:
            self.found.append(problem)
        return self.found.index(problem)

    def _path(self) -> str:
        if not self._paths:
            self._paths = {id(module): name for name, module in self.root.named_modules()}
        return module_path(self.root, self._paths)


def _name(func: Any) -> str:
    return func if isinstance(func, str) else (resolve_name(func) or getattr(func, "__name__", repr(func)))
