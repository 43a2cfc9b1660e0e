"""Checks of single arguments, with messages that show what came and what is allowed."""

import math
from numbers import Real
from typing import Any, get_args

import torch

from zennit_isnet.errors import InvalidTypeError, InvalidValueError


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


def check_count(name: str, value: object, *, low: int = 1) -> None:
    """Raise unless `value` is an int of at least `low`.

    Parameters
    ----------
    name : str
        Name of the argument, for the message.
    value : object
        What the caller passed.
    low : int, default=1
        The smallest number allowed.

    Raises
    ------
    InvalidTypeError
        If `value` is not an int.
    InvalidValueError
        If `value` is too small.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidTypeError(f"{name} must be an int of at least {low}; got {type(value).__name__}: {value!r}")
    if value < low:
        raise InvalidValueError(f"{name} must be at least {low}; got {value}")


def check_generator(generator: object) -> None:
    """Raise unless `generator` is None or a generator on the CPU, whose draws do not depend on a model's device.

    Parameters
    ----------
    generator : object
        What the caller passed.

    Raises
    ------
    InvalidTypeError
        If it is neither None nor a `torch.Generator`.
    InvalidValueError
        If it is on another device.
    """
    if generator is not None and not isinstance(generator, torch.Generator):
        raise InvalidTypeError(f"generator must be a torch.Generator or None; got {type(generator).__name__}")
    if generator is not None and generator.device.type != "cpu":
        raise InvalidValueError(f"generator must be on the CPU, as torch.Generator() is; got {generator.device}")
