"""What all pictures share: an empty figure of their own, and colours that colour-blind readers can tell apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zennit_isnet.errors import import_optional

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours of lines; the palette of Okabe and Ito without its yellow, which is too light on white."""


def empty_figure(width: float, height: float) -> Figure:
    """Return a figure without axes that no window and no global state of Matplotlib knows.

    Parameters
    ----------
    width, height : float
        Size in inches.

    Returns
    -------
    Figure
        Its axes will keep clear of each other's labels.

    Raises
    ------
    MissingDependencyError
        If Matplotlib is not installed.
    """
    figure: Figure = import_optional("matplotlib.figure", "matplotlib", extra="plotting").Figure(
        figsize=(width, height), layout="constrained"
    )
    return figure
