"""Curves of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.plotting.canvas import COLOURS, empty_figure
from zennit_isnet.plotting.inputs import numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def training_curves(panels: Mapping[str, Mapping[str, Sequence[float]]], *, x_label: str = "epoch") -> Figure:
    """Draw one panel beside the other, each with its lines over epochs or steps.

    Parameters
    ----------
    panels : mapping of str to mapping of str to sequence of float
        Label of each panel's vertical axis to its lines; name of each line to its values, the first of epoch 1. A NaN
        leaves a gap, for what was not measured in an epoch.
    x_label : str, default="epoch"
        What the values are counted by.

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
    if not isinstance(panels, Mapping) or not all(isinstance(lines, Mapping) for lines in panels.values()):
        raise InvalidTypeError("panels must map the label of each panel to a mapping of lines to values")
    if not panels or not all(panels.values()):
        raise InvalidValueError("panels must have at least one panel, and each of them at least one line")
    figure = empty_figure(4.2 * len(panels), 3.2)
    for axis, (label, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for index, (name, line) in enumerate(lines.items()):
            values = numbers(f"panels[{label!r}][{name!r}]", line)
            if values.ndim != 1 or not len(values):
                raise InvalidValueError(f"panels[{label!r}][{name!r}] must have shape (n,), n ≥ 1; got {values.shape}")
            style = {"color": COLOURS[index % len(COLOURS)], "marker": "." if len(values) <= 50 else None}
            axis.plot(np.arange(1, len(values) + 1), values, label=name, **style)
        axis.set(xlabel=x_label, ylabel=label)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    return figure
