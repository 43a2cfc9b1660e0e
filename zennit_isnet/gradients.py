"""Gradient attributions that are differentiable with respect to the parameters.

Each is a callable ``attribution(model, images, formulation) -> output, {place: relevance (N, K, C, …)}`` that
`ISNetRegularizer` can penalise instead of LRP. They need second derivatives of all operations. PyTorch lacks a few
(hardsigmoid, in MobileNetV3; some fused attention); ``backward()`` then raises, while `LRPAttribution` does not.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from zennit_isnet.checks import Described, check_count, check_differentiable, check_number
from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.lrp.composite import LRPComposite
from zennit_isnet.lrp.propagation import propagate, seeds_of
from zennit_isnet.lrp.taps import INPUT, MapTaps, Place, Places, Taps
from zennit_isnet.model import buffers_restored, unwrapped

__all__ = ["GradCAM", "GradientTimesInput", "InputGradient", "IntegratedGradients"]

Seeds: TypeAlias = Callable[[Tensor], Tensor]
"""A formulation: makes seeds ``(N, K, C)`` from logits."""

Explained: TypeAlias = tuple[Any, Places[Tensor]]
"""The model's output, and the relevance ``(N, K, C, …)`` by place."""


class OrdinaryGradient(LRPComposite):
    """A composite without rules: the relevance at each place is the ordinary gradient."""

    propagates = "signal"

    def relevance(self, activation: Tensor, arrived: Tensor) -> Tensor:
        """Return the gradient unchanged."""
        return arrived


def _gradients(model: nn.Module, images: Tensor, formulation: Seeds, taps: Taps, create_graph: bool) -> Explained:
    """Return the model's output, and the gradients of each explained quantity at the layers, or at the images."""
    check_differentiable("images", images, " (N, C, H, W)")
    seeds = seeds_of(formulation, len(images))
    return propagate(
        model, (images,), [OrdinaryGradient()], taps, seeds, at_inputs=not taps.layers, create_graph=create_graph
    )[:2]


class InputGradient(Described):
    """Sensitivity ``R = ∂q/∂x`` of the explained quantity ``q`` to each pixel, signed.

    Captum's `Saliency` with ``abs=False``, differentiable. Costs one ordinary double backward pass.

    References
    ----------
    .. [1] Simonyan, K., Vedaldi, A., Zisserman, A. "Deep inside convolutional networks: visualising image
       classification models and saliency maps". arXiv:1312.6034 (2013). Section 3.
    .. [2] Ross, A. S., Hughes, M. C., Doshi-Velez, F. "Right for the right reasons: training differentiable models by
       constraining their explanations". IJCAI 2017. arXiv:1703.03717. As a penalty.

    Examples
    --------
    >>> import torch
    >>> from torchvision.models import resnet18
    >>> from zennit_isnet import ISNetRegularizer
    >>> from zennit_isnet.gradients import InputGradient
    >>> regularizer = ISNetRegularizer(resnet18(num_classes=3), attribution=InputGradient())
    >>> regularizer.heatmap(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 1, 3, 32, 32])
    """

    def __call__(self, model: nn.Module, images: Tensor, formulation: Seeds, *, create_graph: bool = True) -> Explained:
        """Run the model once, and one ordinary backward pass for each explained quantity.

        Parameters
        ----------
        model : Module
            A classifier.
        images : Tensor
            ``(N, C, H, W)`` or ``(N, C, T, H, W)``.
        formulation : callable
            ``formulation(logits) -> seeds (N, K, C)``, the explained quantities.
        create_graph : bool, default=True
            Whether the result can be differentiated.

        Returns
        -------
        output
            What the model returned.
        relevance : Places of Tensor
            ``{"input": R}`` with ``R`` of shape ``(N, K, C, …)``.

        Raises
        ------
        InvalidTypeError, InvalidValueError
            If the model does not return logits, or they do not depend on the images.
        """
        return _gradients(model, images, formulation, Taps(model), create_graph)


class GradientTimesInput(InputGradient):
    """``R = x ⊙ ∂q/∂x`` with the ordinary gradient, without rules.

    Captum's `InputXGradient`, differentiable. With `SoftmaxGradient` it is the ISNet papers' ablation of LRP.

    References
    ----------
    .. [1] Shrikumar, A. et al. "Not just a black box: learning important features through propagating activation
       differences". arXiv:1605.01713 (2016).
    .. [2] Bassi, P. R. A. S., Dertkigil, S. S. J., Cavalli, A. "Improving deep neural network generalization and
       robustness to background bias via layer-wise relevance propagation optimization". Nat. Commun. 15, 291 (2024). As
       a penalty: ISNet Grad*Input.

    Examples
    --------
    >>> import torch
    >>> from torchvision.models import resnet18
    >>> from zennit_isnet import ISNetRegularizer
    >>> from zennit_isnet.formulations import SoftmaxGradient
    >>> from zennit_isnet.gradients import GradientTimesInput
    >>> model = resnet18(num_classes=3)
    >>> regularizer = ISNetRegularizer(model, attribution=GradientTimesInput(), formulation=SoftmaxGradient())
    >>> regularizer.heatmap(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 1, 3, 32, 32])
    """

    def __call__(self, model: nn.Module, images: Tensor, formulation: Seeds, *, create_graph: bool = True) -> Explained:
        """See `InputGradient` for parameters, returns and errors."""
        output, gradients = super().__call__(model, images, formulation, create_graph=create_graph)
        with torch.enable_grad():
            relevance = images.unsqueeze(1) * gradients[INPUT]
        return output, Places({INPUT: relevance if create_graph else relevance.detach()})


class IntegratedGradients(Described):
    """``R = (x − x₀) ⊙ ∫₀¹ ∂q/∂x (x₀ + α(x − x₀)) dα``, by Gauss-Legendre quadrature.

    ``ΣR = q(x) − q(x₀)`` up to the error of the quadrature, for the quantity ``q = Σ_c s_c y_c``, where the formulation
    computes the seed ``s`` at the images. Captum's `IntegratedGradients`, differentiable.

    Each step costs a forward pass and a double backward pass, and keeps its activations until the loss's backward pass.
    Only the forward pass on the images themselves updates BatchNorm statistics; in train mode the other passes use the
    statistics of their own batch.

    Parameters
    ----------
    steps : int, default=8
        Quadrature points. Captum's default of 50 is meant for explanations; in training each point costs a step.
    baseline : float or Tensor, default=0.0
        ``x₀``: a number, or a tensor that broadcasts to the images. For normalised images, 0 is the mean colour.

    Raises
    ------
    InvalidTypeError
        If `steps` is not an int, or `baseline` is neither a number nor a tensor.
    InvalidValueError
        If `steps` is smaller than 1, or `baseline` is not finite.

    References
    ----------
    .. [1] Sundararajan, M., Taly, A., Yan, Q. "Axiomatic attribution for deep networks". ICML 2017. Equations 1 and 3.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet import Target
    >>> from zennit_isnet.gradients import IntegratedGradients
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 4), torch.nn.Tanh(), torch.nn.Flatten())
    >>> images = torch.rand(2, 1, 4, 4)
    >>> logits, relevance = IntegratedGradients()(model, images, Target(1))
    >>> relevance["input"].shape
    torch.Size([2, 1, 1, 4, 4])
    >>> difference = logits[:, 1] - model(torch.zeros_like(images))[:, 1]
    >>> torch.allclose(relevance["input"].flatten(1).sum(1), difference, atol=1e-5)
    True
    """

    def __init__(self, steps: int = 8, baseline: float | Tensor = 0.0) -> None:
        check_count("steps", steps)
        if not isinstance(baseline, Tensor):
            check_number("baseline", baseline, low=-float("inf"))
        elif not bool(baseline.isfinite().all()):
            raise InvalidValueError(f"baseline must be finite; got {int((~baseline.isfinite()).sum())} other values")
        self.steps = steps
        self.baseline = baseline

    def __call__(self, model: nn.Module, images: Tensor, formulation: Seeds, *, create_graph: bool = True) -> Explained:
        """Run the model on the images, then on each point between the baseline and them.

        See `InputGradient` for parameters, returns and errors.

        Raises
        ------
        InvalidValueError
            If the baseline does not broadcast to the images.
        """
        check_differentiable("images", images, " (N, C, H, W)")
        baseline = torch.as_tensor(self.baseline, dtype=images.dtype, device=images.device)
        try:
            way = images - baseline.expand_as(images)
        except RuntimeError as error:
            legal = f"broadcast to images of shape {tuple(images.shape)}"
            raise InvalidValueError(f"baseline must {legal}; got {tuple(baseline.shape)}") from error
        nodes, weights = np.polynomial.legendre.leggauss(self.steps)
        with torch.enable_grad():
            output = model(images.clone())
            _, seeds = seeds_of(formulation, len(images))(output)
            integral = torch.zeros_like(images).unsqueeze(1)
            with buffers_restored(inner := unwrapped(model)):
                for alpha, weight in zip((1 + nodes) / 2, weights / 2, strict=True):
                    point = images - (1 - float(alpha)) * way
                    _, gradients = _gradients(inner, point, lambda _: seeds, Taps(inner), create_graph)
                    integral = integral + float(weight) * gradients[INPUT]
            relevance = way.unsqueeze(1) * integral
        return output, Places({INPUT: relevance if create_graph else relevance.detach()})


class GradCAM(Described):
    """``R = ReLU(Σ_c w_c a_c)`` with ``w_c = mean_hw ∂q/∂a_c``: one channel, at a layer's resolution.

    Captum's `LayerGradCam` with ``relu_attributions=True``, differentiable. The backward pass ends at the layer, so a
    late layer is cheap.

    Parameters
    ----------
    layer : str
        Name of a layer, as in ``model.named_modules()``, with a spatial output ``(N, C, h, w)`` or ``(N, h, w, C)``,
        for videos with ``t`` before ``h``; usually the last layer before pooling.

    Raises
    ------
    InvalidTypeError
        If `layer` is not a string.

    References
    ----------
    .. [1] Selvaraju, R. R. et al. "Grad-CAM: visual explanations from deep networks via gradient-based localization".
       ICCV 2017. arXiv:1610.02391. Equations 1 and 2.

    Examples
    --------
    >>> import torch
    >>> from torchvision.models import resnet18
    >>> from zennit_isnet import Target
    >>> from zennit_isnet.gradients import GradCAM
    >>> model = resnet18(num_classes=3).eval()
    >>> logits, relevance = GradCAM("layer3")(model, torch.rand(2, 3, 64, 64), Target(1))
    >>> relevance["layer3"].shape
    torch.Size([2, 1, 1, 4, 4])
    """

    def __init__(self, layer: str) -> None:
        if not isinstance(layer, str):
            raise InvalidTypeError(f"layer must be a name as in model.named_modules(); got {type(layer).__name__}")
        self.layer = layer

    def __call__(self, model: nn.Module, images: Tensor, formulation: Seeds, *, create_graph: bool = True) -> Explained:
        """Run the model once, and one backward pass down to the layer for each explained quantity.

        Parameters and errors are those of `InputGradient`.

        Returns
        -------
        output
            What the model returned.
        relevance : Places of Tensor
            ``{layer: R}`` with ``R`` of shape ``(N, K, 1, h, w)``.

        Raises
        ------
        InvalidValueError
            If the layer does not exist, is not spatial, or does not run exactly once.
        """
        check_differentiable("images", images, " (N, C, H, W)")
        place, taps = Place(self.layer), MapTaps(model, [self.layer], images.shape)
        output, slopes = _gradients(model, images, formulation, taps, create_graph)
        with torch.enable_grad():
            maps = taps.channels_first(place, taps.outputs[place])
            channel_weights = slopes[place].flatten(3).mean(3)
            relevance = torch.einsum("nkc,nc...->nk...", channel_weights, maps).unsqueeze(2).relu()
        return output, Places({place: relevance if create_graph else relevance.detach()})
