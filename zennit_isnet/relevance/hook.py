"""One Zennit rule on one module, with live parameters."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from zennit.core import BasicHook, Hook, RemovableHandle, RemovableHandleList
from zennit.rules import Pass

from zennit_isnet.errors import UnsupportedModelError
from zennit_isnet.relevance.evaluation import Arguments, basic_relevance, plain_gradient
from zennit_isnet.signal.substitute import Substitute

if TYPE_CHECKING:
    from zennit_isnet.relevance.fusion import Fusion


def check_rule(name: str, module: nn.Module, rule: Hook) -> None:
    """Raise if a rule cannot be evaluated with live parameters on this module.

    Raises
    ------
    UnsupportedModelError
        If a rule built from modifiers replaces Zennit's ``backward`` (it may read ``param.data``), or re-evaluates a
        module that draws random numbers.
    """
    where = f"{name or '(the model)'} ({type(module).__name__}): {type(rule).__name__}"
    has_parameters = next(module.parameters(recurse=False), None) is not None
    own_backward = isinstance(rule, BasicHook) and type(rule).backward is not BasicHook.backward
    if own_backward and has_parameters:
        raise UnsupportedModelError(
            f"{where} overrides BasicHook.backward on a module with parameters, which may read param.data and lose "
            "their gradient; express the rule by modifiers, gradient mapper and reducer, or as a plain Hook"
        )
    if isinstance(rule, BasicHook) and isinstance(module, nn.modules.dropout._DropoutNd):
        raise UnsupportedModelError(f"{where} would draw another dropout mask; leave dropout without a rule, or Pass")


class LiveRule(Hook):
    """Hook that carries a Zennit rule to a module and keeps the rule's relevance attached to the parameters.

    Parameters
    ----------
    rule : zennit.core.Hook
        Template of the rule; each call of the module gets its own copy.
    fusion : Fusion, optional
        Where calls are noted that a BatchNorm may be folded into.
    """

    def __init__(self, rule: Hook, fusion: Fusion | None = None) -> None:
        super().__init__()
        self.rule = rule
        self.fusion = fusion
        self.active = False
        self._calls: list[tuple[Any, ...]] = []

    def copy(self) -> LiveRule:
        """Return an unregistered hook with the same rule."""
        return LiveRule(self.rule, self.fusion)

    def register(self, module: nn.Module) -> RemovableHandleList:
        """Hook the module and switch its rule on."""
        self.active = True
        return RemovableHandleList(
            [
                RemovableHandle(self),
                module.register_forward_pre_hook(self._before, with_kwargs=True),
                module.register_forward_hook(self._after, with_kwargs=True),
            ]
        )

    def remove(self) -> None:
        """Switch the rule off, for graphs that still exist too."""
        self.active = False
        self._calls.clear()
        super().remove()

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._calls.append(args)
        if getattr(module, "inplace", False) and torch.is_grad_enabled():
            # the rule needs the input as it was
            return tuple(a.clone() if isinstance(a, Tensor) else a for a in args), kwargs
        return None

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        args = self._calls.pop()
        tensors = [a for a in args if isinstance(a, Tensor)]
        single = output[0] if isinstance(output, tuple) else output
        if not torch.is_grad_enabled() or not any(t.requires_grad for t in tensors) or single.grad_fn is None:
            return None
        ruled = self.attach(module, tensors, (args[1:], kwargs), args, single, kwargs)
        return (ruled, *output[1:]) if isinstance(output, tuple) else ruled

    def attach(
        self,
        module: nn.Module,
        tensors: list[Tensor],
        arguments: Arguments,
        args: tuple[Any, ...],
        output: Tensor,
        kwargs: Mapping[str, Any],
    ) -> Tensor:
        """Return the output with the rule attached."""
        rule = self.rule.copy()
        _call_forward(rule, module, args, kwargs, output)
        names = [name for name, _ in module.named_parameters(recurse=False)]
        count = len(tensors)

        def propagate(relevance: Tensor, *operands: Tensor) -> tuple[Tensor | None, ...]:
            inputs, parameters = operands[:count], dict(zip(names, operands[count:], strict=True))
            result = apply_rule(rule, module, parameters, inputs[0], arguments, relevance)
            shared = [result if i.shape == result.shape else None for i in inputs]
            return (*shared, *(None for _ in parameters))

        parameters = [getattr(module, name) for name in names]
        ruled: Tensor = Substitute.apply(self, propagate, output, *tensors, *parameters)
        if self.fusion is not None and isinstance(rule, BasicHook):
            self.fusion.note(ruled, self, rule, module, tensors[0], arguments)
        return ruled


def apply_rule(
    rule: Hook,
    module: nn.Module,
    parameters: Mapping[str, Tensor | None],
    input: Tensor,
    arguments: Arguments,
    relevance: Tensor,
) -> Tensor:
    """Relevance at the input by any of Zennit's hooks; None from the hook means the ordinary gradient."""
    if type(rule).backward is Pass.backward:
        return relevance
    if isinstance(rule, BasicHook) and type(rule).backward is BasicHook.backward:
        return basic_relevance(rule, module, parameters, input, arguments, relevance)
    gradient = plain_gradient(module, parameters, input, arguments, relevance)
    rule.stored_tensors["grad_output"] = (relevance,)
    changed = rule.backward(module, (gradient,), (relevance,))
    if changed is None or changed[0] is None:
        return gradient
    result: Tensor = changed[0]
    return result


def _call_forward(rule: Hook, module: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Tensor) -> None:
    """Let a hook see the forward pass: ``(module, input, output)``, or with keyword arguments since Zennit 1."""
    if isinstance(rule, BasicHook) and type(rule).forward is BasicHook.forward:
        return  # it stores the input, which is kept here anyway
    if len(inspect.signature(rule.forward).parameters) == 3:
        rule.forward(module, args, output)
    else:
        rule.forward(module, args, kwargs, output)
