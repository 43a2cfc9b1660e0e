"""Figures of heatmaps, relevance shares and training curves.

Every function returns a new `matplotlib.figure.Figure` without a window: save it with ``figure.savefig(path)``, or
display it in a notebook. Matplotlib's global state does not change. Needs the extra ``plotting``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zennit_isnet.checks import as_integers
from zennit_isnet.errors import InvalidTypeError, InvalidValueError, import_optional

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["heatmap_panel", "share_by_class", "share_histogram", "training_curves"]

Array = NDArray[np.float64]

Shares: TypeAlias = Tensor | Sequence[float]
"""Numbers in [0, 1], one for each image."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Line colours: the Okabe-Ito palette without its yellow, which is too light on white."""

COLOUR_MAP = "RdBu_r"
"""Blue, white, red: zero is white, and both ends are distinguishable for colour-blind readers."""

BINS = np.linspace(0, 1, 21).tolist()

MOST = 30
"""Largest number of classes drawn, so that their names stay readable."""

X_LABEL = "share of |relevance| on the background"


def heatmap_panel(
    images: Tensor,
    masks: Tensor | None,
    heatmaps: Mapping[str, Tensor],
    titles: Sequence[str] | None = None,
    *,
    colour_bar: bool = True,
) -> Figure:
    """Draw one column per image: the image, its mask, and one row for each entry of `heatmaps`.

    Red is evidence for the explained quantity, blue is evidence against it, and white is zero. Each map is scaled to
    the full colour range separately, because magnitudes of different models are not comparable: maps show where
    relevance lies, not how much. A line outlines the foreground.

    Parameters
    ----------
    images : Tensor
        ``(N, 3, H, W)`` or ``(N, 1, H, W)`` in [0, 1].
    masks : Tensor or None
        ``(N, 1, H, W)`` or ``(N, H, W)``, 1 on the foreground; None omits the row of masks.
    heatmaps : mapping of str to Tensor
        Row label to signed relevance ``(N, h, w)``, or ``(N, C, h, w)``, which is summed over the channels. A map with
        another resolution than the image, such as one of an inner layer, is stretched over it.
    titles : sequence of str, optional
        One per image, such as its class name.
    colour_bar : bool, default=True
        Whether to draw a colour bar beside the maps.

    Returns
    -------
    Figure
        Row by row, then the colour bar.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If a tensor has the wrong shape or values, including NaN, or there is not one title per image.
    MissingDependencyError
        If Matplotlib is not installed.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.plotting import heatmap_panel
    >>> masks = torch.zeros(2, 1, 32, 32)
    >>> masks[..., 8:24, 8:24] = 1
    >>> relevance = torch.randn(2, 32, 32)
    >>> figure = heatmap_panel(torch.rand(2, 3, 32, 32), masks, {"relevance": relevance}, ["cat", "dog"])
    >>> len(figure.axes)  # two columns of image, mask and relevance, and the colour bar
    7
    """
    pictures = image_batch(images)
    count, height, width = pictures.shape[:3]
    outlines = None if masks is None else mask_batch(masks, (count, height, width))
    check_rows("heatmaps", heatmaps, "row")
    maps = {label: heatmap_batch(label, values, count) for label, values in heatmaps.items()}
    if titles is not None and len(titles) != count:
        raise InvalidValueError(f"titles must have one entry for each of {count} images; got {len(titles)}")

    rows = ["image", *([] if outlines is None else ["foreground mask"]), *maps]
    figure = empty_figure(1.25 * count + (2.2 if colour_bar else 0.6), 1.3 * len(rows) + 0.4)
    axes = figure.subplots(len(rows), count, squeeze=False, subplot_kw={"xticks": [], "yticks": []})
    for column in range(count):
        axes[0][column].imshow(pictures[column])
        if titles is not None:
            axes[0][column].set_title(titles[column], fontsize=9, parse_math=False)
        if outlines is not None:
            axes[1][column].imshow(outlines[column], cmap="gray", vmin=0, vmax=1)
        for axis, values in zip(axes[-len(maps) :, column], maps.values(), strict=True):
            limit = np.abs(values[column]).max() or 1
            # a map of another resolution covers the same area
            extent = (-0.5, width - 0.5, height - 0.5, -0.5)
            drawn = axis.imshow(values[column], cmap=COLOUR_MAP, vmin=-limit, vmax=limit, extent=extent)
            # Matplotlib warns about a mask without an edge, and cannot draw one of a single row
            if outlines is not None and min(height, width) > 1 and outlines[column].min() < outlines[column].max():
                axis.contour(outlines[column], levels=[0.5], colors="black", linewidths=0.6)
    for label, axis in zip(rows, axes[:, 0], strict=True):
        axis.set_ylabel(label, fontsize=9, parse_math=False)
    if colour_bar:
        # beside the heatmaps, but taking its space from all rows, so that images and heatmaps stay aligned
        share = len(maps) / len(rows)
        anchor = (0.0, 0.1 * share / (1 - 0.8 * share))
        every = axes.ravel().tolist()
        bar = figure.colorbar(drawn, ax=every, shrink=0.8 * share, anchor=anchor, ticks=[-limit, 0, limit])
        bar.ax.set_yticklabels(["against the class", "0", "for the class"], fontsize=8)
    return figure


def image_batch(images: Any) -> Array:
    """Return images as ``(N, H, W, 3)``; grey images get three equal channels.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If they are not finite images of shape (N, 3, H, W) or (N, 1, H, W) with values in [0, 1].
    """
    array = numbers("images", images)
    if array.ndim != 4 or array.shape[1] not in (1, 3) or array.size == 0:
        raise InvalidValueError(f"images must have shape (N, 3, H, W) or (N, 1, H, W); got {array.shape}")
    if array.min() < 0 or array.max() > 1:
        interval = f"[0, 1]; got {array.min():.4g} to {array.max():.4g}"
        raise InvalidValueError(f"images must lie in {interval}; undo their normalisation first")
    return np.broadcast_to(array.transpose(0, 2, 3, 1), (len(array), *array.shape[2:], 3))


def mask_batch(masks: Any, shape: tuple[int, int, int]) -> Array:
    """Return masks as ``(N, H, W)``.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If they have values other than 0 and 1, or differ from the images in number and size, `shape`.
    """
    array = numbers("masks", masks)
    flat = array[:, 0] if array.ndim == 4 and array.shape[1] == 1 else array
    if flat.shape != shape:
        raise InvalidValueError(f"masks must have shape {shape} or {(shape[0], 1, *shape[1:])}; got {array.shape}")
    if not np.isin(flat, (0, 1)).all():
        raise InvalidValueError("masks must be 1 on the foreground and 0 elsewhere; got other values")
    return flat


def heatmap_batch(name: str, heatmaps: Any, count: int) -> Array:
    """Return heatmaps as ``(N, h, w)``, summed over their channels.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If they are not finite, or there is not one for each of `count` images.
    """
    array = numbers(f"heatmaps[{name!r}]", heatmaps)
    if array.ndim not in (3, 4) or len(array) != count or array.size == 0:
        shapes = f"({count}, H, W) or ({count}, C, H, W), one for each image"
        raise InvalidValueError(f"heatmaps[{name!r}] must have shape {shapes}; got {array.shape}")
    return array.sum(1) if array.ndim == 4 else array


def share_by_class(
    shares: Shares, labels: Tensor | Sequence[int], classes: Sequence[str], *, expected: Shares | None = None
) -> Figure:
    """Draw one line per class: the shares of |relevance| on the background of its images.

    Parameters
    ----------
    shares : Tensor or sequence of float
        ``(n,)`` in [0, 1]; leave out images with an undefined share.
    labels : Tensor or sequence of int
        ``(n,)``, the class of each image.
    classes : sequence of str
        Name of each class.
    expected : Tensor or sequence of float, optional
        ``(n,)``, the share that uniform relevance would have: the background fraction of each image's area. A marker
        shows its mean for each class.

    Returns
    -------
    Figure
        Classes sorted by median, the highest on top, and only the 30 highest, so that names stay readable. A thin line
        spans the lowest to the highest share, a thick line the middle half of the images. Classes without images are
        left out.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If lengths differ, a share is undefined or outside [0, 1], or a label is not a class.
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
    try:
        whole = torch.as_tensor(labels, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidTypeError(f"labels must be integers; got {type(labels).__name__}: {error}") from error
    members = as_integers("labels", whole, values.shape, whole.device, len(classes)).numpy()
    areas = None if expected is None else share_list("expected", expected)
    if areas is not None and len(areas) != len(values):
        raise InvalidValueError(f"expected must have one entry for each of {len(values)} shares; got {len(areas)}")
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


def share_histogram(shares: Mapping[str, Shares], *, expected: Shares | None = None) -> Figure:
    """Draw histograms of the images' shares of |relevance| on the background.

    Parameters
    ----------
    shares : mapping of str to Tensor or sequence of float
        Model name in the legend to the shares of its images ``(n,)`` in [0, 1]; leave out images with an undefined
        share.
    expected : Tensor or sequence of float, optional
        ``(n,)``, the shares that uniform relevance would have; a line shows their mean.

    Returns
    -------
    Figure
        Twenty bins of equal width per model.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If there is no model, or a share is undefined or outside [0, 1].
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
        axis.hist(values, BINS, histtype="stepfilled", facecolor=(colour, 0.35), edgecolor=colour, label=name)
    if mean is not None:
        axis.axvline(mean, color="black", linestyle="--", label="background's share of the area")
    axis.set(xlim=(0, 1), xlabel=X_LABEL, ylabel="images")
    for text in figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False).get_texts():
        text.set_parse_math(False)
    return figure


def training_curves(panels: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Draw panels side by side, each with its lines over the epochs.

    Parameters
    ----------
    panels : mapping of str to mapping of str to sequence of float
        Vertical axis label of each panel to its lines; name of each line to its values, from epoch 1 on. A NaN leaves a
        gap, for epochs without a measurement.

    Returns
    -------
    Figure
        One axes per panel, from left to right.

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
            values = numbers(f"panels[{label!r}][{name!r}]", line, finite=False)
            if values.ndim != 1 or not len(values):
                raise InvalidValueError(f"panels[{label!r}][{name!r}] must have shape (n,), n ≥ 1; got {values.shape}")
            style = {"color": COLOURS[index % len(COLOURS)], "marker": "." if len(values) <= 50 else None}
            axis.plot(np.arange(1, len(values) + 1), values, label=name, **style)
        axis.set_xlabel("epoch")
        axis.set_ylabel(label, parse_math=False)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        for text in axis.legend(fontsize=8).get_texts():
            text.set_parse_math(False)
    return figure


def share_list(name: str, shares: Any) -> Array:
    """Return shares as ``(n,)``.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If they are not one-dimensional, or outside [0, 1]; NaN (an undefined share) is refused too.
    """
    array = numbers(name, shares)
    if array.ndim != 1 or not len(array):
        raise InvalidValueError(f"{name} must have shape (n,) with at least one share; got {array.shape}")
    if array.min() < 0 or array.max() > 1:
        raise InvalidValueError(f"{name} must lie in [0, 1]; got {array.min():.4g} to {array.max():.4g}")
    return array


def empty_figure(width: float, height: float) -> Figure:
    """Return an empty figure without a window, outside Matplotlib's global state.

    Parameters
    ----------
    width, height : float
        Size in inches.

    Returns
    -------
    Figure
        With a layout that keeps labels from overlapping.

    Raises
    ------
    MissingDependencyError
        If Matplotlib is not installed.
    """
    matplotlib = import_optional("matplotlib.figure", "matplotlib", extra="plotting")
    figure: Figure = matplotlib.Figure(figsize=(width, height), layout="constrained")
    return figure


def numbers(name: str, values: Any, *, finite: bool = True) -> Array:
    """Return a copy of a tensor, array or sequence of numbers in float64.

    Raises
    ------
    InvalidTypeError
        If `values` does not consist of real numbers.
    InvalidValueError
        If a value is NaN or infinite, unless `finite` is false.
    """
    if isinstance(values, (list, tuple)):  # such as losses that were kept with their graph
        values = [value.detach() if isinstance(value, Tensor) else value for value in values]
    try:
        tensor = values.detach() if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidTypeError(f"{name} must consist of numbers; got {type(values).__name__}: {error}") from error
    if tensor.is_complex():
        raise InvalidTypeError(f"{name} must consist of real numbers; got {tensor.dtype}")
    array: Array = tensor.to("cpu", torch.float64, copy=True).numpy()
    broken = ~np.isfinite(array)
    if finite and broken.any():
        first = tuple(np.argwhere(broken)[0].tolist())
        raise InvalidValueError(f"{name} must be finite; got {broken.sum()} NaN or infinite values, first at {first}")
    return array


def check_rows(name: str, rows: Any, each: str) -> None:
    """Raise unless `rows` maps at least one label to something.

    Raises
    ------
    InvalidTypeError
        If it is not a mapping.
    InvalidValueError
        If it is empty.
    """
    if not isinstance(rows, Mapping):
        raise InvalidTypeError(f"{name} must map the name of each {each} to its values; got {type(rows).__name__}")
    if not rows:
        raise InvalidValueError(f"{name} must have at least one {each}; got an empty mapping")
