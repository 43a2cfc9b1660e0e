"""Captum's attributions in the place of LRP."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import captum.attr
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zennit_isnet.attribution import INPUT
from zennit_isnet.attributions.gradient import as_source
from zennit_isnet.captum.gradient_check import check_parameter_gradient
from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.preservation import buffers_restored, unwrapped
from zennit_isnet.taps import find_layers
from zennit_isnet.validation import main_logits


class CaptumAttribution:
    """A gradient-based attribution of Captum as something that `ISNetRegularizer` can penalise.

    Captum's classes take gradients that cannot be differentiated again; inside of this adapter they can. What an
    attribution detaches on its way stays constant all the same, and a penalty on it would train on a wrong gradient
    without a word (`LayerIntegratedGradients` is such a case). So the first differentiable call compares the gradient
    with finite differences, and raises if they disagree.

    Costs one forward pass more than the package's own attributions, which are better where they exist:
    `InputGradient`, `GradientTimesInput`, `IntegratedGradients`, `GradCAM`, `LRPAttribution`.

    Parameters
    ----------
    method : callable
        A class of Captum, or any ``method(forward)`` that returns an object with Captum's ``attribute``. `forward`
        is a module ``forward(images, seed) -> (N,)``, the explained quantity. With `layer`, ``method(forward, layer)``.
    layer : str, optional
        Name of the layer that is attributed to, as in ``model.named_modules()``.
    verify : bool, default True
        Whether the first call with ``create_graph=True`` checks the gradient: on a float64 copy of the model, with
        two images, along two directions of the parameters; 5 to 21 attributions more.
    **arguments
        For each call of ``attribute``, such as ``n_steps=8``.

    Raises
    ------
    InvalidTypeError
        If `method` cannot be called, or is Captum's LRP, whose rules cut the graph; use `LRPAttribution`.

    Examples
    --------
    >>> import torch
    >>> from captum.attr import LayerGradientXActivation, Saliency
    >>> from zennit_isnet import Target
    >>> from zennit_isnet.captum import CaptumAttribution
    >>> model = torch.nn.Sequential(
    ...     torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 3)
    ... )
    >>> images = torch.rand(2, 3, 8, 8)
    >>> logits, relevance = CaptumAttribution(Saliency, abs=False)(model, images, Target(1))
    >>> relevance["input"].square().sum().backward()
    >>> logits, relevance = CaptumAttribution(LayerGradientXActivation, layer="1")(model, images, Target(1))
    >>> relevance["1"].shape
    torch.Size([2, 1, 4, 6, 6])
    """

    def __init__(
        self, method: Callable[..., Any], *, layer: str | None = None, verify: bool = True, **arguments: Any
    ) -> None:
        if not callable(method):
            raise InvalidTypeError(
                "method must be a class of captum.attr, or a function that makes an attribution of a forward function; "
                f"got {type(method).__name__}"
            )
        if isinstance(method, type) and issubclass(method, captum.attr.LRP):
            raise InvalidTypeError(
                f"the rules of captum.attr.{method.__name__} cut the graph to the parameters and write to the model; "
                "use LRPAttribution"
            )
        self.method, self.layer, self.arguments = method, layer, arguments
        self._unverified = verify

    def __call__(
        self, model: nn.Module, images: Tensor, formulation: Callable[[Tensor], Tensor], *, create_graph: bool = True
    ) -> tuple[Any, dict[str, Tensor]]:
        """Run the model once, and Captum's method once for each explained quantity.

        Parameters
        ----------
        model : Module
            A classifier.
        images : Tensor
            ``(N, C, H, W)`` or ``(N, C, T, H, W)``.
        formulation : callable
            ``formulation(logits) -> seeds (N, K, C)``, the explained quantities.
        create_graph : bool, default True
            Whether the result can be differentiated.

        Returns
        -------
        output
            What the model returned.
        relevance : dict of str to Tensor
            ``{"input": R}``, or ``{layer: R}``, with ``R`` of shape ``(N, K, C, …)``.

        Raises
        ------
        InvalidTypeError
            If the method returns no tensor.
        InvalidValueError
            If its maps have another size, or are no differentiable function of the parameters.
        """
        source = as_source(images)
        with torch.enable_grad():
            output = model(source.clone())
            seeds = formulation(main_logits(output, len(source))).unbind(1)
            heatmaps = [self._attribute(unwrapped(model), source, seed, create_graph) for seed in seeds]
        if create_graph and self._unverified:
            self._unverified = not check_parameter_gradient(self._attribute, unwrapped(model), source, seeds[0])
        return output, {self.layer or INPUT: torch.stack(heatmaps, dim=1)}

    def _attribute(self, model: nn.Module, images: Tensor, seed: Tensor, create_graph: bool = True) -> Tensor:
        """Heatmap ``(N, C, …)`` of one explained quantity."""
        explained = ExplainedQuantity(model)
        place = () if self.layer is None else (find_layers(model, [self.layer])[self.layer],)
        # an alias: the seed is a function of the images too, and constant in Captum's gradient
        images = images.view_as(images)
        # Captum repeats `additional_forward_args` for its copies of the images, so each copy finds its seed
        with buffers_restored(model), DifferentiableGradients() if create_graph else nullcontext():
            heatmap = self.method(explained, *place).attribute(images, additional_forward_args=seed, **self.arguments)
        name = getattr(self.method, "__name__", type(self.method).__name__)
        if not isinstance(heatmap, Tensor):
            raise InvalidTypeError(f"{name} must return one tensor, got {type(heatmap).__name__}")
        size = tuple(images.shape[2:])
        fits = heatmap.ndim == images.ndim and len(heatmap) == len(images)
        if not fits or (self.layer is None and tuple(heatmap.shape[2:]) != size):
            raise InvalidValueError(
                f"{name} must return maps of shape (N, C, …) for images of shape {tuple(images.shape)}, of their size "
                f"unless there is a layer; got {tuple(heatmap.shape)}"
            )
        return heatmap if create_graph else heatmap.detach()


class ExplainedQuantity(nn.Module):
    """``q = Σ_c s_c y_c`` of each image, as a forward function for Captum.

    Parameters
    ----------
    model : Module
        Returns the logits ``y``.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, seed: Tensor) -> Tensor:
        """Return ``(N,)``."""
        return (main_logits(self.model(images.clone()), len(images)) * seed).sum(1)


class DifferentiableGradients(TorchFunctionMode):
    """Context in which each `torch.autograd.grad` of this thread makes a graph."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.autograd.grad:
            kwargs = {**kwargs, "create_graph": True, "retain_graph": True}
        return func(*args, **kwargs)
