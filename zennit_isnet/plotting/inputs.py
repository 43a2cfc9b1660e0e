"""Checks of what is to be drawn, and its way to NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zennit_isnet.errors import InvalidTypeError, InvalidValueError

Array = NDArray[np.float64]


def finite(name: str, values: Any) -> Array:
    """Return a copy of a tensor, array or sequence of numbers in float64.

    Raises
    ------
    InvalidTypeError
        If `values` is not made of real numbers.
    InvalidValueError
        If a value is NaN or infinite.
    """
    array = numbers(name, values)
    broken = ~np.isfinite(array)
    if broken.any():
        first = tuple(int(index) for index in np.argwhere(broken)[0])
        raise InvalidValueError(
            f"{name} must be finite; got {int(broken.sum())} NaN or infinite values, first at {first}"
        )
    return array


def numbers(name: str, values: Any) -> Array:
    """Return a copy of a tensor, array or sequence of numbers, NaN among them, in float64.

    Raises
    ------
    InvalidTypeError
        If `values` is not made of real numbers.
    """
    try:
        tensor = values.detach() if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))
    except TypeError as error:
        raise InvalidTypeError(f"{name} must be made of numbers; got {type(values).__name__}: {error}") from error
    if tensor.is_complex():
        raise InvalidTypeError(f"{name} must be made of real numbers; got {tensor.dtype}")
    array: Array = tensor.to("cpu", torch.float64, copy=True).numpy()
    return array


def image_batch(images: Any) -> Array:
    """Return images as ``(N, H, W, 3)``, grey ones as three equal channels.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If they are no finite images of shape (N, 3, H, W) or (N, 1, H, W) with values in [0, 1].
    """
    array = finite("images", images)
    if array.ndim != 4 or array.shape[1] not in (1, 3) or array.size == 0:
        raise InvalidValueError(f"images must have shape (N, 3, H, W) or (N, 1, H, W); got {array.shape}")
    if array.min() < 0 or array.max() > 1:
        raise InvalidValueError(
            f"images must lie in [0, 1]; got {array.min():.4g} to {array.max():.4g}; undo their normalisation first"
        )
    return np.broadcast_to(array.transpose(0, 2, 3, 1), (len(array), *array.shape[2:], 3))


def mask_batch(masks: Any, shape: tuple[int, int, int]) -> Array:
    """Return masks as ``(N, H, W)``.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If they are not made of 0 and 1, or do not have the images' number and size, `shape`.
    """
    array = finite("masks", masks)
    flat = array[:, 0] if array.ndim == 4 and array.shape[1] == 1 else array
    if flat.shape != shape:
        count, height, width = shape
        raise InvalidValueError(
            f"masks must have shape ({count}, 1, {height}, {width}) or ({count}, {height}, {width}), as the images; "
            f"got {array.shape}"
        )
    if not np.isin(flat, (0, 1)).all():
        raise InvalidValueError("masks must be 1 on the foreground and 0 elsewhere; got other values")
    return flat


def heatmap_batch(name: str, heatmaps: Any, count: int) -> Array:
    """Return heatmaps as ``(N, h, w)``, summed over their channels.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If they are not finite, or not one for each of `count` images.
    """
    array = finite(f"heatmaps[{name!r}]", heatmaps)
    if array.ndim not in (3, 4) or len(array) != count or array.size == 0:
        raise InvalidValueError(
            f"heatmaps[{name!r}] must have shape ({count}, H, W) or ({count}, C, H, W), one for each image; "
            f"got {array.shape}"
        )
    return array.sum(1) if array.ndim == 4 else array


def share_list(name: str, shares: Any) -> Array:
    """Return shares as ``(n,)``.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If they are not one-dimensional, or leave [0, 1]; NaN, an undefined share, is refused too.
    """
    array = finite(name, shares)
    if array.ndim != 1 or not len(array):
        raise InvalidValueError(f"{name} must have shape (n,) with at least one share; got {array.shape}")
    if array.min() < 0 or array.max() > 1:
        raise InvalidValueError(f"{name} must lie in [0, 1]; got {array.min():.4g} to {array.max():.4g}")
    return array


def check_rows(name: str, rows: Any, each: str) -> None:
    """Raise unless `rows` maps at least one label to something.

    Raises
    ------
    InvalidTypeError
        If it is no mapping.
    InvalidValueError
        If it is empty.
    """
    if not isinstance(rows, Mapping):
        raise InvalidTypeError(f"{name} must map the name of each {each} to its values; got {type(rows).__name__}")
    if not rows:
        raise InvalidValueError(f"{name} must have at least one {each}; got an empty mapping")


def check_names(name: str, names: Sequence[str], count: int, each: str) -> None:
    """Raise unless there is one name for each thing.

    Raises
    ------
    InvalidTypeError
        If `names` is a single string.
    InvalidValueError
        If their number is not `count`.
    """
    if isinstance(names, str):
        raise InvalidTypeError(f"{name} must be a sequence of names; got the string {names!r}")
    if len(names) != count:
        raise InvalidValueError(f"{name} must have one entry for each {each}, {count}; got {len(names)}")
