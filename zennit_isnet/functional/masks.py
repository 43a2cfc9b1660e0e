"""Foreground masks: their values, their way to the resolution of a heatmap, and the heatmaps that they go with."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from zennit_isnet.checks import as_floats
from zennit_isnet.errors import InvalidTypeError, InvalidValueError

_NAMED_IMAGES = 16


def resize_foreground(foreground: Tensor, size: Sequence[int]) -> Tensor:
    """Bring a foreground mask to another resolution, such that no foreground is ever called background.

    A cell of the result is background only if no foreground pixel falls in it, not even in part (adaptive max
    pooling, for reduction and for enlargement). Interpolation would let thin foreground vanish, and the heatmap loss
    would then punish relevance on the object itself.

    Parameters
    ----------
    foreground : Tensor, shape (N, 1, *spatial) or (N, *spatial)
        1 (or True) on the object, 0 elsewhere; bool, integer or floating.
    size : sequence of 2 or 3 ints
        Spatial size of the result: ``(H, W)`` for images, ``(T, H, W)`` for videos.

    Returns
    -------
    Tensor, shape (N, 1, *size)
        Floating: float64 stays, everything else becomes float32.

    Raises
    ------
    InvalidTypeError
        If `foreground` is not a real tensor.
    InvalidValueError
        If `size` has neither two nor three positive entries, or the shape of `foreground` does not fit it.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.functional import resize_foreground
    >>> foreground = torch.zeros(1, 4, 4, dtype=torch.bool)
    >>> foreground[0, 0, 1] = True
    >>> resize_foreground(foreground, (2, 2))
    tensor([[[[1., 0.],
              [0., 0.]]]])
    """
    size = tuple(size)
    if len(size) not in (2, 3) or min(size) < 1:
        raise InvalidValueError(f"size must be (H, W) or (T, H, W) with positive entries; got {size}")
    check_real(foreground)
    shape = tuple(foreground.shape)
    if foreground.dim() == len(size) + 1:
        foreground = foreground.unsqueeze(1)
    if foreground.dim() != len(size) + 2 or foreground.shape[1] != 1 or min(foreground.shape[2:]) < 1:
        names = "T, H, W" if len(size) == 3 else "H, W"
        raise InvalidValueError(
            f"foreground must have shape (N, 1, {names}) or (N, {names}) with pixels, for heatmaps of size {size}; "
            f"got {shape}"
        )
    foreground = foreground if foreground.dtype == torch.float64 else foreground.to(torch.float32)
    if tuple(foreground.shape[2:]) == size:
        return foreground
    pool = F.adaptive_max_pool2d if len(size) == 2 else F.adaptive_max_pool3d
    resized: Tensor = pool(foreground, size)
    return resized


def validate_foreground(foreground: Tensor) -> None:
    """Raise unless every mask is made of 0 and 1 and has some foreground.

    Reads the values, so on an accelerator it waits for the device once. The functions of `zennit_isnet.functional`
    never do that; without this check an all-background mask gives them a NaN loss. A mask without background is fine.

    Parameters
    ----------
    foreground : Tensor, shape (N, ...)
        One mask per image.

    Raises
    ------
    InvalidTypeError
        If `foreground` is not a real tensor.
    InvalidValueError
        If `foreground` has no batch dimension, has a value other than 0 and 1 (NaN included), or is background
        everywhere in some image; the message names the images by their index in the batch.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.functional import validate_foreground
    >>> validate_foreground(torch.ones(2, 1, 4, 4))
    >>> validate_foreground(torch.zeros(2, 1, 4, 4))
    Traceback (most recent call last):
        ...
    zennit_isnet.errors.InvalidValueError: no foreground in the masks of images 0, 1 of 2; ...
    """
    check_real(foreground)
    if foreground.dim() < 2:
        raise InvalidValueError(f"foreground must be (N, ...), one mask per image; got {tuple(foreground.shape)}")
    flat = foreground.detach().flatten(1)
    is_foreground = flat == 1
    illegal = ~(is_foreground | (flat == 0)).all(dim=1)
    empty = ~is_foreground.any(dim=1)
    some_illegal, some_empty = torch.stack([illegal, empty]).any(dim=1).tolist()
    if some_illegal:
        examples = flat[~is_foreground & (flat != 0)].unique()[:5].tolist()
        raise InvalidValueError(
            f"foreground must be 1 on the object and 0 elsewhere; the masks of {named_images(illegal)} have "
            f"other values, such as {', '.join(map(str, examples))}; threshold them first, as in `foreground > 0`"
        )
    if some_empty:
        raise InvalidValueError(
            f"no foreground in the masks of {named_images(empty)}; each mask needs at least one foreground pixel, with "
            "which the background is compared (a mask without background is allowed)"
        )


def check_real(foreground: Tensor) -> None:
    """Raise `InvalidTypeError` unless masks are a tensor of bool, integer or floating dtype."""
    if not isinstance(foreground, Tensor):
        raise InvalidTypeError(f"foreground must be a tensor; got {type(foreground).__name__}")
    if foreground.is_complex():
        raise InvalidTypeError(f"foreground must be bool, integer or floating; got {foreground.dtype}")


def named_images(flags: Tensor) -> str:
    """Name the images of a batch with a flag, (N, ...), for messages."""
    named = flags.reshape(len(flags), -1).any(dim=1).nonzero().flatten().tolist()
    more = ", ..." if len(named) > _NAMED_IMAGES else ""
    shown = ", ".join(map(str, named[:_NAMED_IMAGES]))
    return f"image{'s' if len(named) > 1 else ''} {shown}{more} of {len(flags)}"


def as_heatmaps(relevance: Tensor) -> Tensor:
    """Check heatmaps of shape (N, K, C, *spatial), and return them in float32 or float64."""
    relevance = as_floats("relevance", relevance)
    if relevance.dim() not in (5, 6) or min(relevance.shape[1:]) < 1:
        raise InvalidValueError(
            "relevance must have shape (N, K, C, H, W) or (N, K, C, T, H, W) with at least one heatmap, channel and "
            f"cell; got {tuple(relevance.shape)}"
        )
    return relevance


def align(relevance: Tensor, foreground: Tensor) -> tuple[Tensor, Tensor]:
    """Check both, and bring the foreground to the dtype of the relevance and to shape (N, 1, 1, *spatial)."""
    relevance = as_heatmaps(relevance)
    foreground = resize_foreground(foreground, relevance.shape[3:])
    if len(foreground) != len(relevance):
        raise InvalidValueError(f"foreground must have a mask for all {len(relevance)} images; got {len(foreground)}")
    return relevance, foreground.to(relevance.dtype).unsqueeze(1)
