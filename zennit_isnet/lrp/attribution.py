"""Heatmaps of explained quantities, differentiable with respect to the parameters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError
from zennit.core import Composite

from zennit_isnet.errors import InvalidTypeError, InvalidValueError, UnsupportedModelError
from zennit_isnet.lrp.auto_layers import AUTO, AutoTaps
from zennit_isnet.lrp.flex import LRPFlex
from zennit_isnet.lrp.relevance.composite import DifferentiableComposite
from zennit_isnet.lrp.taps import MapTaps
from zennit_isnet.model import main_logits

INPUT = "input"
"""Name of the images among the layers."""

SignalOrRelevance = LRPFlex | DifferentiableComposite
"""Composites whose relevance is a differentiable function of the parameters."""


class Attribution(Protocol):
    """Makes the heatmaps that `ISNetRegularizer` penalises; any callable with this signature can replace LRP."""

    def __call__(
        self, model: nn.Module, images: Tensor, formulation: Callable[[Tensor], Tensor], *, create_graph: bool = True
    ) -> tuple[Any, dict[str, Tensor]]:
        """Return the model's output and, for each layer, relevance of shape ``(N, K, C, …)``."""


class LRPAttribution:
    """Relevance at the images, and at inner layers, by a composite of this package.

    Parameters
    ----------
    composite : LRPFlex or DifferentiableComposite, optional
        The rules. Default ``LRPFlex()``.
    layers : sequence of str or "auto", default ()
        Names of further layers, as in ``model.named_modules()``, that return maps ``(N, C, …)`` or ``(N, …, C)``.
        ``"auto"`` takes one for each halving of the resolution: the last of the outermost modules, so what a stage
        returns. It looks at the call's own forward pass, so other image sizes may give other layers, and an MLP none.

    Raises
    ------
    InvalidTypeError
        If `composite` is a composite of Zennit, whose relevance has no gradient; see `differentiable`.
    InvalidValueError
        If a layer is called ``"input"``, as the images are.

    Examples
    --------
    >>> import torch
    >>> from torchvision.models import resnet18
    >>> from zennit_isnet import LRPAttribution, Selective
    >>> model = resnet18(num_classes=3)
    >>> attribution = LRPAttribution(layers=["layer2"])
    >>> logits, relevance = attribution(model, torch.rand(2, 3, 32, 32), Selective())
    >>> {name: tuple(heatmaps.shape) for name, heatmaps in relevance.items()}
    {'input': (2, 1, 3, 32, 32), 'layer2': (2, 1, 128, 4, 4)}
    >>> relevance["input"].square().sum().backward()  # a function of the parameters like any other
    """

    def __init__(self, composite: SignalOrRelevance | None = None, layers: Sequence[str] | str = ()) -> None:
        self.composite = as_composite(composite)
        if isinstance(layers, str) and layers != AUTO:
            raise InvalidTypeError(f'layers must be a sequence of layer names or "auto"; got {layers!r}')
        if layers != AUTO and INPUT in layers:
            raise InvalidValueError(
                f"{INPUT!r} stands for the images, which are always among the layers; leave it out, and of a module "
                "with that name take one inside of it"
            )
        self.layers: Sequence[str] | str = layers if isinstance(layers, str) else tuple(layers)

    def __call__(
        self, model: nn.Module, images: Tensor, formulation: Callable[[Tensor], Tensor], *, create_graph: bool = True
    ) -> tuple[Any, dict[str, Tensor]]:
        """Run the model once, and one backward pass for each explained quantity.

        Parameters
        ----------
        model : Module
            A classifier.
        images : Tensor
            ``(N, C, H, W)`` or ``(N, C, T, H, W)``. If they require a gradient, the relevance is differentiable with
            respect to them too.
        formulation : callable
            ``formulation(logits) -> seeds (N, K, C)``, the explained quantities; a `Formulation`. `Dual` is explained
            by its second composite too.
        create_graph : bool, default True
            Whether the relevance can be differentiated.

        Returns
        -------
        output
            What the model returned.
        relevance : dict of str to Tensor
            ``{"input": R}`` with ``R`` of shape ``(N, K, C, …)``, and the same for each of `layers`, also for one that
            returns ``(N, …, C)``. With `Dual` the relevance of the z⁺ composite follows under ``"input/positive"`` and
            the like.

        Raises
        ------
        UncoveredOperationError
            If the model runs operations that no rule covers.
        InvalidTypeError, InvalidValueError
            If the model does not return logits, or a layer does not exist, returns no maps of the images, or gets no
            relevance.
        """
        # with gradients off, images that require one would not be connected to their own graph
        wants_images = images.requires_grad and torch.is_grad_enabled()
        source = images if wants_images else images.detach().requires_grad_()
        positive = getattr(formulation, "positive", None)
        composites = {"": self.composite} if positive is None else {"": self.composite, "/positive": positive}
        relevance: dict[str, Tensor] = {}
        with torch.enable_grad(), ExitStack() as contexts:
            for composite in composites.values():
                contexts.enter_context(composite.context(model))
            if isinstance(self.composite, LRPFlex):
                self.composite.set_input_gradient(wants_images)
            fusions = [getattr(composite, "fusion", None) for composite in composites.values()]
            on_copy = [fusion.note_copy for fusion in fusions if fusion is not None]
            taps = contexts.enter_context(
                AutoTaps(model, source.shape, reserved=[INPUT])
                if self.layers == AUTO
                else MapTaps(model, self.layers, source.shape, on_copy)
            )
            # a copy, so that a model may start with an in-place operation; LRPFlex makes its own
            output = model(source if isinstance(self.composite, LRPFlex) else source.clone())
            logits = main_logits(output, source.shape[0])
            seeds = formulation(logits)
            places = {INPUT: source, **taps.read()}
            for suffix, composite in composites.items():
                with ExitStack() as others:
                    for other in composites.values():
                        if other is not composite:
                            others.enter_context(other.inactive())
                    found = propagate(composite, logits, seeds, places, create_graph, taps.choices)
                relevance |= {f"{name}{suffix}": taps.channels_first(name, maps, 2) for name, maps in found.items()}
        return output, relevance


def as_composite(composite: SignalOrRelevance | None) -> SignalOrRelevance:
    """Return the composite, or the default one.

    Raises
    ------
    InvalidTypeError
        If its relevance has no gradient.
    """
    if composite is None:
        return LRPFlex()
    if isinstance(composite, SignalOrRelevance):
        return composite
    came = f"the class {composite.__name__}" if isinstance(composite, type) else type(composite).__name__
    remedy = "; wrap it: differentiable(composite)" if isinstance(composite, Composite) else ""
    raise InvalidTypeError(
        "composite must be an LRPFlex or come from differentiable(…), so that its relevance has a gradient; "
        f"got {came}{remedy}"
    )


def propagate(
    composite: SignalOrRelevance,
    logits: Tensor,
    seeds: Tensor,
    places: Mapping[str, Tensor],
    create_graph: bool,
    choices: Sequence[Sequence[str]] = (),
) -> dict[str, Tensor]:
    """Relevance ``(N, K, *)`` at places ``(N, *)``, for seeds ``(N, K, C)`` of the signal at the logits."""
    heatmaps: dict[str, list[Tensor]] = {}
    for seed in seeds.unbind(1):
        start = seed if isinstance(composite, LRPFlex) else composite.relevance_seed(logits, seed)
        for name, heatmap in relevance_at(places, composite, logits, start, create_graph, choices=choices).items():
            heatmaps.setdefault(name, []).append(heatmap)
    return {name: torch.stack(parts, dim=1) for name, parts in heatmaps.items()}


def relevance_at(
    places: Mapping[str, Tensor],
    composite: SignalOrRelevance,
    output: Tensor,
    start: Tensor,
    create_graph: bool,
    inputs: Collection[str] = (INPUT,),
    unreached: Collection[str] = (),
    choices: Sequence[Sequence[str]] = (),
) -> dict[str, Tensor]:
    """Relevance at each place, of its shape, for what the composite propagates from the output.

    Of the places, `inputs` are what the model was called with, and `unreached` may be without relevance, which is 0.
    Of each group in `choices` the first that relevance arrives at is meant; the others are left out.
    """
    options = {"create_graph": create_graph, "retain_graph": True, "allow_unused": True}

    def arriving(names: list[str]) -> dict[str, Tensor | None]:
        if not names:
            return {}
        try:
            found = torch.autograd.grad(output, [places[name] for name in names], start, **options)
        except CheckpointError as error:
            raise UnsupportedModelError(
                "a part of the model that torch.utils.checkpoint computes again does not follow the relevance rules; "
                "call checkpoint(…, use_reentrant=False, context_fn=checkpoint_contexts) with "
                "zennit_isnet.lrp.checkpoint_contexts, outside of the first layer if z^B is on"
            ) from error
        return dict(zip(names, found, strict=True))

    # the others of a group in a pass of their own, because each place that is asked for costs time
    others = {name for group in choices for name in group[1:]}
    found = arriving([name for name in places if name not in others])
    missing = [group for group in choices if found[group[0]] is None]
    found |= arriving([name for group in missing for name in group[1:]])
    chosen = {name for group in choices for name in [name for name in group if found.get(name) is not None][:1]}
    left_out = {name for group in choices for name in group} - chosen
    relevance = {}
    for name, activation in places.items():
        if name in left_out:
            continue
        arrived = found[name]
        if arrived is None and name in unreached:
            relevance[name] = torch.zeros_like(activation)
            continue
        if arrived is None:
            raise InvalidValueError(
                f"no relevance arrives at layer {name!r}: it lies inside of layers that one rule covers together "
                "(convolution, BatchNorm, activation), or does not influence the logits; supervise the activation"
            )
        # at the images the composite has turned the signal into relevance
        is_signal = isinstance(composite, LRPFlex) and name not in inputs
        relevance[name] = activation * arrived if is_signal else arrived
    return relevance
