"""Ordinary gradients of explained quantities, for attributions without relevance rules."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.validation import check_differentiable


def as_source(images: Tensor) -> Tensor:
    """Return images to take gradients at: as they are if the caller wants their gradient, else cut from any graph.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If they are no tensor that has gradients.
    """
    check_differentiable("images", images, " (N, C, H, W)")
    # with gradients off, images that require one would not be connected to their own graph
    return images if images.requires_grad and torch.is_grad_enabled() else images.detach().requires_grad_()


def seeds_of(formulation: Callable[[Tensor], Tensor], logits: Tensor) -> tuple[Tensor, ...]:
    """Return the seed ``(N, C)`` of each explained quantity.

    Raises
    ------
    InvalidTypeError
        If a quantity is explained by rules of its own, as half of `Dual` is.
    """
    if hasattr(formulation, "positive"):
        raise InvalidTypeError(
            f"{type(formulation).__name__} is explained by two sets of relevance rules, and this attribution has none; "
            "use LRPAttribution, or Original to explain all logits"
        )
    return formulation(logits).unbind(1)


def gradient(logits: Tensor, seed: Tensor, at: Tensor, create_graph: bool) -> Tensor:
    """Return ``∂q/∂a`` of the quantity ``q = Σ_c s_c y_c`` at an activation.

    Parameters
    ----------
    logits : Tensor
        ``y`` of shape ``(N, C)``.
    seed : Tensor
        ``s`` of shape ``(N, C)``. Constant in this gradient, alive as a function of the parameters.
    at : Tensor
        ``a``, any shape.
    create_graph : bool
        Whether the result can be differentiated.

    Returns
    -------
    Tensor
        Same shape as `at`.

    Raises
    ------
    InvalidValueError
        If the logits do not depend on the activation.
    """
    found = None
    if logits.requires_grad:
        (found,) = torch.autograd.grad(
            logits, at, seed, create_graph=create_graph, retain_graph=True, allow_unused=True
        )
    if found is None:
        raise InvalidValueError(
            f"no gradient arrives at the activation of shape {tuple(at.shape)}: the logits do not depend on it, or the "
            "model cuts the graph between them (no_grad, detach)"
        )
    return found
