"""User-declared rules for module types: the module becomes a leaf module, and its output gets the rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from zennit.core import RemovableHandle

from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.lrp.signal import activation, linear
from zennit_isnet.lrp.signal.mode import FrozenGateMode, Kind, tensors_in, version_of
from zennit_isnet.lrp.signal.substitute import Handler, Substitute

Declared = Literal["linear", "activation", "gate"]

ModuleRule: TypeAlias = "Declared | Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]"
"""A word for the rule, or a function ``rule(module, input, output, signal)`` that returns the signal at the input."""

DECLARED: Mapping[str, Handler] = MappingProxyType(
    {"linear": linear.linear, "activation": activation.activation, "gate": linear.hold}
)
"""Handlers of the words."""


def function_handlers(declared: Mapping[Any, Handler | Declared] | None) -> dict[Any, Handler]:
    """Return the handlers of functions, with words replaced by their handlers.

    Raises
    ------
    InvalidTypeError
        If a key is not a function.
    InvalidValueError
        If a word is not in `DECLARED`.
    """
    rules = _checked("rules", declared, "functions", callable)
    return {f: DECLARED[rule] if isinstance(rule, str) else rule for f, rule in rules.items()}


def module_rules(declared: Mapping[type[nn.Module], ModuleRule] | None) -> dict[type[nn.Module], ModuleRule]:
    """Return the rules that a user declares for module types.

    Raises
    ------
    InvalidTypeError
        If a key is not a module type.
    InvalidValueError
        If a word is not allowed.
    """
    return _checked("modules", declared, "module types", lambda k: isinstance(k, type) and issubclass(k, nn.Module))


def _checked(name: str, declared: Any, keys: str, is_key: Callable[[Any], bool]) -> dict[Any, Any]:
    if declared is not None and not isinstance(declared, Mapping):
        raise InvalidTypeError(f"{name} must map {keys} to rules; got {declared!r}")
    for key, rule in (declared or {}).items():
        if not is_key(key):
            raise InvalidTypeError(f"{name} must map {keys} to rules; got the key {key!r}")
        if not callable(rule) and not (isinstance(rule, str) and rule in DECLARED):
            of = getattr(key, "__name__", repr(key))
            raise InvalidValueError(f"the rule of {of} must be a function or one of {list(DECLARED)}; got {rule!r}")
    return dict(declared or {})


def hide(
    module: nn.Module,
    word: str,
    attach: Callable[[nn.Module, FrozenGateMode, list[Tensor], Any], Any],
    current: Callable[[], FrozenGateMode | None],
    applies: Callable[[nn.Module], bool] = lambda module: True,
) -> list[RemovableHandle]:
    """Hide the inside of a module from the mode, and attach a signal function to its output, by hooks.

    Parameters
    ----------
    module : Module
        The module.
    word : str
        Name of its rule in `check`.
    attach : callable
        ``attach(module, mode, operands, output)`` returns the output with its signal function.
    current : callable
        Returns the mode of the current pass, or None.
    applies : callable, optional
        Whether to hide the module in its current state.
    """
    calls: list[tuple[list[Tensor], list[int]]] = []

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        mode = current()
        if mode is not None and torch.is_grad_enabled() and applies(module):
            mode.opaque += 1  # first, because the mode also sees attribute access on tensors
            operands = list(tensors_in((*args, *kwargs.values())))
            calls.append((operands, [version_of(t) for t in operands]))

    def leave(module: nn.Module, args: Any, output: Any) -> Any:
        mode = current()
        if mode is None or not calls:
            return None
        try:
            operands, versions = calls.pop()
            if output is None or mode.opaque > 1:
                return None
            name = f"module {type(module).__name__}"
            if [version_of(t) for t in operands] != versions:
                mode.refuse(name, "has a declared rule and writes to its input", "make the module out of place")
            return mode.declare(name, word, operands, output, lambda: attach(module, mode, operands, output))
        finally:
            mode.opaque -= 1

    return [
        module.register_forward_pre_hook(enter, with_kwargs=True),
        module.register_forward_hook(leave, prepend=True, always_call=True),
    ]


def attach_declared(
    rule: ModuleRule, module: nn.Module, mode: FrozenGateMode, operands: list[Tensor], output: Any
) -> Any:
    """Return a module's output with the rule declared for its type."""
    if rule == "linear":
        return output
    name = f"module {type(module).__name__}"
    if not isinstance(output, Tensor):
        mode.report(name, f"returns {type(output).__name__}", "return one tensor, or declare it linear")
        return output
    if rule == "gate":
        mode.note_gate(name)
        return linear.held_constant(mode, output, operands)
    sources = list({id(t): t for t in operands if mode.kinds[t] is Kind.SIGNAL}.values())
    if len(sources) > 1:
        mode.report(name, f"reads {len(sources)} tensors that carry the signal", "a declared rule has one input")
        return output
    if rule == "activation" and (misfit := activation.misfit_of_activation(mode, sources[0], output)):
        mode.report(name, f"is declared an activation and {misfit}", 'declare it "gate" or "linear", or give it a rule')
        return output
    if rule == "activation":
        activation.check_images_known(mode, name, output)
    epsilon, where = mode.settings.epsilon, mode._path() if callable(rule) else ""

    def signal_function(signal: Tensor, input: Tensor, output: Tensor) -> tuple[Tensor, None]:
        if not callable(rule):
            return activation.gated(activation.Gate, epsilon, (signal, output, input)), None
        found = rule(module, input, output, signal)
        if not isinstance(found, Tensor) or found.shape != input.shape:
            came = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise InvalidValueError(
                f"the rule of {where} must return the signal at its input, of shape {tuple(input.shape)}; got {came}"
            )
        return found, None

    return Substitute.apply(mode.settings, signal_function, output, sources[0], output)


def register_declared(
    root: nn.Module, declared: Mapping[type[nn.Module], ModuleRule], current: Callable[[], FrozenGateMode | None]
) -> list[RemovableHandle]:
    """Hook the modules of declared types, including subclasses; `current` returns the mode of the current pass."""
    handles = []
    for module in root.modules():
        rule = next((rule for kind, rule in declared.items() if isinstance(module, kind)), None)
        if rule is not None:
            word = rule if isinstance(rule, str) else getattr(rule, "__name__", "custom rule")
            handles += hide(module, word, partial(attach_declared, rule), current)
    return handles
