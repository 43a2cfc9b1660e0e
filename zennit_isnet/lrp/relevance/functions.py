"""Functional calls that stand for modules: sums, activations, average pooling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from zennit.core import Hook
from zennit.layer import Sum

from zennit_isnet.errors import UncoveredOperationError
from zennit_isnet.lrp.composite import PassHook
from zennit_isnet.lrp.relevance.evaluation import Call, apply_rule
from zennit_isnet.lrp.relevance.live_rule import attached
from zennit_isnet.lrp.signal import linear
from zennit_isnet.lrp.signal.mode import module_path, name_of, tensors_in
from zennit_isnet.lrp.signal.substitute import substitute
from zennit_isnet.lrp.signal.table import HANDLERS

SUMS = frozenset({torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__})

PLAIN = frozenset({linear.linear, linear.constant, linear.dropout, linear.alias, linear.shaped})
"""Handlers whose relevance is the ordinary gradient."""

MODULES: Mapping[Any, Callable[..., nn.Module]] = MappingProxyType(
    {
        **{F.relu: nn.ReLU, torch.relu: nn.ReLU, Tensor.relu: nn.ReLU, F.relu6: nn.ReLU6, F.silu: nn.SiLU},
        **{F.hardswish: nn.Hardswish, F.gelu: nn.GELU, torch.tanh: nn.Tanh, torch.sigmoid: nn.Sigmoid},
        **{getattr(F, f"avg_pool{d}d"): getattr(nn, f"AvgPool{d}d") for d in (1, 2, 3)},
        **{getattr(F, f"adaptive_avg_pool{d}d"): getattr(nn, f"AdaptiveAvgPool{d}d") for d in (1, 2, 3)},
    }
)
"""The module that a functional call stands for, made from the call's arguments after the input."""


class VisibleFunctions(PassHook):
    """Hook of the root module: functional calls outside of modules with a rule get the rule of their module type.

    Parameters
    ----------
    rule_of : callable
        ``rule_of(module) -> Hook or None``, the composite's map.
    strict : bool
        Whether operations on the way from the images that are neither linear nor have a rule are errors.
    """

    def __init__(self, rule_of: Callable[[nn.Module], Hook | None], strict: bool = False) -> None:
        super().__init__()
        self.rule_of, self.strict = rule_of, strict
        self.inside = 0

    def hook_on(self, module: nn.Module) -> list[Any]:
        """Watch the functional calls of the module's forward passes."""
        handles = super().hook_on(module)
        for child in module.modules():
            if child is not module and self.rule_of(child) is not None:
                handles.append(child.register_forward_pre_hook(self._into, prepend=True))
                handles.append(child.register_forward_hook(self._out_of, always_call=True))
        return handles

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.mode is None and torch.is_grad_enabled():
            self.inside = 0
            self.start(_FunctionMode(self, module))

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        mode = self.end()
        if mode is not None and output is not None and mode.problems:
            raise UncoveredOperationError(mode.problems)

    def _into(self, module: nn.Module, args: Any) -> None:
        self.inside += 1

    def _out_of(self, module: nn.Module, args: Any, output: Any) -> None:
        self.inside -= 1


class _FunctionMode(TorchFunctionMode):
    def __init__(self, hook: VisibleFunctions, root: nn.Module) -> None:
        super().__init__()
        self.hook, self.root = hook, root
        self.problems: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operands = [t for t in tensors_in((*args, *kwargs.values())) if _carries(t)]
        if self.hook.inside or not operands or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        if func in SUMS:
            return self._sum(func, *args, **kwargs)
        if func in MODULES:
            return self._call(func, *args, **kwargs)
        result = func(*args, **kwargs)
        if self.hook.strict and HANDLERS.get(func) not in PLAIN and next(tensors_in((result,)), None) is not None:
            self._report(func)
        return result

    def _report(self, func: Any) -> None:
        remedy = "use LRPFlex, or differentiable(composite) with a rule for the module"
        problem = f"{module_path(self.root)}: {name_of(func)}: no relevance rule covers it; {remedy}"
        if problem not in self.problems:
            self.problems.append(problem)

    def _sum(self, func: Any, input: Any, other: Any, **kwargs: Any) -> Any:
        rule = self.hook.rule_of(Sum())
        both = [t for t in (input, other) if _carries(t)]
        if rule is None or len(both) < 2 or kwargs:
            return func(input, other, **kwargs)
        inplace = func in (Tensor.add_, Tensor.__iadd__)
        terms = (input.clone() if inplace else input, other)

        def propagate(relevance: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, ...]:
            stacked = torch.stack(torch.broadcast_tensors(left, right), dim=-1)
            (share,) = apply_rule(rule.copy(), Call(Sum(), {}, (stacked,)), relevance)
            assert share is not None
            return tuple(part.sum_to_size(t.shape) for part, t in zip(share.unbind(-1), (left, right), strict=True))

        result = substitute(self.hook, propagate, torch.add(*terms), *terms)
        return input.copy_(result) if inplace else result

    def _call(self, func: Any, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        module: Any = MODULES[func](*args, **kwargs)
        rule = self.hook.rule_of(module)
        if rule is None or not _carries(input):
            return func(input, *args, **kwargs)
        inplace: bool = getattr(module, "inplace", False)
        module.inplace = False
        original = input.clone() if inplace else input
        call = Call(module, {}, (original,))
        result = attached(self.hook, name_of(func), rule.copy(), call, module.forward(original))
        return input.copy_(result) if inplace else result


def _carries(value: Any) -> bool:
    """Whether a value may carry relevance to the images; a parameter alone does not."""
    return isinstance(value, Tensor) and value.requires_grad and not isinstance(value, nn.Parameter)
