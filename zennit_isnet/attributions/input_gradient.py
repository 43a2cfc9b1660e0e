"""The gradient with respect to the images, and its product with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from zennit_isnet.attribution import INPUT
from zennit_isnet.attributions.gradient import as_source, gradient, seeds_of
from zennit_isnet.validation import main_logits


class InputGradient:
    """Sensitivity ``R = ∂q/∂x`` of the explained quantity ``q`` to each pixel, with its sign.

    Captum's `Saliency` with ``abs=False``, differentiable. Costs one ordinary double backward pass.

    References
    ----------
    Simonyan, Vedaldi, Zisserman, "Deep Inside Convolutional Networks", arXiv:1312.6034 (2013), section 3. As a
    penalty: Ross, Hughes, Doshi-Velez, "Right for the Right Reasons", IJCAI 2017.

    Examples
    --------
    >>> import torch
    >>> from torchvision.models import resnet18
    >>> from zennit_isnet import ISNetRegularizer
    >>> from zennit_isnet.attributions import InputGradient
    >>> regularizer = ISNetRegularizer(resnet18(num_classes=3), attribution=InputGradient())
    >>> regularizer.heatmap(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 1, 3, 32, 32])
    """

    def __call__(
        self, model: nn.Module, images: Tensor, formulation: Callable[[Tensor], Tensor], *, create_graph: bool = True
    ) -> tuple[Any, dict[str, Tensor]]:
        """Run the model once, and one ordinary backward pass for each explained quantity.

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
            ``{"input": R}`` with ``R`` of shape ``(N, K, C, …)``.

        Raises
        ------
        InvalidTypeError, InvalidValueError
            If the model does not return logits, or they do not depend on the images.
        """
        source = as_source(images)
        with torch.enable_grad():
            # a copy, so that a model that starts with an in-place operation does not write to the user's images
            output = model(source.clone())
            logits = main_logits(output, len(source))
            heatmaps = [gradient(logits, seed, source, create_graph) for seed in seeds_of(formulation, logits)]
        return output, {INPUT: torch.stack(heatmaps, dim=1)}


class GradientTimesInput(InputGradient):
    """``R = x ⊙ ∂q/∂x`` by the ordinary gradient, without any rule.

    Captum's `InputXGradient`, differentiable. In ISNet it is the ablation of LRP, with `SoftmaxGradient`.

    References
    ----------
    Shrikumar et al., "Not Just a Black Box: Learning Important Features Through Propagating Activation Differences",
    arXiv:1605.01713 (2016). As a penalty: Bassi, Dertkigil, Cavalli, Nat. Commun. 15 (2024) 291, ISNet Grad*Input.

    Examples
    --------
    >>> import torch
    >>> from torchvision.models import resnet18
    >>> from zennit_isnet import GradientTimesInput, ISNetRegularizer, SoftmaxGradient
    >>> model = resnet18(num_classes=3)
    >>> regularizer = ISNetRegularizer(model, attribution=GradientTimesInput(), formulation=SoftmaxGradient())
    >>> regularizer.heatmap(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 1, 3, 32, 32])
    """

    def __call__(
        self, model: nn.Module, images: Tensor, formulation: Callable[[Tensor], Tensor], *, create_graph: bool = True
    ) -> tuple[Any, dict[str, Tensor]]:
        """Parameters, returns and errors are those of `InputGradient`."""
        source = as_source(images)
        output, gradients = super().__call__(model, source, formulation, create_graph=create_graph)
        relevance = source.unsqueeze(1) * gradients[INPUT]
        return output, {INPUT: relevance if create_graph else relevance.detach()}
