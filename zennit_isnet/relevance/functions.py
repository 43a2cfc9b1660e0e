"""Functional calls that stand for modules: sums, activations, average pooling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from zennit.core import Hook, RemovableHandle, RemovableHandleList
from zennit.layer import Sum

from zennit_isnet.relevance.hook import apply_rule
from zennit_isnet.signal.provenance import tensors_in
from zennit_isnet.signal.substitute import Substitute

SUMS = frozenset({torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__})

MODULES: Mapping[Any, Callable[..., nn.Module]] = MappingProxyType(
    {
        F.relu: lambda inplace=False: nn.ReLU(),
        torch.relu: nn.ReLU,
        Tensor.relu: nn.ReLU,
        F.relu6: lambda inplace=False: nn.ReLU6(),
        F.gelu: nn.GELU,
        F.silu: lambda inplace=False: nn.SiLU(),
        F.hardswish: lambda inplace=False: nn.Hardswish(),
        torch.tanh: nn.Tanh,
        torch.sigmoid: nn.Sigmoid,
        F.avg_pool1d: nn.AvgPool1d,
        F.avg_pool2d: nn.AvgPool2d,
        F.avg_pool3d: nn.AvgPool3d,
        F.adaptive_avg_pool1d: nn.AdaptiveAvgPool1d,
        F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
        F.adaptive_avg_pool3d: nn.AdaptiveAvgPool3d,
    }
)
"""The module that a functional call stands for, made from the call's arguments after the input."""


class VisibleFunctions(Hook):
    """Hook of the root module: functional calls outside of modules with a rule get the rule of their module type.

    Parameters
    ----------
    rule_of : callable
        ``rule_of(module) -> Hook or None``, the composite's map.
    """

    def __init__(self, rule_of: Callable[[nn.Module], Hook | None]) -> None:
        super().__init__()
        self.rule_of = rule_of
        self.active = False
        self.inside = 0
        self._mode: _FunctionMode | None = None
        self._depth = 0

    def copy(self) -> VisibleFunctions:
        """Return an unregistered hook."""
        return VisibleFunctions(self.rule_of)

    def register(self, module: nn.Module) -> RemovableHandleList:
        """Watch the functional calls of the module's forward passes."""
        self.active = True
        handles: list[Any] = [
            RemovableHandle(self),
            module.register_forward_pre_hook(self._enter, prepend=True),
            module.register_forward_hook(self._leave, always_call=True),
        ]
        for child in module.modules():
            if child is not module and self.rule_of(child) is not None:
                handles.append(child.register_forward_pre_hook(self._into, prepend=True))
                handles.append(child.register_forward_hook(self._out_of, always_call=True))
        return RemovableHandleList(handles)

    def remove(self) -> None:
        """Switch off."""
        self.active = False
        self._close()
        super().remove()

    def _enter(self, module: nn.Module, args: Any) -> None:
        if self._mode is None and torch.is_grad_enabled():
            self.inside = 0
            self._mode = _FunctionMode(self)
            self._mode.__enter__()  # type: ignore[no-untyped-call]

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self._close()

    def _close(self) -> None:
        mode, self._mode = self._mode, None
        if mode is not None:
            mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def _into(self, module: nn.Module, args: Any) -> None:
        self.inside += 1

    def _out_of(self, module: nn.Module, args: Any, output: Any) -> None:
        self.inside -= 1


class _FunctionMode(TorchFunctionMode):
    def __init__(self, hook: VisibleFunctions) -> None:
        super().__init__()
        self.hook = hook

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operands = [t for t in tensors_in((*args, *kwargs.values())) if t.requires_grad]
        if self.hook.inside or not operands:
            return func(*args, **kwargs)
        if func in SUMS:
            return self._sum(func, *args, **kwargs)
        if func in MODULES:
            return self._call(func, *args, **kwargs)
        return func(*args, **kwargs)

    def _sum(self, func: Any, left: Any, right: Any = None, **kwargs: Any) -> Any:
        rule = self.hook.rule_of(Sum())
        right = kwargs.pop("other", right)
        both = [t for t in (left, right) if isinstance(t, Tensor) and t.grad_fn is not None]
        if rule is None or len(both) < 2 or kwargs:
            return func(left, right, **kwargs)
        inplace = func in (Tensor.add_, Tensor.__iadd__)
        terms = (left.clone() if inplace else left, right)
        module = Sum()

        def propagate(relevance: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, ...]:
            stacked = torch.stack(torch.broadcast_tensors(left, right), dim=-1)
            parts = apply_rule(rule.copy(), module, {}, stacked, ((), {}), relevance).unbind(-1)
            return tuple(part.sum_to_size(t.shape) for part, t in zip(parts, (left, right), strict=True))

        result: Tensor = Substitute.apply(self.hook, propagate, torch.add(*terms), *terms)
        return left.copy_(result) if inplace else result

    def _call(self, func: Any, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        module = MODULES[func](*args, **kwargs)
        rule = self.hook.rule_of(module)
        if rule is None or input.grad_fn is None:
            return func(input, *args, **kwargs)
        inplace = bool(kwargs.get("inplace", False))
        original = input.clone() if inplace else input
        output = module.forward(original)

        def propagate(relevance: Tensor, input: Tensor) -> tuple[Tensor, ...]:
            return (apply_rule(rule.copy(), module, {}, input, ((), {}), relevance),)

        result: Tensor = Substitute.apply(self.hook, propagate, output, original)
        return input.copy_(result) if inplace else result
