"""`differentiable`: any Zennit composite with relevance that can be trained with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from zennit.canonizers import Canonizer, CompositeCanonizer, MergeBatchNorm
from zennit.core import Composite, Hook
from zennit.types import BatchNorm

from zennit_isnet.errors import InvalidTypeError
from zennit_isnet.relevance.canonizers import FuseBatchNorm, MakeFunctionsVisible
from zennit_isnet.relevance.functions import VisibleFunctions
from zennit_isnet.relevance.fusion import FusedBatchNorm, Fusion
from zennit_isnet.relevance.hook import LiveRule, check_rule
from zennit_isnet.validation import check_model


class DifferentiableComposite(Composite):
    """A Zennit composite whose relevance is a differentiable function of the parameters.

    Made by `differentiable`.

    Parameters
    ----------
    composite : zennit.core.Composite
        Gives each module its rule.
    canonizers : sequence of zennit.canonizers.Canonizer, optional
        Replace the composite's own.

    Attributes
    ----------
    propagates : str
        ``"relevance"``: ``attr_output`` of Zennit's `Gradient` is the relevance at the logits.
    """

    propagates: Literal["relevance"] = "relevance"

    def __init__(self, composite: Composite, canonizers: Sequence[Canonizer] | None = None) -> None:
        self.composite = composite
        own = _flattened(composite.canonizers if canonizers is None else canonizers)
        merging = (MergeBatchNorm, FuseBatchNorm)
        self.fuse_batch_norm = any(isinstance(c, merging) for c in own)
        self.visible_functions = any(isinstance(c, MakeFunctionsVisible) for c in own)
        # what merges BatchNorm by writing to parameters is replaced by Fusion; the rest rewrites forward methods only
        kept = [c for c in own if not isinstance(c, (*merging, MakeFunctionsVisible))]
        super().__init__(canonizers=kept)

    def register(self, module: nn.Module) -> None:
        """Put the rules on a model; its parameters are never replaced or written to."""
        check_model(module)
        module = module.module if isinstance(module, DistributedDataParallel) else module
        self.remove()
        try:
            for canonizer in self.canonizers:
                self.handles += canonizer.apply(module)
            self._register_rules(module)
        except BaseException:
            self.remove()
            raise

    def _register_rules(self, module: nn.Module) -> None:
        context: dict[str, Any] = {}
        fusion = Fusion() if self.fuse_batch_norm else None
        rules = {name: self.composite.module_map(context, name, child) for name, child in module.named_modules()}
        for name, child in module.named_modules():
            rule = rules[name]
            if rule is not None:
                check_rule(name, child, rule)
            if fusion is not None and isinstance(child, BatchNorm):
                self._add(FusedBatchNorm(fusion, rule), child)
            elif rule is not None:
                self._add(LiveRule(rule, fusion), child)
        if self.visible_functions:
            by_module = {id(child): rules[name] for name, child in module.named_modules()}

            def rule_of(child: nn.Module) -> Hook | None:
                known = id(child) in by_module
                return by_module[id(child)] if known else self.composite.module_map(context, "", child)

            self._add(VisibleFunctions(rule_of), module)

    def _add(self, hook: Hook, module: nn.Module) -> None:
        self.hook_refs.add(hook)
        self.handles.append(hook.register(module))


def differentiable(composite: Composite, *, canonizers: Sequence[Canonizer] | None = None) -> DifferentiableComposite:
    """Return a composite with the same relevance, differentiable with respect to parameters, inputs and seeds.

    Parameters
    ----------
    composite : zennit.core.Composite
        Any composite of Zennit or of your own: layer maps, name maps, mixed ones, subclassed rules.
    canonizers : sequence of zennit.canonizers.Canonizer, optional
        Replace the composite's canonizers. Canonizers that merge BatchNorm become a fusion by the statistics of the
        forward pass, right in train mode too, that writes nothing.

    Returns
    -------
    DifferentiableComposite
        Use it as any composite, in ``composite.context(model)`` or in an Attributor with ``create_graph=True``.

    Raises
    ------
    InvalidTypeError
        If `composite` is not a Zennit composite or propagates signals already.

    Notes
    -----
    Zennit's rules read ``param.data``: their relevance is right and its gradient with respect to the parameters is
    not. Zennit 1.0 also replaces the model's Parameter objects.

    Examples
    --------
    >>> import torch
    >>> from zennit.composites import EpsilonPlus
    >>> from zennit_isnet import differentiable
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> images = torch.randn(2, 4, requires_grad=True)
    >>> with differentiable(EpsilonPlus()).context(model):
    ...     logits = model(images)
    ...     (relevance,) = torch.autograd.grad(logits, images, logits, create_graph=True)
    >>> relevance.square().sum().backward()
    >>> model[0].weight.grad.shape
    torch.Size([8, 4])
    """
    if not isinstance(composite, Composite):
        raise InvalidTypeError(f"composite must be a zennit.core.Composite, got {type(composite).__name__}")
    if getattr(composite, "propagates", None) == "signal":
        raise InvalidTypeError(f"{type(composite).__name__} is differentiable as it is")
    return DifferentiableComposite(composite, canonizers)


def _flattened(canonizers: Sequence[Canonizer]) -> list[Canonizer]:
    flat: list[Canonizer] = []
    for canonizer in canonizers:
        nested = isinstance(canonizer, CompositeCanonizer)
        flat += _flattened(canonizer.canonizers) if nested else [canonizer]
    return flat
