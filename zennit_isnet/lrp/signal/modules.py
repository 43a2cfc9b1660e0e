"""Rules that a user declares for module types: the module is not looked into, its output gets the rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from zennit.core import RemovableHandle

from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.lrp.signal import rules
from zennit_isnet.lrp.signal.activation import Gate
from zennit_isnet.lrp.signal.mode import FrozenGateMode, Rule
from zennit_isnet.lrp.signal.provenance import tensors_in
from zennit_isnet.lrp.signal.substitute import Substitute

Declared = Literal["linear", "activation", "gate"]

ModuleRule: TypeAlias = "Declared | Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]"
"""What a module type is declared as, or ``rule(module, input, output, signal)``: the signal at its input."""

DECLARED: Mapping[str, Rule] = MappingProxyType(
    {"linear": rules.linear, "activation": rules.activation, "gate": rules.hold}
)
"""Rules that are declared by a word, as functions get them."""


def function_rules(declared: Mapping[Any, Rule | Declared] | None) -> dict[Any, Rule]:
    """Return rules of functions, with words replaced by the rules that they mean.

    Raises
    ------
    InvalidValueError
        If a word is not in `DECLARED`.
    """
    return {f: DECLARED[_checked(f, rule)] if isinstance(rule, str) else rule for f, rule in (declared or {}).items()}


class ModuleRules:
    """Hooks that give declared module types their rules in the passes of one registration.

    Parameters
    ----------
    declared : mapping of module type to rule, optional
        See `ModuleRule`. Subclasses follow their base.

    Raises
    ------
    InvalidTypeError
        If a key is no module type.
    InvalidValueError
        If a word is not allowed.
    """

    def __init__(self, declared: Mapping[type[nn.Module], ModuleRule] | None = None) -> None:
        self.declared = dict(declared or {})
        for kind, rule in self.declared.items():
            if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
                raise InvalidTypeError(f"modules must map module types to rules, got the key {kind!r}")
            _checked(kind, rule)

    def register(self, root: nn.Module, current: Callable[[], FrozenGateMode | None]) -> list[RemovableHandle]:
        """Put hooks on the modules of the declared types; `current` returns the mode of the pass that runs."""
        handles = []
        for module in root.modules():
            rule = next((rule for kind, rule in self.declared.items() if isinstance(module, kind)), None)
            if rule is not None:
                handles += DeclaredModule(rule, current).register(module)
        return handles


class HiddenModule:
    """Hides the inside of one module from the mode, and attaches a rule to its output.

    Parameters
    ----------
    current : callable
        Returns the mode of the pass that runs, or None.
    """

    word: str
    """Name of the rule."""

    def __init__(self, current: Callable[[], FrozenGateMode | None]) -> None:
        self.current = current
        self.operands: list[tuple[list[Tensor], list[int]]] = []

    def register(self, module: nn.Module) -> list[RemovableHandle]:
        """Put hooks on the module."""
        return [
            module.register_forward_pre_hook(self.enter, with_kwargs=True),
            module.register_forward_hook(self.leave, prepend=True, always_call=True),
        ]

    def attach(self, module: nn.Module, mode: FrozenGateMode, operands: list[Tensor], output: Any) -> Any:
        """Return the output of the module with the rule attached."""
        raise NotImplementedError

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the forward pass."""
        mode = self.current()
        if mode is not None and torch.is_grad_enabled():
            mode.opaque += 1  # first, because the mode sees a look at a tensor's attributes too
            operands = list(tensors_in((*args, *kwargs.values())))
            self.operands.append((operands, [t._version for t in operands]))

    def leave(self, module: nn.Module, args: Any, output: Any) -> Any:
        """After the forward pass, also after an exception in it."""
        mode = self.current()
        if mode is None or not self.operands:
            return None
        try:
            operands, versions = self.operands.pop()
            nested = mode.opaque > 1
            return None if output is None or nested else self._declared(module, mode, operands, versions, output)
        finally:
            mode.opaque -= 1

    def _declared(
        self, module: nn.Module, mode: FrozenGateMode, operands: list[Tensor], versions: list[int], output: Any
    ) -> Any:
        name = f"module {type(module).__name__}"
        if any(t._version != version for t, version in zip(operands, versions, strict=True)):
            mode.refuse(name, "has a declared rule and writes to its input", "make the module work out of place")
        return mode.declare(name, self.word, operands, output, lambda: self.attach(module, mode, operands, output))


class DeclaredModule(HiddenModule):
    """Gives a module the rule that the user declared for its type."""

    def __init__(self, rule: ModuleRule, current: Callable[[], FrozenGateMode | None]) -> None:
        super().__init__(current)
        self.rule = rule
        self.word = rule if isinstance(rule, str) else getattr(rule, "__name__", "custom rule")

    def attach(self, module: nn.Module, mode: FrozenGateMode, operands: list[Tensor], output: Any) -> Any:
        if self.rule == "linear":
            return output
        if not isinstance(output, Tensor):
            name = f"module {type(module).__name__}"
            mode.report(name, f"returns {type(output).__name__}", "return one tensor, or declare it linear")
            return output
        if self.rule == "gate":
            return rules.held_constant(mode, output, operands)
        custom, epsilon = self.rule, mode.settings.epsilon

        def rule(signal: Tensor, input: Tensor, output: Tensor) -> tuple[Tensor, None]:
            if callable(custom):
                return custom(module, input, output, signal), None
            gated: Tensor = Gate.apply(signal, output, input, epsilon)
            return gated, None

        return Substitute.apply(mode.settings, rule, output, operands[0], output)


def _checked(key: Any, rule: Any) -> str:
    """Return a rule's word, or nothing for a function that is one."""
    if callable(rule):
        return ""
    if rule not in DECLARED:
        name = getattr(key, "__name__", repr(key))
        raise InvalidValueError(f"the rule of {name} must be a function or one of {list(DECLARED)}, got {rule!r}")
    word: str = rule
    return word
