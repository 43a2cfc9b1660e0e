"""Heatmaps of explained quantities, differentiable with respect to the parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from zennit_isnet.composites import LRPFlex
from zennit_isnet.validation import main_logits

INPUT = "input"
"""Name of the images among the layers."""


class Attribution(Protocol):
    """Makes the heatmaps that `ISNetRegularizer` penalises; any callable with this signature can replace LRP."""

    def __call__(
        self, model: nn.Module, images: Tensor, formulation: Callable[[Tensor], Tensor], *, create_graph: bool = True
    ) -> tuple[Any, dict[str, Tensor]]:
        """Return the model's output and, for each layer, relevance of shape ``(N, K, C, …)``."""


class LRPAttribution:
    """Relevance at the images by a composite of this package.

    Parameters
    ----------
    composite : LRPFlex, optional
        The rules. Default ``LRPFlex()``.

    Examples
    --------
    >>> import torch
    >>> from torchvision.models import resnet18
    >>> from zennit_isnet import LRPAttribution, Selective
    >>> model = resnet18(num_classes=3)
    >>> logits, relevance = LRPAttribution()(model, torch.rand(2, 3, 32, 32), Selective())
    >>> relevance["input"].shape
    torch.Size([2, 1, 3, 32, 32])
    >>> relevance["input"].square().sum().backward()  # a function of the parameters like any other
    """

    def __init__(self, composite: LRPFlex | None = None) -> None:
        self.composite = LRPFlex() if composite is None else composite

    def __call__(
        self, model: nn.Module, images: Tensor, formulation: Callable[[Tensor], Tensor], *, create_graph: bool = True
    ) -> tuple[Any, dict[str, Tensor]]:
        """Run the model once, and one signal pass for each explained quantity.

        Parameters
        ----------
        model : Module
            A classifier.
        images : Tensor
            ``(N, C, H, W)`` or ``(N, C, T, H, W)``. If they require a gradient, the relevance is differentiable with
            respect to them too.
        formulation : callable
            ``formulation(logits) -> seeds (N, K, C)``, the explained quantities; a `Formulation`.
        create_graph : bool, default True
            Whether the relevance can be differentiated.

        Returns
        -------
        output
            What the model returned.
        relevance : dict of str to Tensor
            ``{"input": R}`` with ``R`` of shape ``(N, K, C, …)``.

        Raises
        ------
        UncoveredOperationError
            If the model runs operations that no rule covers.
        InvalidTypeError, InvalidValueError
            If the model does not return logits.
        """
        # a view of images that was made without gradients says that it requires one, and gets none
        follows = images.requires_grad and torch.is_grad_enabled()
        source = images if follows else images.detach().requires_grad_()
        with torch.enable_grad(), self.composite.context(model):
            self.composite.set_input_gradient(follows)
            output = model(source)
            logits = main_logits(output, source.shape[0])
            seeds = formulation(logits)
            heatmaps = [
                torch.autograd.grad(logits, source, seed, create_graph=create_graph, retain_graph=True)[0]
                for seed in seeds.unbind(1)
            ]
        return output, {INPUT: torch.stack(heatmaps, dim=1)}
