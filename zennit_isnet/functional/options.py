"""Options of the heatmap loss and the checks that they share."""

from typing import Literal

from torch import Tensor

from zennit_isnet.checks import check_choice, check_number
from zennit_isnet.errors import InvalidValueError

Normalization = Literal["absolute_first", "normalize_first"]
"""Whether the mean relevance of the foreground is taken of absolute or of signed relevance."""

ForegroundVariant = Literal["hybrid", "squared"]
"""How the foreground loss grows above its range: linearly in the end, or always with the square."""


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
