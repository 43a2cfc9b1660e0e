"""What all pictures share: a figure of their own, colours, and what is to be drawn, checked and as NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zennit_isnet.errors import InvalidTypeError, InvalidValueError, import_optional

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]


COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours of lines; the palette of Okabe and Ito without its yellow, which is too light on white."""


def empty_figure(width: float, height: float) -> Figure:
    """Return a figure without axes that no window and no global state of Matplotlib knows.

    Parameters
    ----------
    width, height : float
        Size in inches.

    Returns
    -------
    Figure
        Its axes will keep clear of each other's labels.

    Raises
    ------
    MissingDependencyError
        If Matplotlib is not installed.
    """
    figure: Figure = import_optional("matplotlib.figure", "matplotlib", extra="plotting").Figure(
        figsize=(width, height), layout="constrained"
    )
    return figure


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
        first = tuple(np.argwhere(broken)[0].tolist())
        raise InvalidValueError(f"{name} must be finite; got {broken.sum()} NaN or infinite values, first at {first}")
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
