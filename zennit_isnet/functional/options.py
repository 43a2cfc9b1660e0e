"""Options of the heatmap loss and the checks that they share."""

import math
from numbers import Real
from typing import Any, Literal, get_args

from torch import Tensor

from zennit_isnet.errors import InvalidTypeError, InvalidValueError

Normalization = Literal["absolute_first", "normalize_first"]
"""Whether the mean relevance of the foreground is taken of absolute or of signed relevance."""

ForegroundVariant = Literal["hybrid", "squared"]
"""How the foreground loss grows above its range: linearly in the end, or always with the square."""


def check_choice(name: str, value: object, choices: Any) -> None:
    """Raise unless `value` is one of the values of the literal type `choices`.

    Parameters
    ----------
    name : str
        Name of the argument, for the message.
    value : object
        What the caller passed.
    choices : typing.Literal
        The type whose values are legal.

    Raises
    ------
    InvalidValueError
        If `value` is not legal; the message lists the legal values.
    """
    legal = get_args(choices)
    if value not in legal:
        raise InvalidValueError(f"{name} must be one of {', '.join(map(repr, legal))}; got {value!r}")


def check_number(
    name: str, value: object, *, low: float = 0.0, high: float = math.inf, include_low: bool = False
) -> None:
    """Raise unless `value` is a real number above `low`, at most `high`, and finite.

    Parameters
    ----------
    name : str
        Name of the argument, for the message.
    value : object
        What the caller passed.
    low, high : float, default=0.0, inf
        The allowed interval; `high` itself is allowed where it is finite.
    include_low : bool, default=False
        Whether `low` itself is allowed.

    Raises
    ------
    InvalidTypeError
        If `value` is not a number.
    InvalidValueError
        If `value` lies outside of the interval.
    """
    opening, closing = "[" if include_low else "(", "]" if high < math.inf else ")"
    interval = f"{opening}{low:g}, {high:g}{closing}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InvalidTypeError(f"{name} must be a number in {interval}; got {type(value).__name__}: {value!r}")
    number = float(value)
    above = number >= low if include_low else number > low
    if not (above and number <= high and math.isfinite(number)):
        raise InvalidValueError(f"{name} must lie in {interval}; got {value!r}")


def check_relevance_range(c1: float | Tensor, c2: float | Tensor) -> None:
    """Raise unless ``0 < c1 < c2``, as far as that can be seen without a device synchronisation.

    Values of tensors are not read: whoever makes the tensors answers for them.

    Parameters
    ----------
    c1, c2 : float or Tensor
        Ends of the natural range of the total relevance; tensors must have no dimension.

    Raises
    ------
    InvalidTypeError
        If one is neither a number nor a tensor.
    InvalidValueError
        If a tensor is not a scalar, or the numbers are not an increasing positive range.
    """
    for name, value in (("c1", c1), ("c2", c2)):
        if not isinstance(value, Tensor):
            check_number(name, value)
        elif value.dim() != 0:
            raise InvalidValueError(f"{name} must be a number or a tensor of shape (); got shape {tuple(value.shape)}")
    if not isinstance(c1, Tensor) and not isinstance(c2, Tensor) and c1 >= c2:
        raise InvalidValueError(f"c1 must be less than c2; got c1={c1!r} and c2={c2!r}")


def check_loss_options(
    *,
    background_weight: float,
    foreground_weight: float,
    decay: float,
    background_scale: float,
    foreground_variant: ForegroundVariant,
    normalization: Normalization,
    stabilizer: float,
) -> None:
    """Raise unless all options of `zennit_isnet.functional.heatmap_loss` are legal.

    Parameters
    ----------
    background_weight, foreground_weight, decay, background_scale, foreground_variant, normalization, stabilizer
        As for `zennit_isnet.functional.heatmap_loss`.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        At the first option that is not legal.
    """
    check_number("background_weight", background_weight, include_low=True)
    check_number("foreground_weight", foreground_weight, include_low=True)
    check_number("decay", decay, high=1.0)
    check_number("background_scale", background_scale)
    check_choice("foreground_variant", foreground_variant, ForegroundVariant)
    check_choice("normalization", normalization, Normalization)
    check_number("stabilizer", stabilizer, include_low=True)
