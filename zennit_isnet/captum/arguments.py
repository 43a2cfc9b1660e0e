"""Inputs and targets as Captum's users write them."""

from __future__ import annotations

from typing import Any

import torch
from captum._utils.common import _select_targets
from torch import Tensor

from zennit_isnet.checks import check_differentiable
from zennit_isnet.errors import InvalidTypeError, InvalidValueError


def as_inputs(inputs: Any) -> tuple[Tensor, ...]:
    """Return one tensor, or a tuple of them, as a tuple.

    Raises
    ------
    InvalidTypeError
        If one is no floating tensor.
    InvalidValueError
        If one has no batch dimension or no elements, or their batch sizes differ.
    """
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    if not given:
        raise InvalidValueError("inputs must be a Tensor or a tuple of them, got an empty tuple")
    for value in given:
        check_differentiable("inputs", value, " (N, …) or a tuple of them")
        if value.ndim == 0 or value.numel() == 0:
            raise InvalidValueError(f"inputs must have shape (N, …), no dimension 0, got {tuple(value.shape)}")
    sizes = [len(value) for value in given]
    if len(set(sizes)) > 1:
        raise InvalidValueError(f"inputs must have one batch size, got {sizes}")
    return given


def explained_output(output: Tensor, target: Any, count: int) -> Tensor:
    """Return the explained output of each of `count` examples, selected by Captum's rules.

    Parameters
    ----------
    output : Tensor
        ``(N,)``, ``(N, C)`` or ``(N, C, …)``.
    target : None, int, Tensor, tuple of int, list of int or list of tuple
        Which element; None where there is only one.
    count : int
        N.

    Returns
    -------
    Tensor
        ``(N,)``, part of the graph of `output`.

    Raises
    ------
    InvalidTypeError
        If `target` is none of these types.
    InvalidValueError
        If it lies outside of the output or selects more than one element, or the output has not N rows.
    """
    shape = tuple(output.shape)
    if not (target is None or (isinstance(target, (int, tuple, list, Tensor)) and not isinstance(target, bool))):
        raise InvalidTypeError(
            f"target must be None, an int, a tensor, a tuple, or a list of ints or tuples, got {type(target).__name__}"
        )
    if output.ndim == 0 or len(output) != count:
        raise InvalidValueError(f"the model must return one row for each of {count} examples, got shape {shape}")
    if isinstance(target, Tensor):
        target = target.to(output.device)
    _check_in_range(target, output)
    try:
        selected: Tensor = _select_targets(output, target)
    except (AssertionError, IndexError, RuntimeError, TypeError) as error:
        raise InvalidValueError(f"target {target!r} does not fit an output of shape {shape}: {error}") from error
    if selected.numel() != count:
        raise InvalidValueError(
            f"target must select one element of each example's output, got {target!r} for an output of shape {shape}"
        )
    return selected.reshape(count)


def _check_in_range(target: Any, output: Tensor) -> None:
    """Raise for classes of examples that `torch.gather` would look for outside of the output."""
    is_list = isinstance(target, list) and target != [] and all(isinstance(entry, int) for entry in target)
    if output.ndim != 2 or not (is_list or (isinstance(target, Tensor) and target.numel() > 1)):
        return
    classes = torch.as_tensor(target)
    if classes.is_floating_point() or bool(((classes < 0) | (classes >= output.shape[1])).any()):
        raise InvalidValueError(f"target must hold classes from 0 to {output.shape[1] - 1}, got {classes.tolist()}")
