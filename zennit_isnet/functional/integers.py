"""Checks of tensors of integers: labels, predicted classes and groups."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zennit_isnet.errors import InvalidTypeError, InvalidValueError


def as_numbers(
    name: str, values: Tensor, shape: Sequence[int], device: torch.device, count: int | None = None
) -> Tensor:
    """Return integers or booleans in int64, in which no comparison with `count` can overflow.

    Parameters
    ----------
    name : str
        Name of the argument, for the messages.
    values : Tensor
        What the caller passed.
    shape, device
        Where the values must fit.
    count : int, optional
        The values must be less; by default they must only not be negative.

    Raises
    ------
    InvalidTypeError
        If `values` is no tensor of integers.
    InvalidValueError
        If it does not fit, or a value is out of range.
    """
    check_integers(name, values)
    check_fits(name, values, shape, device)
    values = values.long()
    outside = values[(values < 0) | (values >= count)] if count is not None else values[values < 0]
    if outside.numel():
        legal = f"lie in 0, ..., {count - 1}" if count is not None else "not be negative"
        raise InvalidValueError(f"{name} must {legal}; got {outside.unique().tolist()}")
    return values


def check_integers(name: str, values: Tensor) -> None:
    """Raise `InvalidTypeError` unless `values` is a tensor of integers or booleans."""
    if not isinstance(values, Tensor) or values.is_floating_point() or values.is_complex():
        kind = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise InvalidTypeError(f"{name} must be a tensor of integers; got {kind}")


def check_fits(name: str, values: Tensor, shape: Sequence[int], device: torch.device) -> None:
    """Raise `InvalidValueError` unless `values` has this shape and is on this device."""
    if tuple(values.shape) != tuple(shape) or values.device != device:
        raise InvalidValueError(
            f"{name} must have shape {tuple(shape)} on {device}; got {tuple(values.shape)} on {values.device}"
        )
