"""Figures that were measured: shares of |relevance| on the background over a data set, and curves of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from zennit_isnet.checks import as_integers
from zennit_isnet.errors import InvalidValueError
from zennit_isnet.plotting.canvas import COLOURS, Array, check_rows, empty_figure, finite, numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 20

MOST = 30
"""Classes that are drawn, so that their names stay readable."""

X_LABEL = "share of |relevance| on the background"


def share_by_class(
    shares: Tensor | Sequence[float],
    labels: Tensor | Sequence[int],
    classes: Sequence[str],
    *,
    expected: Tensor | Sequence[float] | None = None,
) -> Figure:
    """Draw one line for each class: the shares of |relevance| on the background of its images.

    Parameters
    ----------
    shares : Tensor or sequence of float
        ``(n,)`` in [0, 1]; leave images with an undefined share out.
    labels : Tensor or sequence of int
        ``(n,)``, the class of each image.
    classes : sequence of str
        Name of each class.
    expected : Tensor or sequence of float, optional
        ``(n,)``, the share that uniform relevance would have, which is the background's share of the image's area. A
        mark shows its mean over each class.

    Returns
    -------
    Figure
        The class with the highest median on top, and no more than the 30 highest, so that their names stay readable.
        A thin line reaches from the lowest to the highest share, a thick one covers the middle half of the images. A
        class without images is left out.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If lengths differ, a share is undefined or outside of [0, 1], or a label is no class.
    MissingDependencyError
        If Matplotlib is not installed.

    Examples
    --------
    >>> from zennit_isnet.plotting import share_by_class
    >>> figure = share_by_class([0.1, 0.3, 0.8], [0, 0, 1], ["cat", "dog"])
    >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
    ['cat', 'dog']
    """
    values = share_list("shares", shares)
    whole = torch.as_tensor(labels, device="cpu")
    members = as_integers("labels", whole, values.shape, whole.device, len(classes)).numpy()
    areas = None if expected is None else share_list("expected", expected)
    if areas is not None and len(areas) != len(values):
        raise InvalidValueError(f"expected must have one entry for each share, {len(values)}; got {len(areas)}")
    spread = {label: np.percentile(values[members == label], (0, 25, 50, 75, 100)) for label in np.unique(members)}
    shown = sorted(spread, key=lambda label: float(spread[label][2]))[-MOST:]

    figure = empty_figure(6.4, 0.3 * len(shown) + 1.4)
    axis = figure.subplots()
    places = range(1, len(shown) + 1)
    lowest, lower, median, upper, highest = np.stack([spread[label] for label in shown], axis=1)
    axis.hlines(places, lowest, highest, color=COLOURS[0], linewidth=1, label="all images")
    axis.hlines(places, lower, upper, color=COLOURS[0], linewidth=6, alpha=0.5, label="middle half")
    axis.plot(median, places, "o", color=COLOURS[0], label="median")
    if areas is not None:
        means = [areas[members == label].mean() for label in shown]
        axis.plot(means, places, "D", color=COLOURS[1], label="background's share of the area")
    axis.set_yticks(places, [classes[label] for label in shown], parse_math=False)
    axis.set(xlim=(-0.02, 1.02), ylim=(0.4, len(shown) + 0.6), xlabel=X_LABEL)
    axis.grid(axis="x", alpha=0.3)
    if len(shown) < len(spread):
        axis.set_title(f"the {len(shown)} of {len(spread)} classes with the highest median", fontsize=9)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return figure


def share_histogram(
    shares: Mapping[str, Tensor | Sequence[float]], *, expected: Tensor | Sequence[float] | None = None
) -> Figure:
    """Draw how many images have which share of |relevance| on the background.

    Parameters
    ----------
    shares : mapping of str to Tensor or sequence of float
        For each model, by the name in the legend, the shares of its images ``(n,)`` in [0, 1]; leave images with an
        undefined share out.
    expected : Tensor or sequence of float, optional
        ``(n,)``, the shares that uniform relevance would have; a line shows their mean.

    Returns
    -------
    Figure
        Twenty bins of equal width for each model.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If there is no model, or a share is undefined or outside of [0, 1].
    MissingDependencyError
        If Matplotlib is not installed.

    Examples
    --------
    >>> from zennit_isnet.plotting import share_histogram
    >>> figure = share_histogram({"plain": [0.8, 0.9], "ISNet": [0.0, 0.1]})
    >>> figure.axes[0].get_xlabel()
    'share of |relevance| on the background'
    """
    check_rows("shares", shares, "model")
    lists = {name: share_list(f"shares[{name!r}]", values) for name, values in shares.items()}
    mean = None if expected is None else share_list("expected", expected).mean()

    figure = empty_figure(6.4, 3.2)
    axis = figure.subplots()
    for index, (name, values) in enumerate(lists.items()):
        colour = COLOURS[index % len(COLOURS)]
        axis.hist(values, BINS, range=(0, 1), histtype="stepfilled", alpha=0.35, color=colour, label=name)
        axis.hist(values, BINS, range=(0, 1), histtype="step", color=colour)
    if mean is not None:
        axis.axvline(mean, color="black", linestyle="--", label="background's share of the area")
    axis.set(xlim=(0, 1), xlabel=X_LABEL, ylabel="images")
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def training_curves(panels: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Draw one panel beside the other, each with its lines over the epochs.

    Parameters
    ----------
    panels : mapping of str to mapping of str to sequence of float
        Label of each panel's vertical axis to its lines; name of each line to its values, the first of epoch 1. A NaN
        leaves a gap, for what was not measured in an epoch.

    Returns
    -------
    Figure
        One axes for each panel, from left to right.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If there is no panel, a panel has no line, or a line is not a sequence of at least one number.
    MissingDependencyError
        If Matplotlib is not installed.

    Examples
    --------
    >>> from zennit_isnet.plotting import training_curves
    >>> figure = training_curves({"loss": {"penalty": [2.0, 1.0, 0.5]}, "accuracy": {"kept": [0.2, 0.7, 0.9]}})
    >>> [axis.get_ylabel() for axis in figure.axes]
    ['loss', 'accuracy']
    """
    check_rows("panels", panels, "panel")
    for label, lines in panels.items():
        check_rows(f"panels[{label!r}]", lines, "line")
    figure = empty_figure(4.2 * len(panels), 3.2)
    for axis, (label, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for index, (name, line) in enumerate(lines.items()):
            values = numbers(f"panels[{label!r}][{name!r}]", line)
            if values.ndim != 1 or not len(values):
                raise InvalidValueError(f"panels[{label!r}][{name!r}] must have shape (n,), n ≥ 1; got {values.shape}")
            style = {"color": COLOURS[index % len(COLOURS)], "marker": "." if len(values) <= 50 else None}
            axis.plot(np.arange(1, len(values) + 1), values, label=name, **style)
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    return figure


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
