"""Relevance of inner layers with Captum's interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from captum._utils.common import _format_additional_forward_args
from captum.attr import LayerAttribution
from captum.log import log_usage
from torch import Tensor, nn

from zennit_isnet.captum.arguments import as_inputs
from zennit_isnet.captum.attribution import CompositeAttribution
from zennit_isnet.captum.relevance import explain
from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.lrp.attribution import SignalOrRelevance
from zennit_isnet.model import unwrapped


class LayerCompositeAttribution(CompositeAttribution, LayerAttribution):
    """Relevance ``R = a ⊙ G`` at inner layers, used like `captum.attr.LayerLRP`.

    Parameters
    ----------
    model : Module
        See `CompositeAttribution`.
    layer : Module or list of Module
        Parts of the model that run once in a forward pass.
    composite : LRPFlex or DifferentiableComposite, optional
        The rules. Default ``LRPFlex()``.

    Raises
    ------
    InvalidTypeError
        If `layer` is neither a module nor a list of them.
    InvalidValueError
        If a layer is no part of the model.

    Examples
    --------
    >>> import torch
    >>> from torchvision.models import resnet18
    >>> from zennit_isnet.captum import LayerCompositeAttribution
    >>> model = resnet18(num_classes=3).eval()
    >>> attribution = LayerCompositeAttribution(model, model.layer3)
    >>> relevance = attribution.attribute(torch.rand(2, 3, 64, 64), target=1)
    >>> relevance.shape
    torch.Size([2, 256, 4, 4])
    >>> attribution.interpolate(relevance.sum(1, keepdim=True), (64, 64)).shape
    torch.Size([2, 1, 64, 64])
    """

    def __init__(
        self, model: nn.Module, layer: nn.Module | Sequence[nn.Module], composite: SignalOrRelevance | None = None
    ) -> None:
        CompositeAttribution.__init__(self, model, composite)
        LayerAttribution.__init__(self, model, layer)
        self._names = _names_in(model, [layer] if isinstance(layer, nn.Module) else layer)

    @log_usage()  # Captum's NoiseTunnel calls what this wraps
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        *,
        create_graph: bool = False,
    ) -> Any:
        """Explain one output of each example by the activations of the layers.

        Parameters
        ----------
        inputs, target, additional_forward_args, return_convergence_delta, create_graph
            See `CompositeAttribution.attribute`. Biases before the layer have no share in the gap.
        attribute_to_layer_input : bool, default False
            Whether the input of each layer is explained in place of its output.

        Returns
        -------
        relevance : Tensor, tuple of Tensor, or list of these
            In the shape of the layer's output (input); a tuple if it has several floating tensors, whose relevance is
            to be added up; a list if there is a list of layers.
        delta : Tensor or list of Tensor
            ``(N,)``, if asked for.

        Raises
        ------
        InvalidTypeError, InvalidValueError
            If an argument is not allowed, or a layer does not run exactly once, has no floating tensors, or lies
            inside of layers that one rule covers together.
        UncoveredOperationError
            If the model runs operations that no rule covers.
        """
        explanation = explain(
            self.model,
            self.composite,
            as_inputs(inputs),
            target,
            _format_additional_forward_args(additional_forward_args) or (),
            layers=self._names,
            of_layer_inputs=attribute_to_layer_input,
            create_graph=create_graph,
        )
        relevance: list[Any] = [parts if len(parts) > 1 else parts[0] for parts in explanation.relevance]
        single = isinstance(self.layer, nn.Module)
        found = relevance[0] if single else relevance
        if not return_convergence_delta:
            return found
        delta = [self.compute_convergence_delta(parts, explanation.start) for parts in explanation.relevance]
        return found, delta[0] if single else delta


def _names_in(model: nn.Module, layers: Sequence[nn.Module]) -> list[str]:
    """Names of modules in a model."""
    names = {id(module): name for name, module in unwrapped(model).named_modules() if name}
    if not isinstance(layers, (list, tuple)) or not all(isinstance(layer, nn.Module) for layer in layers):
        raise InvalidTypeError(
            f"layer must be a module or a list of modules, as model.get_submodule(name) gives them; got {layers!r}"
        )
    strangers = [type(layer).__name__ for layer in layers if id(layer) not in names]
    if strangers or not layers:
        raise InvalidValueError(f"layer must be part of the model, got {', '.join(strangers) or 'an empty list'}")
    return [names[id(layer)] for layer in layers]
