"""Propagation from a model's output to relevance, shared by training, heatmaps, calibration and Captum."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import ExitStack
from operator import attrgetter
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.utils.checkpoint import CheckpointError
from torch.utils.hooks import RemovableHandle

from zennit_isnet.checks import check_differentiable, check_in_box, kind_of
from zennit_isnet.errors import InvalidTypeError, InvalidValueError, ISNetError, UnsupportedModelError
from zennit_isnet.lrp.auto_layers import AUTO, AutoTaps
from zennit_isnet.lrp.composite import LRPComposite, as_composites, check_free
from zennit_isnet.lrp.flex import LRPFlex
from zennit_isnet.lrp.signal.mode import depends_on
from zennit_isnet.lrp.taps import MapTaps, Place, Places, Taps
from zennit_isnet.model import main_logits, uncompiled, unwrapped


class Propagation(NamedTuple):
    """Result of a forward pass and its signal or relevance passes.

    Attributes
    ----------
    output : Any
        What the model returned.
    relevance : Places of Tensor
        ``(N, K, …)`` at the inputs and at the tapped layers, for each composite.
    starts : list of Tensor
        For each composite, what it propagated from the output, ``(N, K, …)``.
    """

    output: Any
    relevance: Places[Tensor]
    starts: list[Tensor]


def propagate(
    model: nn.Module,
    inputs: Sequence[Tensor],
    composites: Sequence[LRPComposite],
    taps: Taps,
    seeds: Callable[[Any], tuple[Tensor, Tensor]],
    *,
    arguments: Sequence[Any] = (),
    at_inputs: bool = True,
    create_graph: bool = True,
) -> Propagation:
    """Run a model once with composites, and one backward pass per explained quantity and composite.

    Parameters
    ----------
    model : Module
        Called as ``model(*inputs, *arguments)``.
    inputs : sequence of Tensor
        ``(N, …)``. The relevance is differentiable with respect to those that require a gradient.
    composites : sequence of LRPComposite
        All are registered during the forward pass; each propagates separately.
    taps : Taps
        Records the inner layers whose relevance is wanted.
    seeds : callable
        ``seeds(output) -> main (N, …), seeds (N, K, …)``: the explained tensor, and the seeds for it.
    arguments : sequence
        Further arguments of the model, constant in the explanation.
    at_inputs : bool, default=True
        Whether to compute the relevance of the inputs.
    create_graph : bool, default=True
        Whether the relevance can be differentiated.

    Raises
    ------
    UncoveredOperationError
        If the model runs operations that no rule covers.
    InvalidValueError
        If a layer gets no relevance, or the taps cannot record it.
    UnsupportedModelError
        If a checkpointed part of the model does not follow the rules when recomputed.
    """
    # with gradients disabled, inputs that require one would be cut off from their own graph
    wanted = [x.requires_grad and torch.is_grad_enabled() for x in inputs]
    # aliases, so that a tensor passed twice counts as two inputs
    sources = [x.view_as(x) if wants else x.detach().requires_grad_() for x, wants in zip(inputs, wanted, strict=True)]
    taps.on_copy = [composite.note_copy for composite in composites]
    module = unwrapped(model)
    check_free(module)
    with torch.enable_grad(), ExitStack() as contexts:
        # "relevance" before "signal": it must see the model's operations before LRPFlex replaces them
        for composite in sorted(composites, key=attrgetter("propagates")):
            contexts.enter_context(composite.context(model))
        contexts.enter_context(taps)
        contexts.enter_context(uncompiled())
        entries = sources
        for composite in composites:
            entries = [composite.entry(x, input_gradient=any(wanted)) for x in entries]
        contexts.callback(_called_with(module, entries).remove)
        try:
            with ExitStack() as ordinary:
                # backward passes that the model itself runs in its forward pass
                for composite in composites:
                    ordinary.enter_context(composite.inactive())
                output = model(*entries, *arguments)
        except RuntimeError as error:
            dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
            if isinstance(error, ISNetError) or not dtypes or any(x.dtype in dtypes for x in inputs):
                raise
            has = ", ".join(map(str, dtypes))
            raise InvalidTypeError(
                f"images and parameters must have matching dtypes; got {inputs[0].dtype} and {has} ({error})"
            ) from error
        for composite in composites:
            composite.check_followed()
        main, explained = seeds(output)
        if not main.requires_grad:
            raise InvalidValueError(
                "the logits do not depend on the images, or the model cuts the graph (no_grad, detach)"
            )
        activations = {Place(part=i): source for i, source in enumerate(sources)} if at_inputs else {}
        activations |= taps.read()
        ends = {get_gradient_edge(source).node for source in sources}
        unrelated = {place for place, activation in activations.items() if not depends_on(activation, ends)}
        relevance = {}
        starts = []
        for index, composite in enumerate(composites):
            with ExitStack() as others:
                for other in composites:
                    if other is not composite:
                        others.enter_context(other.inactive())
                start = [composite.start(main, seed) for seed in explained.unbind(1)]
                found = [_relevance_at(activations, unrelated, composite, main, s, taps, create_graph) for s in start]
            starts.append(torch.stack(start, 1))
            for place in found[0]:
                # stacking would copy a single heatmap
                each = [maps[place] for maps in found]
                maps = each[0].unsqueeze(1) if len(each) == 1 else torch.stack(each, dim=1)
                maps = maps if create_graph else maps.detach()
                relevance[place._replace(composite=index)] = taps.channels_first(place, maps, axis=2)
        return Propagation(output, Places(relevance), starts)


def _called_with(module: nn.Module, entries: Sequence[Tensor]) -> RemovableHandle:
    """Refuse a forward pass on other tensors: changes to the images outside the model have no rule."""
    calls = itertools.count()

    def check(module: nn.Module, args: tuple[Any, ...]) -> None:
        if next(calls):
            return  # the model calls itself
        if any(got is not given and got.dtype == given.dtype for got, given in zip(args, entries, strict=False)):
            raise UnsupportedModelError(
                "the model was called with other images than those passed: a global forward pre-hook or a wrapper "
                "changes them; change them in the model's own forward, or before the call"
            )

    return module.register_forward_pre_hook(check, prepend=True)


def seeds_of(formulation: Callable[[Tensor], Tensor], count: int) -> Callable[[Any], tuple[Tensor, Tensor]]:
    """Return the `seeds` argument of `propagate` for a formulation and `count` images.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        From `seeds`, if the output is not logits, or the formulation's result is not seeds for them.
    """

    def seeds(output: Any) -> tuple[Tensor, Tensor]:
        logits = main_logits(output, count)
        found = formulation(logits)
        if not isinstance(found, Tensor) or not found.is_floating_point():
            raise InvalidTypeError(f"{formulation!r} must return floating seeds (N, K, C); got {kind_of(found)}")
        shape = found.shape
        if found.ndim != 3 or shape[0] != count or shape[1] == 0 or shape[2] != logits.shape[1]:
            raise InvalidValueError(
                f"{formulation!r} must return seeds (N, K, C), with K explained quantities, for logits of shape "
                f"{tuple(logits.shape)}; got {tuple(shape)}"
            )
        return logits, found

    return seeds


def _relevance_at(
    activations: Mapping[Place, Tensor],
    unrelated: Set[Place],
    composite: LRPComposite,
    main: Tensor,
    start: Tensor,
    taps: Taps,
    create_graph: bool,
) -> dict[Place, Tensor]:
    """Return the relevance of each activation; in each group of the taps' choices, of the first that has any.

    Those unrelated to the images have none.
    """

    def arriving(places: list[Place]) -> dict[Place, Tensor | None]:
        if not places:
            return {}
        at = [activations[place] for place in places]
        try:
            found = torch.autograd.grad(
                main, at, start, create_graph=create_graph, retain_graph=True, allow_unused=True
            )
        except CheckpointError as error:
            raise UnsupportedModelError(
                "a part of the model that torch.utils.checkpoint recomputes does not follow the relevance rules; "
                "call checkpoint(…, use_reentrant=False, context_fn=checkpoint_contexts) with "
                "zennit_isnet.lrp.checkpoint_contexts, for a part that contains the gates it multiplies by, without "
                "the first layer if z^B is on; or disable a library's checkpointing, for example with "
                "memory_efficient=False in torchvision's DenseNet"
            ) from error
        except RuntimeError as error:
            if "modified by an inplace operation" not in str(error):
                raise
            raise UnsupportedModelError(
                "the model changes a tensor in place that the relevance of an earlier operation needs, "
                f"for example the input of an activation; use an out-of-place operation there ({error})"
            ) from error
        return {p: None if p in unrelated else signal for p, signal in zip(places, found, strict=True)}

    # the other members of a group in a separate pass, because each requested place costs time
    left_out = {place for group in taps.choices for place in group[1:]}
    found = arriving([place for place in activations if place not in left_out])
    missing = [group for group in taps.choices if found[group[0]] is None]
    found |= arriving([place for group in missing for place in group[1:]])
    for group in missing:
        taken = next((place for place in group if found[place] is not None), None)
        left_out = left_out.union(group) - {taken}
    relevance = {}
    for place, activation in activations.items():
        if place in left_out:
            continue
        arrived = found[place]
        if arrived is not None:
            # at the inputs the composite has already turned the signal into relevance
            relevance[place] = arrived if place.layer is None else composite.relevance(activation, arrived)
        elif place in taps.optional:
            relevance[place] = torch.zeros_like(activation)
        else:
            reason = "it does not influence the logits, or the model cuts the graph"
            if place.layer is not None:
                reason = (
                    "it lies inside a group of layers that one rule covers (convolution, BatchNorm, activation), does "
                    "not depend on the images, or does not influence the logits; use the activation instead"
                )
            raise InvalidValueError(f"no relevance reaches {place}: {reason}")
    return relevance


class Attribution(Protocol):
    """Makes the heatmaps that `ISNetRegularizer` penalises; any callable with this signature can replace LRP."""

    def __call__(
        self, model: nn.Module, images: Tensor, formulation: Callable[[Tensor], Tensor], *, create_graph: bool = True
    ) -> tuple[Any, Mapping[Any, Tensor]]:
        """Return the model's output and the relevance ``(N, K, C, …)`` for each place or layer name."""


class LRPAttribution:
    """Relevance at the images and at inner layers, from one or several composites of this package.

    Parameters
    ----------
    composite : LRPFlex, DifferentiableComposite or sequence of them, optional
        The rules. If None, ``LRPFlex()``. Several composites explain the same forward pass separately: ``(LRPFlex(),
        ZPlus())`` with `AllLogits` is Dual ISNet.
    layers : sequence of str or "auto", default=()
        Names of inner layers, as in ``model.named_modules()``, that return maps ``(N, C, …)`` or ``(N, …, C)``.
        ``"auto"`` takes one per halving of the resolution: the last of the outermost modules, which is usually a
        stage's output. It is chosen during the forward pass of each call, so it can depend on the image size; an MLP
        has none.

    Raises
    ------
    InvalidTypeError
        If `composite` is a Zennit composite, whose relevance is not differentiable; see `differentiable`.
    InvalidValueError
        If a composite occurs twice.

    Examples
    --------
    >>> import torch
    >>> from torchvision.models import resnet18
    >>> from zennit_isnet import LRPAttribution, Selective
    >>> model = resnet18(num_classes=3)
    >>> attribution = LRPAttribution(layers=["layer2"])
    >>> logits, relevance = attribution(model, torch.rand(2, 3, 32, 32), Selective())
    >>> relevance["input"].shape, relevance["layer2"].shape
    (torch.Size([2, 1, 3, 32, 32]), torch.Size([2, 1, 128, 4, 4]))
    >>> relevance["input"].square().sum().backward()  # a function of the parameters like any other
    """

    def __init__(
        self, composite: LRPComposite | Sequence[LRPComposite] | None = None, layers: Sequence[str] | str = ()
    ) -> None:
        self.composites = as_composites(LRPFlex() if composite is None else composite)
        if isinstance(layers, str) and layers != AUTO:
            raise InvalidTypeError(f'layers must be a sequence of layer names or "auto"; got {layers!r}')
        self.layers: Sequence[str] | str = layers if isinstance(layers, str) else tuple(layers)

    def __call__(
        self, model: nn.Module, images: Tensor, formulation: Callable[[Tensor], Tensor], *, create_graph: bool = True
    ) -> tuple[Any, Places[Tensor]]:
        """Run the model once, and one backward pass for each explained quantity and composite.

        Parameters
        ----------
        model : Module
            A classifier.
        images : Tensor
            ``(N, C, H, W)`` or ``(N, C, T, H, W)``. If they require a gradient, the relevance is also differentiable
            with respect to them.
        formulation : callable
            ``formulation(logits) -> seeds (N, K, C)`` of the signal, the explained quantities; a `Formulation`.
        create_graph : bool, default=True
            Whether the relevance can be differentiated.

        Returns
        -------
        output
            What the model returned.
        relevance : Places of Tensor
            ``relevance["input"]`` of shape ``(N, K, C, …)``, and the same for each name in `layers`, also for a layer
            that returns ``(N, …, C)``. A second composite's relevance is at ``Place(layer, composite=1)``.

        Raises
        ------
        UncoveredOperationError
            If the model runs operations that no rule covers.
        InvalidTypeError, InvalidValueError
            If the images are not a floating tensor, the model or the formulation returns something illegal, a layer
            does not exist, does not return maps of the images or gets no relevance, or images on the CPU leave the z^B
            box.
        """
        check_differentiable("images", images, " (N, C, H, W)")
        if images.device.type == "cpu":
            self.check_box(images)
        taps = Taps(model)
        if self.layers == AUTO:
            taps = AutoTaps(model, images.shape)
        elif self.layers:
            taps = MapTaps(model, self.layers, images.shape)
        seeds = seeds_of(formulation, len(images))
        output, relevance, _ = propagate(model, (images,), self.composites, taps, seeds, create_graph=create_graph)
        return output, relevance

    def check_box(self, images: Tensor) -> None:
        """Raise if images leave the box of a composite's z^B rule; synchronises an accelerator."""
        for composite in self.composites:
            if composite.box is not None:
                check_in_box(images, composite.box)

    def __repr__(self) -> str:
        composites = ", ".join(map(repr, self.composites))
        several = len(self.composites) > 1
        return f"LRPAttribution({f'({composites})' if several else composites}, layers={self.layers!r})"
