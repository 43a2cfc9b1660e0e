"""The natural range (C₁, C₂) of a classifier's total relevance."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from itertools import chain
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from zennit_isnet.distributed import from_all_processes
from zennit_isnet.errors import CalibrationError, InvalidTypeError, InvalidValueError, RelevanceRangeWarning
from zennit_isnet.lrp.taps import Place, Places
from zennit_isnet.model import main_head, unwrapped

__all__ = ["RelevanceRange"]


@dataclass(frozen=True)
class RelevanceRange:
    """Range of the total |relevance| of one layer.

    Parameters
    ----------
    c1, c2 : float
        Lower and upper end; the foreground term of the loss pulls the relevance on the foreground between them.
    mean, std : float
        Mean and sample standard deviation over the measured images; NaN if the range was set by hand.
    count : int
        Number of measured images; 0 if the range was set by hand.

    Raises
    ------
    InvalidTypeError
        If `c1` or `c2` is not a number.
    CalibrationError
        Unless ``0 < c1 < c2`` and both are finite.

    Examples
    --------
    >>> RelevanceRange(1.0, 25.0).c2
    25.0
    """

    c1: float
    c2: float
    mean: float = math.nan
    std: float = math.nan
    count: int = 0

    def __post_init__(self) -> None:
        for name in ("c1", "c2"):
            if not isinstance(end := getattr(self, name), Real):
                raise InvalidTypeError(f"{name} must be a number; got {type(end).__name__}: {end!r}")
        if not (0 < self.c1 < self.c2 < math.inf):
            came = f"c1 = {self.c1:.6g}, c2 = {self.c2:.6g}"
            measured = f"mean {self.mean:.6g}, standard deviation {self.std:.6g}, {self.count} images"
            raise CalibrationError(f"the relevance range must satisfy 0 < c1 < c2 < inf; got {came} ({measured})")

    @classmethod
    def from_statistics(cls, mean: float, std: float, count: int) -> RelevanceRange:
        """Return ``C₁ = max(m/5, m − 3s)`` and ``C₂ = min(25·C₁, m + 3s)``.

        Parameters
        ----------
        mean, std : float
            Mean ``m`` and sample standard deviation ``s`` of the total |relevance| per image.
        count : int
            Number of images, at least 2.

        Raises
        ------
        CalibrationError
            If there are fewer than two images, or the range is empty, or the statistics are not finite.

        Examples
        --------
        >>> measured = RelevanceRange.from_statistics(mean=10.0, std=2.0, count=100)
        >>> measured.c1, measured.c2
        (4.0, 16.0)
        """
        if count < 2:
            raise CalibrationError(f"measuring the relevance range needs at least 2 images; got {count}")
        if not (math.isfinite(mean) and math.isfinite(std)):
            raise CalibrationError(f"the total relevance must be finite; got mean {mean} and standard deviation {std}")
        c1 = max(mean / 5, mean - 3 * std)
        return cls(c1, min(25 * c1, mean + 3 * std), mean, std, count)


DEFAULT_RANGE = RelevanceRange(1.0, 25.0)
"""The authors' defaults, used until a range is measured."""


def checked_ranges(ranges: Mapping[Any, Any]) -> Places[RelevanceRange]:
    """Return ranges by place.

    Raises
    ------
    InvalidTypeError
        If they do not map places or names of layers to ranges.
    """
    if not isinstance(ranges, Mapping) or not all(
        isinstance(key, (Place, str)) and isinstance(value, RelevanceRange) for key, value in ranges.items()
    ):
        raise InvalidTypeError(f"ranges must map places or names of layers to RelevanceRange(c1, c2); got {ranges!r}")
    return Places(ranges)


def ranges_from_state(state: Any) -> Places[RelevanceRange]:
    """Return the ranges stored as numbers in a regularizer's state.

    Parameters
    ----------
    state : list of mapping
        For each place ``layer``, ``c1`` and ``c2``, and perhaps ``composite``, ``part``, ``mean``, ``std`` and
        ``count``.

    Raises
    ------
    InvalidValueError
        If it is not of this form.
    CalibrationError
        If a range is empty.
    """
    ranges: Places[RelevanceRange] = Places()
    try:
        for values in state:
            numbers = {name: value for name, value in values.items() if name not in Place._fields}
            place = Place(values["layer"], values.get("composite", 0), values.get("part", 0))
            ranges[place] = RelevanceRange(**numbers)
    except (AttributeError, KeyError, TypeError) as error:
        known = ", ".join((*Place._fields, *(field.name for field in fields(RelevanceRange))))
        raise InvalidValueError(f"ranges must be a list of mappings with the keys {known}; got {state!r}") from error
    return ranges


_FAR = 10.0
"""A total relevance this many times outside the range triggers a warning."""


def warn_outside_default_range(place: Place, total: float, *, stacklevel: int = 2) -> None:
    """Warn with `RelevanceRangeWarning` if a total |relevance| lies far outside the default range."""
    low, high = DEFAULT_RANGE.c1, DEFAULT_RANGE.c2
    if not low / _FAR <= total <= high * _FAR:
        problem = f"the total relevance at {place} is {total:.3g}, far outside the default range ({low:g}, {high:g})"
        remedy = "measure the range with calibrate(loader) on a model trained without the penalty"
        warnings.warn(f"{problem}; {remedy}", RelevanceRangeWarning, stacklevel=stacklevel)


class Maturity:
    """Detects an untrained classifier, whose relevance has no natural range.

    It predicts the same class for all images, with little more than chance probability.
    """

    def __init__(self) -> None:
        self._classes: set[int] = set()
        self._confidence, self._images, self._guess = 0.0, 0, 0.0

    def see(self, output: Any) -> None:
        """Look at the output for a batch."""
        logits = main_head(output)
        if not (isinstance(logits, Tensor) and logits.ndim == 2 and logits.shape[1] > 1):
            return
        confidence, classes = logits.float().softmax(1).max(1)
        self._classes |= set(classes.tolist())
        self._confidence += confidence.sum().item()
        self._images += len(logits)
        self._guess = 1 / logits.shape[1]

    def warn(self, *, stacklevel: int = 2) -> None:
        """Warn with `RelevanceRangeWarning` if the classifier looks untrained."""
        confidence = self._confidence / max(self._images, 1)
        if self._images >= _ENOUGH and len(self._classes) == 1 and confidence < 1.5 * self._guess:
            found = f"it predicts class {min(self._classes)} for all {self._images} images"
            problem = f"{found}, with a probability of {confidence:.2g} (chance: {self._guess:.2g})"
            remedy = (
                "train it without the penalty for some epochs before calibrate(loader), also if only its head is new"
            )
            message = f"the classifier looks untrained: {problem}. Training will change its relevance range; {remedy}"
            warnings.warn(message, RelevanceRangeWarning, stacklevel=stacklevel)


def no_relevance_message(place: Place, model: nn.Module) -> str:
    """Return the message that there is no relevance, with the likely reason."""
    zero = [name for name, p in model.named_parameters() if p.ndim > 1 and p.numel() and not bool(p.detach().any())]
    colour = "each image has a single colour, or a layer that all paths pass through outputs zeros"
    reason = f"{', '.join(zero)} is zero throughout" if zero else colour
    remedy = "train the classifier without the penalty for some epochs first, or give a new head random weights"
    return f"all relevance at {place} is zero: the logits do not depend on the images ({reason}); {remedy}"


_ENOUGH = 30
"""With fewer images, one outlier would be enough for a warning."""


def measured_ranges(batches: Iterable[Mapping[Place, Tensor]], model: nn.Module) -> Places[RelevanceRange]:
    """Return the range of each place from the total |relevance| of images.

    Parameters
    ----------
    batches : iterable of mapping of Place to Tensor
        For each batch, the total of each image ``(N,)`` by place.
    model : Module
        In `DistributedDataParallel` the batches are this process's share, and the ranges cover the images of all
        processes.

    Returns
    -------
    Places of RelevanceRange

    Raises
    ------
    CalibrationError
        If there are fewer than two images, a total is not finite, or a range is empty; or if the measurement failed in
        another process.

    Warns
    -----
    RelevanceRangeWarning
        If the totals of at least 30 images at a place have a standard deviation above their mean.

    Examples
    --------
    >>> from zennit_isnet.lrp import INPUT
    >>> batches = [{INPUT: torch.tensor([3.0, 5.0])}, {INPUT: torch.tensor([4.0])}]
    >>> measured_ranges(batches, torch.nn.Identity())["input"].mean
    4.0
    """

    def measure() -> list[dict[Place, Tensor]]:
        return [{place: values.detach().to("cpu", torch.float64) for place, values in b.items()} for b in batches]

    totals: dict[Place, list[Tensor]] = {}
    for batch in chain.from_iterable(from_all_processes(measure, model)):
        for place, values in batch.items():
            totals.setdefault(place, []).append(values)
    if not totals:
        raise CalibrationError("measuring the relevance range needs at least 2 images; got 0")
    ranges: Places[RelevanceRange] = Places()
    for place, parts in totals.items():
        values = torch.cat(parts)
        if len(values) and not bool(values.any()):
            raise CalibrationError(no_relevance_message(place, unwrapped(model)))
        count, mean = len(values), values.mean().item()
        std = values.std().item() if count > 1 else math.nan
        ranges[place] = RelevanceRange.from_statistics(mean, std, count)
        if count >= _ENOUGH and std > mean:
            problem = f"the total relevance at {place} varies too much for any range"
            found = f"mean {mean:.3g}, standard deviation {std:.3g}, {count} images"
            remedy = "train without the penalty first, and use Selective(delta=0)"
            warnings.warn(f"{problem} ({found}); {remedy}", RelevanceRangeWarning, stacklevel=3)
    return ranges
