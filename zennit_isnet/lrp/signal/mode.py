"""Observes every operation of a forward pass, runs its handler, and records the kind of each tensor.

This way no wrong signal is propagated silently.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils.weak import TensorWeakRef

from zennit_isnet.lrp.signal.substitute import Handler, Settings, ordinary_only

VALUE_FREE = frozenset(
    {
        *("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "randint_like"),
        *("new_zeros", "new_ones", "new_empty", "new_empty_strided", "new_full", "new_tensor"),
    }
)
"""Names of functions that make tensors without reading values of their argument."""

ZERO = frozenset({"zeros", "zeros_like", "new_zeros"})
"""Names of functions that make zeros."""

READS = frozenset(
    {Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.__float__, Tensor.__int__, Tensor.__index__, Tensor.__array__}
)
"""Functions that return values of a tensor as something other than a tensor."""


SET_DATA = Tensor.data.__set__  # type: ignore[attr-defined]
"""Assignment to ``tensor.data``."""

REGISTER_HOOK: Any = Tensor.register_hook


class Kind(enum.IntEnum):
    """Role of a tensor in the signal pass."""

    CONSTANT = 0
    """Does not depend on the images: parameters, buffers and values computed from them."""
    HELD = 1
    """Depends on the images, held constant in the signal pass: sigmoid gates, attention weights."""
    SIGNAL = 2
    """Carries the signal."""
    STALE = 3
    """Should have been overwritten in place; only the result of that operation may be used."""
    UNKNOWN = 4
    """Has a gradient function that no observed operation made, such as a custom autograd function."""


Flaws = frozenset[int]
"""Problems on the path from the images to a tensor, as positions in a list of problems.

They make the relevance wrong only if the signal passes there. For a constant tensor they are the problems
behind the gate, where no signal passes.
"""

NO_FLAWS: Flaws = frozenset()


def tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    """Yield the tensors among values, including those in lists and tuples."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from tensors_in(value)


def exchanged(value: Any, replacements: Mapping[int, Tensor]) -> Any:
    """Return a value, or lists and tuples of values, with tensors replaced by ``id``."""
    if isinstance(value, (list, tuple)):
        return type(value)(exchanged(item, replacements) for item in value)
    return replacements.get(id(value), value)


def version_of(tensor: Tensor) -> int:
    """Return how often a tensor was written to; -1 for an inference tensor, which has no counter."""
    try:
        return tensor._version
    except RuntimeError:
        return -1


class _Note:
    """What is known about a tensor, without keeping it alive."""

    __slots__ = ("alias", "flaws", "kind", "ref", "ungraded", "version", "zero")

    def __init__(self, tensor: Tensor) -> None:
        self.ref = TensorWeakRef(tensor)
        self.version = version_of(tensor)
        self.kind: Kind | None = None
        self.alias: Kind | None = None
        self.ungraded = self.zero = False
        self.flaws = NO_FLAWS


class Provenance:
    """Kinds and flaws of the tensors in one forward pass, without keeping them alive."""

    def __init__(self) -> None:
        # by `id`: tensors do not compare as keys, and a lookup in torch's own weak dictionary takes 7 µs
        self._notes: dict[int, _Note] = {}
        self._memory: dict[int, list[_Note]] = {}

    def _found(self, tensor: Tensor) -> _Note | None:
        note = self._notes.get(id(tensor))
        return note if note is not None and note.ref() is tensor else None

    def _note(self, tensor: Tensor) -> _Note:
        note = self._found(tensor)
        if note is None:
            note = self._notes[id(tensor)] = _Note(tensor)
            if torch._C._has_storage(tensor):
                self._memory.setdefault(tensor.untyped_storage()._cdata, []).append(note)
        return note

    def __getitem__(self, tensor: Tensor) -> Kind:
        note = self._found(tensor)
        overwritten = note is not None and note.version != version_of(tensor)
        if note is not None and note.kind is not None and not overwritten:
            return note.kind
        if tensor.grad_fn is None:
            return (
                Kind.HELD if note is not None and (note.ungraded or (note.kind or 0) > Kind.CONSTANT) else Kind.CONSTANT
            )
        if note is None or note.alias is None or overwritten:
            return Kind.UNKNOWN
        return note.alias if tensor.grad_fn.name() == "BackwardHookFunctionBackward" else Kind.UNKNOWN

    def __setitem__(self, tensor: Tensor, kind: Kind) -> None:
        note = self._note(tensor)
        note.kind, note.version = kind, version_of(tensor)

    def known(self, tensor: Tensor) -> bool:
        """Whether the tensor has a kind."""
        note = self._found(tensor)
        return note is not None and note.kind is not None

    def noted(self, tensor: Tensor) -> bool:
        """Whether an operation of the pass made or changed the tensor, as far as observed."""
        return self._found(tensor) is not None

    def before_write(self, tensor: Tensor) -> Kind:
        """Return a modified tensor's previous kind, and mark its new values as seen."""
        note = self._note(tensor)
        note.version, note.zero = version_of(tensor), False
        return self[tensor]

    def sharing(self, tensor: Tensor) -> list[Tensor]:
        """Return the live tensors in the same memory: views of one tensor, and detached aliases."""
        notes = self._memory.get(tensor.untyped_storage()._cdata, []) if torch._C._has_storage(tensor) else []
        found = [tensor, tensor._base, *(note.ref() for note in notes)]
        return list({id(t): t for t in found if t is not None}.values())

    def shared(self, tensor: Tensor) -> bool:
        """Whether another live tensor uses the same memory."""
        return len(self.sharing(tensor)) > 1

    def note_zero(self, tensor: Tensor) -> None:
        """Record that a tensor is zero everywhere."""
        self._note(tensor).zero = True

    def is_zero(self, value: Any) -> bool:
        """Whether a number, or a tensor that does not depend on the images, is known to be zero everywhere."""
        if not isinstance(value, Tensor):
            return bool(value == 0)
        note = self._found(value)
        if note is not None and note.zero and note.version == version_of(value):
            return True
        # reading the values would synchronise an accelerator
        return self[value] is Kind.CONSTANT and value.device.type == "cpu" and not bool(value.any())

    def flaws(self, tensor: Tensor) -> Flaws:
        """Return the flaws of one tensor."""
        note = self._found(tensor)
        return NO_FLAWS if note is None else note.flaws

    def flaws_of(self, tensors: Iterable[Tensor], kind: Kind = Kind.SIGNAL) -> Flaws:
        """Return the flaws of the tensors of a kind."""
        return NO_FLAWS.union(*(self.flaws(t) for t in tensors if self[t] is kind))

    def flaws_in_use(self) -> Flaws:
        """Return the flaws of all live tensors with a signal."""
        flawed = [note.ref() for note in self._notes.values() if note.flaws]
        return self.flaws_of(tensor for tensor in flawed if tensor is not None)

    def add_flaws(self, tensor: Tensor, flaws: Flaws) -> None:
        """Add flaws to a tensor."""
        if flaws:
            note = self._note(tensor)
            note.flaws |= flaws

    def copy(self, tensor: Tensor, origin: Tensor) -> None:
        """Give a tensor the kind and flaws of another one."""
        self[tensor] = self[origin]
        self.add_flaws(tensor, self.flaws(origin))

    def alias(self, tensor: Tensor, origin: Tensor) -> None:
        """Record the kind of a view made without gradients, in case it is a backward hook's identity.

        PyTorch inserts a module's backward hooks by a custom function that returns its input; until it has a gradient
        function, it looks like the model's own custom functions.
        """
        self._note(tensor).alias = self[origin]
        self.add_flaws(tensor, self.flaws(origin))

    def hold_ungraded(self, tensor: Tensor) -> None:
        """Record that a tensor made without gradients depends on the images.

        This holds only while the tensor has no gradient function: outputs of custom functions are made like this too.
        """
        note = self._note(tensor)
        note.kind, note.ungraded = None, True


def depends_on(output: Tensor, sources: Set[Node]) -> bool:
    """Whether autograd's graph leads from an output to one of the nodes; from a position encoding, it does not."""
    reached, waiting = set(), [get_gradient_edge(output).node] if output.requires_grad else []
    while waiting:
        node = waiting.pop()
        if node in sources:
            return True
        reached.add(node)
        # the first operand is the usual way to the images
        waiting += [n for n, _ in reversed(node.next_functions) if n is not None and n not in reached]
    return False


class Problem(NamedTuple):
    """An operation without a rule."""

    path: str
    operation: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path}: {self.operation}: {self.reason}; {self.remedy}"


class Observation(NamedTuple):
    """An operation on the signal, the name of its handler, and the positions of the problems found there."""

    path: str
    operation: str
    rule: str | None
    problems: Flaws


class Inspection(NamedTuple):
    """Findings of one pass: operations on the signal, all problems, and the problems that count."""

    seen: list[Observation]
    found: list[Problem]
    problems: list[Problem]


class FrozenGateMode(TorchFunctionMode):
    """Runs one forward pass of a model as the frozen-gate network.

    An operation without a rule is only a problem if the signal passes through it: problems follow the tensors, end at a
    gate, and count in `conclude` if they reach the model's output.

    Parameters
    ----------
    root : Module
        The model, for the module paths in messages.
    settings : Settings
        Switch, ε, options and handlers; usually the composite's hook. A function without a handler must not operate on
        the signal.

    Attributes
    ----------
    seen : list of Observation or None
        The operations on the signal, if they are to be recorded.
    """

    def __init__(self, root: nn.Module, settings: Settings) -> None:
        super().__init__()
        self.root, self.settings = root, settings
        self.seen: list[Observation] | None = None
        self.kinds = Provenance()
        self.found: list[Problem] = []
        self.fatal: set[int] = set()
        self.entries: list[Tensor] = []
        self.sources: set[Node] = set()
        self.opaque = 0
        self.last_gate = ""
        self._here: set[int] = set()
        self._paths: dict[int, str] = {}

    def enter(self, entry: Tensor) -> None:
        """Declare a tensor as a source of the signal."""
        self.kinds[entry] = Kind.SIGNAL
        self.entries.append(entry)
        self.sources.add(get_gradient_edge(entry).node)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.opaque:
            return func(*args, **kwargs)
        if func is REGISTER_HOOK:
            return func(args[0], ordinary_only(self.settings, *args[1:], **kwargs))
        if func is Tensor.retain_grad and args[0].requires_grad:
            # retain_grad would retain signals too
            return self.settings.after.append(args[0].retain_grad)
        operands = list(tensors_in((*args, *kwargs.values())))
        versions = [version_of(t) for t in operands]
        name = getattr(func, "__name__", None)
        if name in VALUE_FREE and len(operands) == 1:
            result = func(*args, **kwargs)
            self.kinds[result] = Kind.CONSTANT
        elif torch.is_grad_enabled():
            result = self._graded(func, args, kwargs, operands, versions)
        else:
            # nothing carries the signal, or it is inside a custom function, whose gradient is unknown
            result = func(*args, **kwargs)
            if func is Tensor.view_as:
                self.kinds.alias(result, args[0])
            else:
                self._mark_ungraded(result, operands)
            self._note_writes(func, operands, versions, max(self.kinds_of(operands), default=Kind.CONSTANT), NO_FLAWS)
        if name in ZERO:
            self.kinds.note_zero(result)
        return result

    def _graded(self, func: Any, args: Any, kwargs: Any, operands: list[Tensor], versions: list[int]) -> Any:
        """Run an operation with gradients recorded."""
        kind, flaws = self._read(func, operands)
        if func in READS and kind is not Kind.CONSTANT and operands[0].is_floating_point():
            remedy = "keep it a tensor, or read it under torch.no_grad() if the output does not depend on it"
            self.refuse(func, "converts values that depend on the images to numbers, which cannot be tracked", remedy)
        if func == SET_DATA and self.kinds[operands[0]] is Kind.SIGNAL:
            self.refuse(func, "replaces the values of a tensor without recording a gradient", "make a new tensor")
        here = NO_FLAWS
        if kind is Kind.SIGNAL:
            outside, self._here = self._here, set()
            try:
                result = self._handle(func, args, kwargs)
                here = frozenset(self._here)
            finally:
                self._here = outside
        else:
            result = func(*args, **kwargs)
        self._note_writes(func, operands, versions, kind, flaws | here)
        if func == SET_DATA and kind is not Kind.CONSTANT and not operands[0].requires_grad:
            self.kinds.hold_ungraded(operands[0])
        self._mark(result, operands, kind, flaws, here)
        return result

    def run(self, handler: Handler, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation on the signal by its handler."""
        return handler(self, func, *args, **kwargs)

    def kinds_of(self, values: Iterable[Any]) -> list[Kind]:
        """Return the kinds of the tensors among values."""
        return [self.kinds[t] for t in tensors_in(values)]

    def declare(self, name: str, rule: str, operands: list[Tensor], output: Any, attach: Callable[[], Any]) -> Any:
        """Apply the declared rule of a leaf module to its output."""
        kind, flaws = self._read(name, operands)
        self._here = set()
        result = attach() if kind is Kind.SIGNAL else output
        here = frozenset(self._here)
        if kind is Kind.SIGNAL and self.seen is not None:
            self.seen.append(Observation(self._path(), name, rule, here))
        self._mark(result, operands, kind, flaws, here)
        return result

    def report(self, func: Any, reason: str, remedy: str) -> None:
        """Record a problem of the current operation; it counts if the signal from here reaches the output."""
        self._here.add(self._position(func, reason, remedy))

    def note_gate(self, func: Any) -> None:
        """Record that the signal ends here, for a message if there is no other path."""
        self.last_gate = f"{self._path()}: {name_of(func)}"

    def refuse(self, func: Any, reason: str, remedy: str) -> None:
        """Record a problem that counts anywhere."""
        self.fatal.add(self._position(func, reason, remedy))

    def conclude(self, output: Tensor) -> list[Problem]:
        """Return the problems that make the relevance of this output wrong, in forward order."""
        kind = self.kinds[output]
        if kind is Kind.UNKNOWN:
            self._explain_origin("the model's output", [output])
            kind = self.kinds[output]
        if kind is not Kind.SIGNAL:
            reason = "carries no signal from the images"
            remedy = "return logits that depend on the images through operations with a rule"
            if kind is Kind.HELD and self.last_gate:
                reason += f": it ends at the gate {self.last_gate}"
                remedy = "return logits, or use an activation with a(0) = 0 there (ReLU, Tanh)"
            self.refuse("the model's output", reason, remedy)
        return [self.found[i] for i in sorted(self.fatal | self.kinds.flaws(output))]

    def _read(self, func: Any, operands: list[Tensor]) -> tuple[Kind, Flaws]:
        """Return the kind of a result from its operands, and their flaws."""
        kind = max((self.kinds[t] for t in operands), default=Kind.CONSTANT)
        if kind > Kind.SIGNAL:
            self._explain_origin(func, operands)
            kind = max(self.kinds[t] for t in operands)
        return kind, self.kinds.flaws_of(operands, kind)

    def _handle(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operation on the signal, and report a missing handler."""
        handler = self.settings.handlers.get(func)
        if handler is not None:
            result = self.run(handler, func, args, kwargs)
        else:
            result = func(*args, **kwargs)
            written = func is Tensor.__setitem__ or kwargs.get("out") is not None
            if written or any(t.requires_grad for t in tensors_in((result,))):
                self.report(func, "no rule covers it", "use an operation with a rule, or declare one")
        if self.seen is not None and (
            self._here or func is Tensor.__setitem__ or any(t.requires_grad for t in tensors_in((result,)))
        ):
            name = None if handler is None else getattr(handler, "__name__", type(handler).__name__)
            self.seen.append(Observation(self._path(), name_of(func), name, frozenset(self._here)))
        return result

    def _mark(self, result: Any, operands: list[Tensor], kind: Kind, flaws: Flaws, here: Flaws) -> None:
        """Record the kinds of an operation's results, unless its handler did."""
        for tensor in tensors_in((result,)):
            if any(tensor is operand for operand in operands):
                continue
            if self.kinds.known(tensor):
                self.kinds.add_flaws(tensor, here)
            elif tensor.requires_grad and (kind is not Kind.CONSTANT or tensor.grad_fn is not None):
                self.kinds[tensor] = kind
                self.kinds.add_flaws(tensor, flaws | here)
            elif kind is not Kind.CONSTANT:
                self.kinds[tensor] = Kind.HELD

    def _mark_ungraded(self, result: Any, operands: list[Tensor]) -> None:
        """Record which results of an operation without a gradient depend on the images."""
        if any(self.kinds[t] is not Kind.CONSTANT for t in operands):
            for tensor in tensors_in((result,)):
                if not any(tensor is operand for operand in operands):
                    self.kinds.hold_ungraded(tensor)

    def _note_writes(self, func: Any, operands: list[Tensor], versions: list[int], kind: Kind, flaws: Flaws) -> None:
        """Record the kinds of operands that an operation wrote to, and of all tensors in the same memory."""
        for tensor, version in zip(operands, versions, strict=True):
            if version_of(tensor) == version:
                continue
            graded = torch.is_grad_enabled() and tensor.requires_grad
            for target in self.kinds.sharing(tensor):
                # autograd does not notice writes through `.data`, so tensors saved by earlier operations are wrong too
                unnoticed = self.kinds[target] is Kind.SIGNAL
                before = self.kinds.before_write(target)
                if before is Kind.STALE:
                    continue
                if target.requires_grad and graded:
                    self.kinds[target] = kind if before > Kind.SIGNAL else max(kind, before)
                    self.kinds.add_flaws(target, flaws)
                elif before is Kind.SIGNAL:
                    reason = "writes to a tensor that carries the signal without recording a gradient"
                    position = self._position(func, reason, "write with gradients enabled, or out of place")
                    self.kinds.add_flaws(target, frozenset({position}))
                    self.fatal |= {position} if unnoticed else set()
                elif kind is not Kind.CONSTANT and before is Kind.CONSTANT:
                    self.kinds.hold_ungraded(target)

    def _explain_origin(self, func: Any, operands: list[Tensor]) -> None:
        for tensor in operands:
            kind = self.kinds[tensor]
            if kind is Kind.STALE:
                # its value is not what the model expects
                self.refuse(
                    func, "reads a tensor after an in-place operation overwrote it", "use that operation's result"
                )
            if kind is Kind.UNKNOWN and not self.kinds.noted(tensor) and not depends_on(tensor, self.sources):
                # computed before the pass, such as a weight or an embedding
                self.kinds[tensor] = Kind.CONSTANT
                continue
            if kind is Kind.UNKNOWN:
                maker = type(tensor.grad_fn).__name__ if tensor.grad_fn is None else tensor.grad_fn.name()
                origin = (
                    "that an unobserved operation has written to" if self.kinds.known(tensor) else "of unknown origin"
                )
                remedy = "declare a rule for the module that computes it"
                position = self._position(func, f"reads a tensor {origin} ({maker})", remedy)
                # its inputs are unknown too: it may be any live tensor
                self.kinds.add_flaws(tensor, self.kinds.flaws_in_use() | {position})
            if kind in (Kind.STALE, Kind.UNKNOWN):
                self.kinds[tensor] = Kind.SIGNAL

    def _position(self, func: Any, reason: str, remedy: str) -> int:
        problem = Problem(self._path(), name_of(func), reason, remedy)
        if problem not in self.found:
            self.found.append(problem)
        return self.found.index(problem)

    def _path(self) -> str:
        if not self._paths:
            self._paths = {id(module): name for name, module in self.root.named_modules()}
        return module_path(self.root, self._paths)


def name_of(func: Any) -> str:
    """Return the name of a function in messages."""
    return func if isinstance(func, str) else (resolve_name(func) or getattr(func, "__name__", repr(func)))


def module_path(root: nn.Module, paths: Mapping[int, str] | None = None) -> str:
    """Return path and type of the innermost module of `root` whose ``forward`` is on the call stack.

    Parameters
    ----------
    root : Module
        The model.
    paths : mapping of int to str, optional
        Path of each module by ``id``, for frequent callers.
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
