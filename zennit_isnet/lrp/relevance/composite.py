"""`differentiable`: makes the relevance of any Zennit composite trainable."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d
from zennit.canonizers import Canonizer, CompositeCanonizer, MergeBatchNorm, NamedMergeBatchNorm
from zennit.core import Composite, Hook
from zennit.types import BatchNorm, Linear

from zennit_isnet.errors import InvalidTypeError, InvalidValueError, UnsupportedModelError
from zennit_isnet.lrp.composite import LRPComposite
from zennit_isnet.lrp.relevance.evaluation import check_rule
from zennit_isnet.lrp.relevance.functions import VisibleFunctions
from zennit_isnet.lrp.relevance.fusion import FusedBatchNorm, Fusion
from zennit_isnet.lrp.relevance.live_rule import LiveRule


class _Request(Canonizer):
    """Requests a feature of differentiable composites that Zennit's own composites lack."""

    def apply(self, root_module: nn.Module) -> list[Canonizer]:
        """Refuse to be applied by a composite without this feature."""
        raise UnsupportedModelError(
            f"{type(self).__name__} only works in differentiable(composite, canonizers=[…]); with Zennit's own "
            "composites use Zennit's own canonizers"
        )

    def register(self) -> None:
        """Do nothing."""

    def remove(self) -> None:
        """Do nothing."""


class FuseBatchNorm(_Request):
    """Fold each BatchNorm into the preceding layer, or else into the following layer.

    It is folded into the following layer only if that is exact: not into a zero-padded convolution, whose padding the
    BatchNorm does not shift, and not into a transposed convolution. There it keeps its own rule, usually Pass.
    torchvision's `FrozenBatchNorm2d` is folded too.

    Uses the statistics of the forward pass (the batch's in train mode, the running ones in eval mode), finds pairs by
    following tensors instead of the order of the modules, and does not change parameters.

    Examples
    --------
    >>> from torchvision.models import resnet18
    >>> from zennit.composites import EpsilonPlus
    >>> from zennit_isnet import differentiable
    >>> from zennit_isnet.lrp import FuseBatchNorm
    >>> composite = differentiable(EpsilonPlus(), canonizers=[FuseBatchNorm()])
    >>> with composite.context(resnet18()):
    ...     composite.fuse_batch_norm
    True
    """


class MakeFunctionsVisible(_Request):
    """Give functional calls (sums of branches, means, activations, average pooling) the rules of their module types.

    Sums and differences get the rule of `zennit.layer.Sum`, and constants in them the rule of a bias. Constant factors
    and dropout then pass relevance on unchanged. Replaces the canonizers that rewrite the ``forward`` of known blocks.

    Examples
    --------
    >>> from zennit.composites import EpsilonPlus
    >>> from zennit_isnet import differentiable
    >>> from zennit_isnet.lrp import FuseBatchNorm, MakeFunctionsVisible
    >>> composite = differentiable(EpsilonPlus(), canonizers=[FuseBatchNorm(), MakeFunctionsVisible()])
    >>> composite.visible_functions
    True
    """


class DifferentiableComposite(LRPComposite):
    """A Zennit composite whose relevance is a differentiable function of the parameters.

    Made by `differentiable`.

    Parameters
    ----------
    composite : zennit.core.Composite
        Assigns a rule to each module.
    canonizers : sequence of zennit.canonizers.Canonizer, optional
        Replace the composite's own.

    Attributes
    ----------
    propagates : str
        ``"relevance"``. Under Zennit's `Gradient`, ``attr_output`` is the relevance at the logits, which `seed` makes
        from a formulation.
    """

    propagates: Literal["relevance"] = "relevance"
    strict = False
    """Whether operations without a rule are errors; Zennit uses their ordinary gradient."""
    signed = True
    """Whether relevance may pass a minus sign."""

    def __init__(self, composite: Composite, canonizers: Sequence[Canonizer] | None = None) -> None:
        self.composite = composite
        own = _flattened(composite.canonizers if canonizers is None else canonizers)
        for canonizer in own:
            if not isinstance(canonizer, Canonizer):
                raise InvalidTypeError(f"canonizers must be zennit.canonizers.Canonizer; got {canonizer!r}")
        merging = [c for c in own if isinstance(c, (MergeBatchNorm, FuseBatchNorm))]
        named = [c for c in merging if isinstance(c, NamedMergeBatchNorm)]
        if any(len(names) != 1 for c in named for names, _ in c.name_map):
            raise InvalidValueError("NamedMergeBatchNorm must merge into one layer at a time here; got several layers")
        # None: any BatchNorm that follows a layer
        self._named_norms = {name for c in named for _, name in c.name_map} if merging == named else None
        self._fuses_before = any(isinstance(c, FuseBatchNorm) for c in own)
        self.fuse_batch_norm = bool(merging)
        self.visible_functions = any(isinstance(c, MakeFunctionsVisible) for c in own)
        self.fusion: Fusion | None = None
        # Fusion replaces canonizers that merge BatchNorm into parameters; the others only rewrite forward methods
        kept = [c for c in own if c not in merging and not isinstance(c, MakeFunctionsVisible)]
        super().__init__(canonizers=kept)

    def register_with(self, module: nn.Module) -> None:
        """Put the rules on a model; its parameters are neither replaced nor changed."""
        if self.composite.handles:
            raise InvalidValueError(
                f"the {type(self.composite).__name__} in this composite is itself registered with a model, and its "
                "hooks would also act; leave its context or call its remove() first"
            )
        for canonizer in self.canonizers:
            self.handles += canonizer.apply(module)
        self._register_rules(module)

    def remove(self) -> None:
        """Remove all hooks and canonizers from the model, and release the records of the last pass."""
        super().remove()
        self.fusion = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the settings: a copy is registered with no model."""
        return {**super().__getstate__(), "fusion": None}

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuse to be pickled."""
        raise InvalidTypeError(
            f"differentiable({type(self.composite).__name__}(…)) cannot be pickled, because Zennit's rules contain "
            "local functions; create it in the process that uses it, or use LRPFlex, EpsilonZBox or ZPlus. "
            "copy.deepcopy works"
        )

    def __copy__(self) -> DifferentiableComposite:
        twin = type(self).__new__(type(self))
        twin.__setstate__(self.__getstate__())
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> DifferentiableComposite:
        twin = memo[id(self)] = type(self).__new__(type(self))
        twin.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return twin

    def note_copy(self, output: Tensor, copy: Tensor) -> None:
        """Treat a copy of a layer's output as the output itself."""
        if self.fusion is not None:
            self.fusion.note_copy(output, copy)

    def _register_rules(self, module: nn.Module) -> None:
        context: dict[str, Any] = {}
        fusion = self.fusion = Fusion(self._fuses_before) if self.fuse_batch_norm else None
        # by id, because the hooks that use it must not keep the model alive
        rules = {id(m): self.composite.module_map(context, name, m) for name, m in module.named_modules()}
        for name, child in module.named_modules():
            rule, where = rules[id(child)], f"{name or '(the model)'} ({type(child).__name__})"
            if rule is not None:
                check_rule(where, child, rule)
            if fusion is not None and self._fuses(name, child):
                self._add(FusedBatchNorm(where, fusion, rule), child)
            elif rule is not None:
                self._add(LiveRule(where, rule, fusion), child)
            elif fusion is not None and isinstance(child, Linear):
                self.handles.append(child.register_forward_hook(fusion.note_unruled))
            elif isinstance(child, nn.SyncBatchNorm):
                # not recorded: a synchronizing BatchNorm refuses arriving relevance
                self._add(FusedBatchNorm(where, Fusion(False), None), child)
        if self.visible_functions:

            def rule_of(child: nn.Module) -> Hook | None:
                return rules[id(child)] if id(child) in rules else self.composite.module_map(context, "", child)

            self._add(VisibleFunctions(rule_of, strict=self.strict, signed=self.signed), module)

    def _fuses(self, name: str, child: nn.Module) -> bool:
        if self._named_norms is not None:
            return name in self._named_norms
        is_frozen = isinstance(child, FrozenBatchNorm2d) and self._fuses_before
        return is_frozen or isinstance(child, (BatchNorm, nn.SyncBatchNorm))

    def _add(self, hook: Hook, module: nn.Module) -> None:
        self.hook_refs.add(hook)
        self.handles.append(hook.register(module))


def differentiable(composite: Composite, *, canonizers: Sequence[Canonizer] | None = None) -> DifferentiableComposite:
    """Return a composite with the same relevance, differentiable with respect to parameters, inputs and seeds.

    Parameters
    ----------
    composite : zennit.core.Composite
        Any composite from Zennit or your own: layer maps, name maps, mixed maps, subclassed rules.
    canonizers : sequence of zennit.canonizers.Canonizer, optional
        Replace the composite's canonizers. Canonizers that merge BatchNorm are replaced by a fusion with the statistics
        of the forward pass, which is also correct in train mode and does not change parameters. A model with BatchNorm
        whose branches are added in ``forward``, such as a ResNet, needs ``[FuseBatchNorm(), MakeFunctionsVisible()]``.

    Returns
    -------
    DifferentiableComposite
        Use it like any composite, in ``composite.context(model)`` or in an Attributor with ``create_graph=True``.

    Raises
    ------
    InvalidTypeError
        If `composite` is not a Zennit composite or already propagates signals, or a canonizer is not a canonizer.
    InvalidValueError
        If a canonizer merges several layers into one BatchNorm.
    UnsupportedModelError
        On entering the context, if a rule cannot be evaluated with live parameters or on a module's type; in the
        forward pass, if a module with a rule gets its input as a keyword argument.

    Notes
    -----
    Inside the context every backward pass propagates relevance, except under ``inactive()``: call ``loss.backward()``
    after leaving it. In-place modules get copies of their inputs, so rules read the original values; Zennit alone would
    read the overwritten ones.

    Zennit's own rules read ``param.data``: their relevance is correct, but its gradient with respect to the parameters
    is wrong. Zennit 1.0 also replaces the model's Parameter objects.

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
        raise InvalidTypeError(f"composite must be a zennit.core.Composite; got {type(composite).__name__}")
    if getattr(composite, "propagates", None) == "signal":
        raise InvalidTypeError(f"{type(composite).__name__} is already differentiable; use it directly")
    return DifferentiableComposite(composite, canonizers)


def _flattened(canonizers: Sequence[Canonizer]) -> list[Canonizer]:
    flat: list[Canonizer] = []
    for canonizer in canonizers:
        nested = isinstance(canonizer, CompositeCanonizer)
        flat += _flattened(canonizer.canonizers) if nested else [canonizer]
    return flat
