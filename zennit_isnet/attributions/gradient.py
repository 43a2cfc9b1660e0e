"""Ordinary gradients of explained quantities, for attributions without relevance rules."""

from __future__ import annotations

import torch
from torch import Tensor

from zennit_isnet.errors import InvalidValueError


def as_source(images: Tensor) -> Tensor:
    """Return images to take gradients at: as they are if the caller wants their gradient, else cut from any graph."""
    # with gradients off, images that require one would not be connected to their own graph
    return images if images.requires_grad and torch.is_grad_enabled() else images.detach().requires_grad_()


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
