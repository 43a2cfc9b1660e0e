"""Evaluates Zennit's rules as functions of inputs *and* parameters.

Zennit's own hooks read ``param.data`` and so cut the graph between relevance and parameters. Here the parts of a rule
(modifiers, gradient mapper, reducer) are applied to the live tensors, and the module is evaluated by
`torch.func.functional_call`: the user's parameters are neither replaced nor changed.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

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

    Convolutions use `Convolution`, whose input gradient is differentiated by first-order kernels. The object is the
    switch of that gradient: it is on while `gradient` runs; any other backward pass through the same graph is ordinary.
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
        self, func: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        geometry = Geometry.of_call(input, weight, *args, **kwargs)
        if geometry is None or torch.is_autocast_enabled(input.device.type):
            return func(input, weight, bias, *args, **kwargs)
        return Convolution.apply(self, input, weight, bias, geometry, True)

    def gradient(self, outputs: Sequence[Tensor], inputs: Sequence[Tensor], upper: Any) -> tuple[Tensor, ...]:
        """Return the gradient at the inputs."""
        self.active = True
        try:
            return torch.autograd.grad(outputs, inputs, upper, create_graph=torch.is_grad_enabled())
        finally:
            self.active = False


class _Unhooked(nn.Module):
    """Calls a module's forward without its hooks."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module.forward(*args, **kwargs)


class Call(NamedTuple):
    """A module call in the forward pass.

    Attributes
    ----------
    module : Module
        The module, or one that computes the same function with other `parameters`.
    parameters : mapping of str to Tensor
        Its own live parameters, with a BatchNorm folded in if there is one.
    args : tuple
        Its inputs, attached to the graph.
    kwargs : mapping
        Its keyword arguments.
    """

    module: nn.Module
    parameters: Mapping[str, Tensor]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = MappingProxyType({})

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors among the inputs."""
        return [a for a in self.args if isinstance(a, Tensor)]

    def changed(self, **parameters: Tensor) -> Call:
        """Return the call with some parameters changed or added."""
        return self._replace(parameters={**self.parameters, **parameters})

    def output(self) -> Tensor:
        """Return the module's output with these parameters, and with copies of its buffers (running statistics)."""
        state: dict[str, Any] = {f"module.{name}": value for name, value in self.parameters.items()}
        state |= {f"module.{name}": buffer.clone() for name, buffer in self.module.named_buffers()}
        args = copied(self.args) if getattr(self.module, "inplace", False) else self.args
        output = torch.func.functional_call(_Unhooked(self.module), state, args, dict(self.kwargs))
        return output[0] if isinstance(output, tuple) else output


def copied(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return arguments with copies of the tensors, for an in-place module."""
    return tuple(a.clone() if isinstance(a, Tensor) else a for a in args)


def modified(modifier: Any, call: Call) -> Call:
    """Apply one of Zennit's parameter modifiers to live parameters, as `zennit.core.ParamMod` would."""
    mod = ParamMod.ensure(modifier)
    keys = call.parameters if mod.param_keys is None else mod.param_keys
    missing = [key for key in keys if key not in call.parameters and not hasattr(call.module, key)]
    if missing and mod.require_params:
        raise UnsupportedModelError(
            f"{type(call.module).__name__}: the rule modifies the parameters {missing}, which the module does not "
            "have; use another rule for this module type"
        )
    function = zero_wrap(mod.zero_params or [])(mod.modifier)
    return call.changed(**{key: function(call.parameters[key], key) for key in keys if key in call.parameters})


def basic_relevance(rule: BasicHook, call: Call, relevance: Tensor) -> Tensor:
    """Return the relevance at a module's first input, for a rule made of modifiers, gradient mapper and reducer.

    Parameters
    ----------
    rule : zennit.core.BasicHook
        The rule.
    call : Call
        Call of the module. The rule modifies the first input.
    relevance : Tensor
        Relevance at the output.

    Returns
    -------
    Tensor
        Relevance at the input, differentiable with respect to parameters, input and incoming relevance.
    """
    input, *others = call.args
    inputs, outputs = [], []
    evaluation = InputGradient()
    pieces = zip(rule.input_modifiers, rule.param_modifiers, rule.output_modifiers, strict=True)
    with torch.enable_grad(), evaluation:
        for in_mod, param_mod, out_mod in pieces:
            # the alias separates the derivatives of different parts
            changed = in_mod(input).view_as(input).requires_grad_()
            inputs.append(changed)
            outputs.append(out_mod(modified(param_mod, call)._replace(args=(changed, *others)).output()))
    upper = rule.gradient_mapper(relevance, outputs)
    return rule.reducer(inputs, evaluation.gradient(outputs, inputs, upper))


def plain_gradients(call: Call, upper: Tensor) -> tuple[Tensor | None, ...]:
    """Return the ordinary gradient at each tensor among the inputs; None for inputs that are not used."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        call = call._replace(args=tuple(a.view_as(a) if isinstance(a, Tensor) else a for a in call.args))
        wanted = [t for t in call.tensors if t.requires_grad]
        found = iter(torch.autograd.grad(call.output(), wanted, upper, create_graph=create_graph, allow_unused=True))
    return tuple(next(found) if t.requires_grad else None for t in call.tensors)


def is_pass(rule: Hook) -> bool:
    """Whether a rule passes relevance on unchanged."""
    return type(rule).backward is Pass.backward


def check_rule(where: str, module: nn.Module, rule: Any) -> None:
    """Raise if a rule cannot be evaluated with live parameters on this module.

    Parameters
    ----------
    where : str
        Name and type of the module.
    module : Module
        The module.
    rule : zennit.core.Hook
        The rule from the composite's map.

    Raises
    ------
    UnsupportedModelError
        If the rule is not a Zennit hook or overrides how hooks are registered; if a modifier-based rule overrides
        ``backward`` on a module with parameters (it may read ``param.data``); if it would draw random numbers again; if
        it evaluates a synchronizing SyncBatchNorm; if the module computes its weights from other parameters, which
        parameter modifiers cannot see.
    """
    where = f"{where}: {type(rule).__name__}"
    if not isinstance(rule, Hook):
        raise UnsupportedModelError(f"{where} is not a rule; a composite must map modules to zennit.core.Hook or None")
    replaced = [name for name in MECHANISM if getattr(type(rule), name) is not getattr(Hook, name)]
    is_basic, is_evaluated = isinstance(rule, BasicHook), not is_pass(rule)
    has_own = is_basic and type(rule).backward is not BasicHook.backward
    is_computed = parametrize.is_parametrized(module) or isinstance(vars(module).get("weight"), Tensor)
    refusals = {
        f"overrides {', '.join(replaced)}, which differentiable() replaces; use forward and backward": replaced,
        "overrides BasicHook.backward on a module with parameters and may read param.data; write the rule with "
        "modifiers, gradient mapper and reducer, or as a plain Hook": has_own and [*module.parameters(recurse=False)],
        "would draw other random numbers than the forward pass; use Pass or no rule for the module": is_evaluated
        and isinstance(module, RANDOM),
        "needs a second derivative, which SyncBatchNorm lacks; use Pass or no rule for the module, or "
        "eval mode": is_evaluated and synchronizes(module),
        "modifies parameters, but the weight is computed from others (weight or spectral norm); remove the "
        "parametrization, or use no rule for the module": is_basic and is_computed,
    }
    for reason, applies in refusals.items():
        if applies:
            raise UnsupportedModelError(f"{where} {reason}")


def apply_rule(rule: Hook, call: Call, relevance: Tensor) -> tuple[Tensor | None, ...]:
    """Return the relevance at each tensor among the inputs, for any Zennit hook.

    For a modifier-based rule, each input of that shape gets its relevance, as in Zennit. Other hooks receive the
    ordinary gradients, which are kept if the hook returns None.
    """
    if is_pass(rule):
        return relevance, *(None for _ in call.tensors[1:])
    if isinstance(rule, BasicHook) and type(rule).backward is BasicHook.backward:
        result = basic_relevance(rule, call, relevance)
        return tuple(result if t.shape == result.shape else None for t in call.tensors)
    gradients = plain_gradients(call, relevance)
    if torch.is_grad_enabled() and not relevance.requires_grad:
        # hooks check the incoming relevance for whether to create a graph
        relevance = relevance.detach().requires_grad_()
    rule.stored_tensors["grad_output"] = (relevance,)
    try:
        changed = rule.backward(call.module, gradients, (relevance,))
    finally:
        # the relevance graph holds this rule: a reference cycle that is never collected
        del rule.stored_tensors["grad_output"]
    return gradients if changed is None else tuple(changed)


def see_forward(rule: Hook, call: Call, output: Tensor) -> None:
    """Call a hook's forward: ``(module, input, output)``, or with keyword arguments since Zennit 1."""
    own = type(rule)
    if own.forward is Hook.forward or (own.forward is BasicHook.forward and own.backward is BasicHook.backward):
        return
    if len(inspect.signature(rule.forward).parameters) == 3:
        rule.forward(call.module, call.args, output)
    else:
        rule.forward(call.module, call.args, call.kwargs, output)
