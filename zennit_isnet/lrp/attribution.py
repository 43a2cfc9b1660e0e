"""Heatmaps of explained quantities, differentiable with respect to the parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from zennit_isnet.checks import check_in_box
from zennit_isnet.errors import InvalidTypeError
from zennit_isnet.lrp.auto_layers import AUTO, AutoTaps
from zennit_isnet.lrp.composite import LRPComposite, as_composites
from zennit_isnet.lrp.flex import LRPFlex
from zennit_isnet.lrp.places import Places
from zennit_isnet.lrp.propagation import propagate
from zennit_isnet.lrp.taps import MapTaps
from zennit_isnet.model import main_logits


class Attribution(Protocol):
    """Makes the heatmaps that `ISNetRegularizer` penalises; any callable with this signature can replace LRP."""

    def __call__(
        self, model: nn.Module, images: Tensor, formulation: Callable[[Tensor], Tensor], *, create_graph: bool = True
    ) -> tuple[Any, Mapping[Any, Tensor]]:
        """Return the model's output and, for each place or name of a layer, relevance of shape ``(N, K, C, …)``."""


class LRPAttribution:
    """Relevance at the images, and at inner layers, by one or several composites of this package.

    Parameters
    ----------
    composite : LRPFlex, DifferentiableComposite or sequence of them, optional
        The rules. Default ``LRPFlex()``. Several explain one forward pass, each by itself: ``(LRPFlex(), ZPlus())``
        with `AllLogits` is Dual ISNet.
    layers : sequence of str or "auto", default ()
        Names of further layers, as in ``model.named_modules()``, that return maps ``(N, C, …)`` or ``(N, …, C)``.
        ``"auto"`` takes one for each halving of the resolution: the last of the outermost modules, so what a stage
        returns. It looks at the call's own forward pass, so other image sizes may give other layers, and an MLP none.

    Raises
    ------
    InvalidTypeError
        If `composite` is a composite of Zennit, whose relevance has no gradient; see `differentiable`.
    InvalidValueError
        If a composite stands there twice.

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
            ``(N, C, H, W)`` or ``(N, C, T, H, W)``. If they require a gradient, the relevance is differentiable with
            respect to them too.
        formulation : callable
            ``formulation(logits) -> seeds (N, K, C)`` of the signal, the explained quantities; a `Formulation`.
        create_graph : bool, default True
            Whether the relevance can be differentiated.

        Returns
        -------
        output
            What the model returned.
        relevance : Places of Tensor
            ``relevance["input"]`` of shape ``(N, K, C, …)``, and the same for each name in `layers`, also for a layer
            that returns ``(N, …, C)``. That of a second composite is at ``Place(layer, composite=1)``.

        Raises
        ------
        UncoveredOperationError
            If the model runs operations that no rule covers.
        InvalidTypeError, InvalidValueError
            If the model does not return logits, a layer does not exist, returns no maps of the images, or gets no
            relevance, or images on the CPU leave the box of z^B.
        """
        if images.device.type == "cpu":
            self.check_box(images)
        auto = self.layers == AUTO
        taps = AutoTaps(model, images.shape) if auto else MapTaps(model, self.layers, images.shape)

        def seeds(output: Any) -> tuple[Tensor, Tensor]:
            logits = main_logits(output, len(images))
            return logits, formulation(logits)

        output, relevance, _ = propagate(model, (images,), self.composites, taps, seeds, create_graph=create_graph)
        return output, relevance

    def check_box(self, images: Tensor) -> None:
        """Raise if images leave the box of a composite's z^B rule; waits for an accelerator."""
        for composite in self.composites:
            if composite.box is not None:
                check_in_box(images, composite.box)

    def __repr__(self) -> str:
        composites = ", ".join(map(repr, self.composites))
        several = len(self.composites) > 1
        return f"LRPAttribution({f'({composites})' if several else composites}, layers={self.layers!r})"
