"""Which values of a mask file are foreground."""

from __future__ import annotations

from collections.abc import Collection
from functools import reduce
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from zennit_isnet.data.decoding import Levels
from zennit_isnet.errors import InvalidTypeError, InvalidValueError

Binarization: TypeAlias = Literal["strict", "half", "nonzero"]
Binarize: TypeAlias = Binarization | Collection[int]

_NAMED_VALUES = 8


def check_binarize(binarize: Any) -> None:
    """Raise unless `binarize` is one of the words or a collection of integers.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        The message says what came and what is allowed.
    """
    legal = f"one of {', '.join(map(repr, get_args(Binarization)))} or a collection of integers"
    if isinstance(binarize, str):
        if binarize not in get_args(Binarization):
            raise InvalidValueError(f"binarize must be {legal}; got {binarize!r}")
    elif not isinstance(binarize, Collection) or not all(type(value) is int for value in binarize):
        raise InvalidTypeError(f"binarize must be {legal}; got {binarize!r}")
    elif not binarize:
        raise InvalidValueError("binarize must hold at least one value that is foreground; got none")


def binarized(levels: Levels, binarize: Binarize, name: str) -> Tensor:
    """Decide which pixels of a mask are foreground.

    Parameters
    ----------
    levels : Levels
        What `read_levels` returns.
    binarize : {"strict", "half", "nonzero"} or collection of int
        ``"strict"`` accepts masks of 0 and one other value only; a mask that is all foreground must have 1 or the
        brightest value. ``"half"``: above half of the brightest value. ``"nonzero"``: all but 0. A collection: the
        values that are foreground.
    name : str
        The mask's name, for messages.

    Returns
    -------
    torch.Tensor
        True on the foreground, shape ``(1, H, W)``, dtype bool.

    Raises
    ------
    InvalidValueError
        If the mask has values that the policy does not allow; the message names the mask and the values.

    Examples
    --------
    >>> trimap = Levels(torch.tensor([[1, 3, 2, 2]]), top=255)
    >>> binarized(trimap, {1, 3}, "trimap").int()
    tensor([[[1, 1, 0, 0]]], dtype=torch.int32)
    >>> binarized(trimap, "strict", "trimap")
    Traceback (most recent call last):
        ...
    zennit_isnet.errors.InvalidValueError: trimap has the values 1, 2, 3; ...
    """
    values = levels.values
    if values.is_floating_point() and not bool(values.isfinite().all()):
        raise InvalidValueError(f"{name} has values that are not finite")
    if binarize == "nonzero":
        foreground = values != 0
    elif binarize == "half":
        foreground = values > _half(levels, name)
    elif binarize == "strict":
        foreground = _strict(levels, name)
    else:
        # wide, because PyTorch reduces numbers to the range of bytes before it compares them with bytes
        wide = values if values.is_floating_point() else values.long()
        foreground = reduce(torch.logical_or, (wide == value for value in binarize))
    return foreground.unsqueeze(0)


def _strict(levels: Levels, name: str) -> Tensor:
    # not by `unique`, which sorts all pixels of every mask that is read
    values, top = levels
    foreground = values != 0
    other = values.max().item()
    if bool((values == other).logical_or_(~foreground).all()) and (other in (0, 1, top) or not bool(foreground.all())):
        return foreground
    raise InvalidValueError(
        f"{name} has the values {_listed(values.unique().tolist())}; a mask must have 0 on the background and one "
        f'other value on the foreground; binarize="half", "nonzero" or the foreground\'s values reads other masks'
    )


def _half(levels: Levels, name: str) -> float:
    if levels.top is None:
        raise InvalidValueError(
            f"{name} has values without a known range (colours, indices or wide integers), so half of it says "
            f'nothing; use binarize="nonzero" or the foreground\'s values'
        )
    highest = float(levels.values.max())
    if not highest <= levels.top:
        raise InvalidValueError(
            f"{name} has values up to {highest:g}, above the brightest value {levels.top:g} of its format, so half of "
            f'it says nothing; use binarize="nonzero" or values'
        )
    return levels.top / 2


def _listed(values: list[float]) -> str:
    more = f", ... ({len(values)} values)" if len(values) > _NAMED_VALUES else ""
    return ", ".join(f"{value:g}" for value in values[:_NAMED_VALUES]) + more
