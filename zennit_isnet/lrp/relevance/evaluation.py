"""Evaluates Zennit's rules as functions of inputs *and* parameters.

Zennit's own hooks read ``param.data`` and so cut the graph between relevance and parameters. Here the pieces of a
rule (modifiers, gradient mapper, reducer) are applied to the live tensors, and the module is evaluated with
`torch.func.functional_call`: the user's parameters are never replaced and never written to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from zennit.core import BasicHook, ParamMod, zero_wrap

from zennit_isnet.errors import UnsupportedModelError
from zennit_isnet.lrp.relevance.input_gradient import InputGradient


class _Unhooked(nn.Module):
    """Calls a module's forward without its hooks."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module.forward(*args, **kwargs)


def evaluate(
    module: nn.Module, parameters: Mapping[str, Tensor | None], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Tensor:
    """Return the module's output with other parameters, and with copies of its buffers (running statistics)."""
    state: dict[str, Any] = {f"module.{name}": value for name, value in parameters.items()}
    state |= {f"module.{name}": buffer.clone() for name, buffer in module.named_buffers()}
    if getattr(module, "inplace", False):
        args = tuple(a.clone() if isinstance(a, Tensor) else a for a in args)
    output = torch.func.functional_call(_Unhooked(module), state, args, dict(kwargs))
    result: Tensor = output[0] if isinstance(output, tuple) else output
    return result


def modified_parameters(
    modifier: Any, module: nn.Module, parameters: Mapping[str, Tensor | None]
) -> dict[str, Tensor | None]:
    """Apply one of Zennit's parameter modifiers to live parameters, with the meaning of `zennit.core.ParamMod`."""
    mod = ParamMod.ensure(modifier)
    keys = [n for n, p in parameters.items() if p is not None] if mod.param_keys is None else mod.param_keys
    missing = [key for key in keys if key not in parameters and not hasattr(module, key)]
    if missing and mod.require_params:
        raise UnsupportedModelError(
            f"{type(module).__name__}: the rule modifies the parameters {missing}, which the module does not have; "
            "give this module type another rule"
        )
    function = zero_wrap(mod.zero_params or [])(mod.modifier)
    changed = dict(parameters)
    for key in keys:
        value = parameters.get(key)
        if value is not None:
            changed[key] = function(value, key)
    return changed


def basic_relevance(
    rule: BasicHook,
    module: nn.Module,
    parameters: Mapping[str, Tensor | None],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    relevance: Tensor,
) -> Tensor:
    """Relevance at the first input of a module by a rule made of modifiers, gradient mapper and reducer.

    Parameters
    ----------
    rule : zennit.core.BasicHook
        The rule.
    module : Module
        The module, or one that computes the same with other `parameters`.
    parameters : mapping of str to Tensor
        Its own parameters, live; with a BatchNorm folded in where there is one.
    args : tuple
        Inputs of the module in the forward pass, attached to the graph. The rule modifies the first one.
    kwargs : mapping
        Its keyword arguments.
    relevance : Tensor
        Relevance at the output.

    Returns
    -------
    Tensor
        Relevance at the input, differentiable with respect to parameters, input and incoming relevance.
    """
    input, *others = args
    inputs, outputs = [], []
    evaluation = InputGradient()
    with torch.enable_grad(), evaluation:
        for in_mod, param_mod, out_mod in zip(
            rule.input_modifiers, rule.param_modifiers, rule.output_modifiers, strict=True
        ):
            # the alias keeps derivatives of different pieces apart
            modified = in_mod(input).view_as(input)
            modified = modified if modified.requires_grad else modified.requires_grad_()
            weights = modified_parameters(param_mod, module, parameters)
            inputs.append(modified)
            outputs.append(out_mod(evaluate(module, weights, (modified, *others), kwargs)))
    create_graph = torch.is_grad_enabled()
    upper = rule.gradient_mapper(relevance, outputs)
    gradients = evaluation.gradient(outputs, inputs, upper, create_graph)
    result: Tensor = rule.reducer(inputs, gradients)
    return result


def plain_gradients(
    module: nn.Module,
    parameters: Mapping[str, Tensor | None],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    upper: Tensor,
) -> tuple[Tensor | None, ...]:
    """Return the ordinary gradient at each tensor among the inputs, None at those that have no part in it."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs = tuple(a.view_as(a) if isinstance(a, Tensor) else a for a in args)
        tensors = [a for a in inputs if isinstance(a, Tensor)]
        wanted = [t for t in tensors if t.requires_grad]
        output = evaluate(module, parameters, inputs, kwargs)
        found = iter(torch.autograd.grad(output, wanted, upper, create_graph=create_graph, allow_unused=True))
    return tuple(next(found) if t.requires_grad else None for t in tensors)
