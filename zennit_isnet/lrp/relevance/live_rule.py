"""One Zennit rule on one module, with live parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from zennit.core import BasicHook, Hook, RemovableHandle, RemovableHandleList

from zennit_isnet.errors import UnsupportedModelError
from zennit_isnet.lrp.relevance.evaluation import apply_rule, is_pass, see_forward
from zennit_isnet.lrp.relevance.fusion import Fusion
from zennit_isnet.lrp.signal.substitute import substitute


class LiveRule(Hook):
    """Hook that carries a Zennit rule to a module and keeps the rule's relevance attached to the parameters.

    Parameters
    ----------
    path : str
        Name of the module in the model, for messages.
    rule : zennit.core.Hook
        Template of the rule; each call of the module gets its own copy.
    fusion : Fusion, optional
        Where calls are noted that a BatchNorm may be folded into.
    """

    def __init__(self, path: str, rule: Hook, fusion: Fusion | None = None) -> None:
        super().__init__()
        self.path, self.rule, self.fusion = path, rule, fusion
        self.active = False
        self._calls: list[tuple[Any, ...]] = []

    def copy(self) -> LiveRule:
        """Return an unregistered hook with the same rule."""
        return LiveRule(self.path, self.rule, self.fusion)

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
        if not torch.is_grad_enabled():
            return None
        if any(isinstance(value, Tensor) and value.requires_grad for value in kwargs.values()):
            self._refuse(module, "got an input as a keyword argument; pass it by position, or give the module no rule")
        if not any(isinstance(value, Tensor) and value.requires_grad for value in args):
            return None
        single = output[0] if isinstance(output, tuple) and output else output
        if not isinstance(args[0], Tensor) or not isinstance(single, Tensor):
            types = f"{type(args[0]).__name__} → {type(output).__name__}"
            self._refuse(module, f"rules need a module that takes a tensor and returns one, this is {types}")
        if single.grad_fn is None:
            return None
        ruled = self._attach(module, args, kwargs, single)
        if not isinstance(output, tuple):
            return ruled
        return type(output)(ruled, *output[1:]) if hasattr(output, "_fields") else (ruled, *output[1:])

    def _attach(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Tensor:
        """Return the output with the rule attached."""
        rule = self.rule.copy()
        tensors = [a for a in args if isinstance(a, Tensor)]
        if is_pass(rule):
            return self._pass(module, tensors, output)
        see_forward(rule, module, args, kwargs, output)
        affine = None
        if self.fusion is not None and isinstance(rule, BasicHook):
            tensors[0], affine = self.fusion.norm_before(module, tensors[0])
        # tensors are saved by autograd, which sees if one is overwritten
        others = [None if isinstance(a, Tensor) else (a,) for a in args]
        names = [name for name, _ in module.named_parameters(recurse=False)]
        count = len(tensors)

        def propagate(relevance: Tensor, *operands: Tensor) -> tuple[Tensor | None, ...]:
            fresh = iter(operands[:count])
            inputs = tuple(next(fresh) if other is None else other[0] for other in others)
            parameters: Mapping[str, Tensor | None] = dict(zip(names, operands[count:], strict=True))
            if affine is not None:
                parameters = affine.folded_before(module, parameters, operands[0])
            return *apply_rule(rule, module, parameters, inputs, kwargs, relevance), *(None for _ in names)

        ruled = substitute(self, propagate, output, *tensors, *(getattr(module, n) for n in names))
        if self.fusion is not None:
            self.fusion.note_linear(ruled, self, rule, module, tensors[0], affine)
        return ruled

    def _pass(self, module: nn.Module, tensors: list[Tensor], output: Tensor) -> Tensor:
        sources = [t for t in tensors if t.requires_grad]
        shapes = [tuple(t.shape) for t in sources]
        if shapes != [tuple(output.shape)]:
            self._refuse(
                module,
                f"Pass hands relevance of shape {tuple(output.shape)} on unchanged, to one input of the same shape, "
                f"but the inputs are {shapes}; give the module another rule or none",
            )
        return substitute(self, None, output, sources[0])

    def _refuse(self, module: nn.Module, reason: str) -> None:
        name = type(self.rule).__name__
        raise UnsupportedModelError(f"{self.path or '(the model)'} ({type(module).__name__}): {name}: {reason}")
