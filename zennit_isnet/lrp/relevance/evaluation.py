"""Evaluates Zennit's rules as functions of inputs *and* parameters.

Zennit's own hooks read ``param.data`` and so cut the graph between relevance and parameters. Here the pieces of a
rule (modifiers, gradient mapper, reducer) are applied to the live tensors, and the module is evaluated with
`torch.func.functional_call`: the user's parameters are never replaced and never written to.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode
from zennit.core import BasicHook, Hook, ParamMod, zero_wrap
from zennit.rules import Pass

from zennit_isnet.errors import UnsupportedModelError
from zennit_isnet.lrp.signal.convolution import Convolution, Geometry
from zennit_isnet.lrp.signal.normalization import synchronizes

MECHANISM = ("register", "pre_forward", "post_forward", "pre_backward")
"""Methods of `zennit.core.Hook` that this package replaces."""

RANDOM = (nn.modules.dropout._DropoutNd, nn.RReLU)


class InputGradient(TorchFunctionMode):
    """Context in which modules are evaluated, and the gradient of those evaluations.

    Convolutions run by `Convolution`, whose gradient with respect to the input has first-order kernels as
    derivatives. The object is the switch of that gradient: it is on while `gradient` runs, and any other backward
    pass through the same graph is an ordinary one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.active = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (F.conv1d, F.conv2d, F.conv3d):
            return self._convolution(func, *args, **kwargs)
        return func(*args, **kwargs)

    def _convolution(
        self,
        func: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        geometry = Geometry.of_call(input, weight, stride, padding, dilation, groups)
        if geometry is None or torch.is_autocast_enabled(input.device.type):
            result: Tensor = func(input, weight, bias, stride, padding, dilation, groups)
        else:
            result = Convolution.apply(self, input, weight, bias, geometry, True)
        return result

    def gradient(
        self, outputs: Sequence[Tensor], inputs: Sequence[Tensor], upper: Any, create_graph: bool
    ) -> tuple[Tensor, ...]:
        """Return the gradient at the inputs."""
        self.active = True
        try:
            return torch.autograd.grad(outputs, inputs, upper, create_graph=create_graph)
        finally:
            self.active = False


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


def is_pass(rule: Hook) -> bool:
    """Whether a rule hands relevance on unchanged."""
    return type(rule).backward is Pass.backward


def check_rule(path: str, module: nn.Module, rule: Any) -> None:
    """Raise if a rule cannot be evaluated with live parameters on this module.

    Parameters
    ----------
    path : str
        Name of the module in the model.
    module : Module
        The module.
    rule : zennit.core.Hook
        What the composite's map gives it.

    Raises
    ------
    UnsupportedModelError
        If the rule is no Zennit hook or replaces the way in which hooks are registered; if one built from modifiers
        replaces ``backward`` on a module with parameters (it may read ``param.data``); if it would draw random numbers
        again; if it evaluates a SyncBatchNorm that synchronizes; if the module computes its weights from other
        parameters, which modifiers of parameters do not see.
    """
    where = f"{path or '(the model)'} ({type(module).__name__}): {type(rule).__name__}"
    if not isinstance(rule, Hook):
        raise UnsupportedModelError(f"{where} is no rule; a composite maps modules to zennit.core.Hook or None")
    replaced = [name for name in MECHANISM if getattr(type(rule), name) is not getattr(Hook, name)]
    if replaced:
        raise UnsupportedModelError(
            f"{where} overrides {', '.join(replaced)}, for which differentiable() has its own; express the rule by "
            "forward and backward"
        )
    own_backward = isinstance(rule, BasicHook) and type(rule).backward is not BasicHook.backward
    if own_backward and next(module.parameters(recurse=False), None) is not None:
        raise UnsupportedModelError(
            f"{where} overrides BasicHook.backward on a module with parameters, which may read param.data and lose "
            "their gradient; express the rule by modifiers, gradient mapper and reducer, or as a plain Hook"
        )
    if isinstance(module, RANDOM) and not is_pass(rule):
        raise UnsupportedModelError(
            f"{where} would draw other random numbers than the forward pass; give the module no rule, or Pass"
        )
    if synchronizes(module) and not is_pass(rule):
        raise UnsupportedModelError(
            f"{where} needs a second derivative, which PyTorch does not give SyncBatchNorm; give the module no rule, "
            "or Pass, or put it in eval mode"
        )
    computed = parametrize.is_parametrized(module) or isinstance(vars(module).get("weight"), Tensor)
    if computed and isinstance(rule, BasicHook):
        raise UnsupportedModelError(
            f"{where} modifies parameters, but the module's weight is computed from others (weight or spectral norm); "
            "remove the parametrization, or give the module no rule"
        )


def apply_rule(
    rule: Hook,
    module: nn.Module,
    parameters: Mapping[str, Tensor | None],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    relevance: Tensor,
) -> tuple[Tensor | None, ...]:
    """Relevance at each tensor among the inputs, by any of Zennit's hooks.

    A rule made of modifiers gives its relevance to each input of that shape, as Zennit does. Another hook gets the
    ordinary gradients, and keeps them where it returns None.
    """
    tensors = [a for a in args if isinstance(a, Tensor)]
    if is_pass(rule):
        return relevance, *(None for _ in tensors[1:])
    if isinstance(rule, BasicHook) and type(rule).backward is BasicHook.backward:
        result = basic_relevance(rule, module, parameters, args, kwargs, relevance)
        return tuple(result if t.shape == result.shape else None for t in tensors)
    gradients = plain_gradients(module, parameters, args, kwargs, relevance)
    if torch.is_grad_enabled() and not relevance.requires_grad:
        # hooks ask the incoming relevance whether to make a graph
        relevance = relevance.detach().requires_grad_()
    rule.stored_tensors["grad_output"] = (relevance,)
    try:
        changed = rule.backward(module, gradients, (relevance,))
    finally:
        # the graph of the relevance holds this rule: a reference cycle that nothing collects
        del rule.stored_tensors["grad_output"]
    return gradients if changed is None else tuple(changed)


def see_forward(rule: Hook, module: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Tensor) -> None:
    """Let a hook see the forward pass: ``(module, input, output)``, or with keyword arguments since Zennit 1."""
    own = type(rule)
    if own.forward is Hook.forward or (own.forward is BasicHook.forward and own.backward is BasicHook.backward):
        return
    if len(inspect.signature(rule.forward).parameters) == 3:
        rule.forward(module, args, output)
    else:
        rule.forward(module, args, kwargs, output)
