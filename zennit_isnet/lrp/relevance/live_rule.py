"""One Zennit rule on one module, with live parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from zennit.core import BasicHook, Hook, RemovableHandle, RemovableHandleList
from zennit.types import Linear

from zennit_isnet.errors import UnsupportedModelError
from zennit_isnet.lrp.composite import Switched
from zennit_isnet.lrp.relevance.evaluation import Call, copied, is_pass, see_forward
from zennit_isnet.lrp.relevance.fusion import Fusion, LayerCall, NormCall, exact_before, with_rule
from zennit_isnet.lrp.signal.substitute import Switch, substitute


class LiveRule(Switched):
    """Hook that applies a Zennit rule to a module, with relevance attached to the parameters.

    Parameters
    ----------
    where : str
        Name and type of the module in the model, for messages.
    rule : zennit.core.Hook
        Template of the rule; each call of the module gets its own copy.
    fusion : Fusion, optional
        Records calls that a BatchNorm may be folded into.
    """

    def __init__(self, where: str, rule: Hook, fusion: Fusion | None = None) -> None:
        super().__init__()
        self.where, self.rule, self.fusion = where, rule, fusion
        self.stored_tensors["calls"] = []

    def register(self, module: nn.Module) -> RemovableHandleList:
        """Hook the module."""
        before = module.register_forward_pre_hook(self._before, with_kwargs=True)
        after = module.register_forward_hook(self._after, with_kwargs=True)
        return RemovableHandleList([RemovableHandle(self), before, after])

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # the rule needs the original input; the model and everything sharing its memory need the modified one
        overwrites = getattr(module, "inplace", False) and torch.is_grad_enabled()
        with torch._C.DisableTorchFunction():  # not an operation of the model: hide it from modes
            self.stored_tensors["calls"].append(copied(args) if overwrites else args)

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        args = self.stored_tensors["calls"].pop()
        if not torch.is_grad_enabled():
            return None
        if any(isinstance(value, Tensor) and value.requires_grad for value in kwargs.values()):
            self._refuse("got an input as a keyword argument; pass it by position, or use no rule for the module")
        if not any(isinstance(value, Tensor) and value.requires_grad for value in args):
            return None
        single = output[0] if isinstance(output, tuple) and output else output
        if not isinstance(args[0], Tensor) or not isinstance(single, Tensor):
            types = f"{type(args[0]).__name__} → {type(output).__name__}"
            self._refuse(f"rules need a module that takes a tensor and returns one; got {types}")
        if single.grad_fn is None:
            return None
        call = Call(module, dict(module.named_parameters(recurse=False)), args, kwargs)
        ruled = attached(self, self.where, self.rule.copy(), call, single, self.fusion)
        if not isinstance(output, tuple):
            return ruled
        return type(output)(ruled, *output[1:]) if hasattr(output, "_fields") else (ruled, *output[1:])

    def _refuse(self, reason: str) -> None:
        raise UnsupportedModelError(f"{self.where}: {type(self.rule).__name__}: {reason}")


def attached(
    switch: Switch, where: str, rule: Hook, call: Call, output: Tensor, fusion: Fusion | None = None
) -> Tensor:
    """Return the output of a call with its own rule attached.

    Parameters
    ----------
    switch : Switch
        Whether a backward pass propagates relevance.
    where, fusion
        As of `LiveRule`.
    rule : zennit.core.Hook
        Used for this call only.
    call : Call
        Call of a module, or of the corresponding function.
    output : Tensor
        What it returned.
    """
    if is_pass(rule):
        sources = [t for t in call.tensors if t.requires_grad]
        shapes = [tuple(t.shape) for t in sources]
        if shapes != [tuple(output.shape)]:
            raise UnsupportedModelError(
                f"{where}: {type(rule).__name__}: passes relevance of shape {tuple(output.shape)} on unchanged, to one "
                f"input of the same shape, but the inputs are {shapes}; use another rule or none for the module"
            )
        return substitute(switch, None, output, sources[0])
    see_forward(rule, call, output)
    input, before = call.args[0], None
    if fusion is not None and isinstance(rule, BasicHook) and exact_before(call.module, input):
        norm = fusion.call_of(input)
        if isinstance(norm, NormCall):
            before, input = norm
    layer = LayerCall(call._replace(args=(input, *call.args[1:])), before, rule)
    ruled = with_rule(switch, layer, output)
    if fusion is not None and isinstance(call.module, Linear):
        fusion.note(ruled, layer)
    return ruled
