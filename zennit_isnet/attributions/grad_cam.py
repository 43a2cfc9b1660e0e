"""Channel activations weighted by their mean gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from zennit_isnet.attributions.gradient import as_source, gradient, seeds_of
from zennit_isnet.errors import InvalidTypeError
from zennit_isnet.taps import MapTaps
from zennit_isnet.validation import main_logits


class GradCAM:
    """``R = ReLU(Σ_c w_c a_c)`` with ``w_c = mean_hw ∂q/∂a_c``: one channel, at the resolution of a layer.

    Captum's `LayerGradCam`, differentiable. The backward pass ends at the layer, so a late layer is cheap.

    Parameters
    ----------
    layer : str
        Name of a layer, as in ``model.named_modules()``, with a spatial output ``(N, C, h, w)`` or ``(N, h, w, C)``, of
        videos with ``t`` before ``h``; usually the last one before the pooling.
    relu : bool, default True
        Whether only what speaks for the explained quantity is kept, as in the paper. Captum's default is False.

    Raises
    ------
    InvalidTypeError
        If `layer` is no string.

    References
    ----------
    Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017,
    equations 1 and 2.

    Examples
    --------
    >>> import torch
    >>> from torchvision.models import resnet18
    >>> from zennit_isnet import Target
    >>> from zennit_isnet.attributions import GradCAM
    >>> model = resnet18(num_classes=3).eval()
    >>> logits, relevance = GradCAM("layer3")(model, torch.rand(2, 3, 64, 64), Target(1))
    >>> relevance["layer3"].shape
    torch.Size([2, 1, 1, 4, 4])
    """

    def __init__(self, layer: str, relu: bool = True) -> None:
        if not isinstance(layer, str):
            raise InvalidTypeError(f"layer must be a name as in model.named_modules(); got {type(layer).__name__}")
        self.layer = layer
        self.relu = relu

    def __call__(
        self, model: nn.Module, images: Tensor, formulation: Callable[[Tensor], Tensor], *, create_graph: bool = True
    ) -> tuple[Any, dict[str, Tensor]]:
        """Run the model once, and one backward pass down to the layer for each explained quantity.

        Parameters and errors are those of `InputGradient`.

        Returns
        -------
        output
            What the model returned.
        relevance : dict of str to Tensor
            ``{layer: R}`` with ``R`` of shape ``(N, K, 1, h, w)``.

        Raises
        ------
        InvalidValueError
            Also if the layer does not exist, is not spatial, or does not run exactly once.
        """
        source = as_source(images)
        with torch.enable_grad(), MapTaps(model, [self.layer], source.shape) as taps:
            output = model(source.clone())
            logits = main_logits(output, len(source))
            activation = taps.read()[self.layer]
            maps = taps.channels_first(self.layer, activation)
            heatmaps = []
            for seed in seeds_of(formulation, logits):
                slopes = taps.channels_first(self.layer, gradient(logits, seed, activation, create_graph))
                channel_weights = slopes.flatten(2).mean(2)
                heatmaps.append(torch.einsum("nc,nc...->n...", channel_weights, maps).unsqueeze(1))
            relevance = torch.stack(heatmaps, dim=1)
            relevance = relevance.relu() if self.relu else relevance
        return output, {self.layer: relevance if create_graph else relevance.detach()}
