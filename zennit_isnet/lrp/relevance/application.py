"""Applies any of Zennit's hooks to one call of a module."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from zennit.core import BasicHook, Hook
from zennit.rules import Pass

from zennit_isnet.errors import UnsupportedModelError
from zennit_isnet.lrp.relevance.evaluation import basic_relevance, plain_gradients
from zennit_isnet.lrp.signal.normalization import synchronizes

MECHANISM = ("register", "pre_forward", "post_forward", "pre_backward")
"""Methods of `zennit.core.Hook` that this package replaces."""

RANDOM = (nn.modules.dropout._DropoutNd, nn.RReLU)


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
