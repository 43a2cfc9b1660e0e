"""Shapes and dtypes of heatmaps and of the masks that go with them."""

import torch
from torch import Tensor

from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.functional.masks import resize_foreground


def as_heatmaps(relevance: Tensor) -> Tensor:
    """Check heatmaps of shape (N, K, C, *spatial), and return them in float32 or float64."""
    if not isinstance(relevance, Tensor) or not relevance.is_floating_point():
        kind = relevance.dtype if isinstance(relevance, Tensor) else type(relevance).__name__
        raise InvalidTypeError(f"relevance must be a floating tensor; got {kind}")
    shape = tuple(relevance.shape)
    if relevance.dim() not in (5, 6) or min(shape[1:]) < 1:
        raise InvalidValueError(
            "relevance must have shape (N, K, C, H, W) or (N, K, C, T, H, W) with at least one heatmap, channel and "
            f"cell; got {shape}"
        )
    return relevance if relevance.dtype == torch.float64 else relevance.to(torch.float32)


def align(relevance: Tensor, foreground: Tensor) -> tuple[Tensor, Tensor]:
    """Check both, and bring the foreground to the dtype of the relevance and to shape (N, 1, 1, *spatial)."""
    relevance = as_heatmaps(relevance)
    foreground = resize_foreground(foreground, relevance.shape[3:])
    if len(foreground) != len(relevance):
        raise InvalidValueError(
            f"foreground must have one mask for each of the {len(relevance)} images; got {len(foreground)}"
        )
    return relevance, foreground.to(relevance.dtype).unsqueeze(1)
