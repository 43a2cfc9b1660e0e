"""A panel of images, foreground masks and signed heatmaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from zennit_isnet.errors import InvalidValueError
from zennit_isnet.plotting.canvas import Array, check_rows, empty_figure, finite

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOUR_MAP = "RdBu_r"
"""Blue, white, red: zero is white, and colour-blind readers tell both ends apart."""


def heatmap_panel(
    images: Tensor,
    masks: Tensor | None,
    heatmaps: Mapping[str, Tensor],
    titles: Sequence[str] | None = None,
    *,
    colour_bar: bool = True,
) -> Figure:
    """Draw one column for each image: the image, its mask, and one row for each entry of `heatmaps`.

    Red speaks for the explained quantity, blue against it, and white is zero in every map. Each map reaches the full
    colours by itself, because maps of different models differ in size without meaning: they show where relevance lies,
    not how much. A line surrounds the foreground.

    Parameters
    ----------
    images : Tensor
        ``(N, 3, H, W)`` or ``(N, 1, H, W)`` in [0, 1].
    masks : Tensor or None
        ``(N, 1, H, W)`` or ``(N, H, W)``, 1 on the foreground; None leaves the row of masks out.
    heatmaps : mapping of str to Tensor
        Row label to signed relevance ``(N, h, w)``, or ``(N, C, h, w)``, which is summed over the channels. A map of
        another resolution than the image, as of an inner layer, is stretched over it.
    titles : sequence of str, optional
        One for each image, such as the name of its class.
    colour_bar : bool, default=True
        Whether a bar beside the maps explains the colours.

    Returns
    -------
    Figure
        Row by row, then the colour bar.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If a tensor has the wrong shape or values, NaN among them, or titles are not one for each image.
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
        raise InvalidValueError(f"titles must have one entry for each image, {count}; got {len(titles)}")

    rows = ["image", *([] if outlines is None else ["foreground mask"]), *maps]
    first = len(rows) - len(maps)
    figure = empty_figure(1.25 * count + (2.2 if colour_bar else 0.6), 1.3 * len(rows) + 0.4)
    axes = figure.subplots(len(rows), count, squeeze=False)
    for column in range(count):
        axes[0][column].imshow(pictures[column])
        if titles is not None:
            axes[0][column].set_title(titles[column], fontsize=9, parse_math=False)
        if outlines is not None:
            axes[1][column].imshow(outlines[column], cmap="gray", vmin=0, vmax=1)
        for axis, values in zip(axes[first:, column], maps.values(), strict=True):
            limit = np.abs(values[column]).max() or 1
            # a map of another resolution covers the same picture
            extent = (-0.5, width - 0.5, height - 0.5, -0.5)
            drawn = axis.imshow(values[column], cmap=COLOUR_MAP, vmin=-limit, vmax=limit, extent=extent)
            # Matplotlib warns about a mask that has no edge
            if outlines is not None and outlines[column].min() < outlines[column].max():
                axis.contour(outlines[column], levels=[0.5], colors="black", linewidths=0.6)
    for label, row in zip(rows, axes, strict=True):
        row[0].set_ylabel(label, fontsize=9, parse_math=False)
        for axis in row:
            axis.set(xticks=[], yticks=[])
    if colour_bar:
        bar = figure.colorbar(drawn, ax=axes[first:].ravel().tolist(), shrink=0.8, ticks=[-limit, 0, limit])
        bar.ax.set_yticklabels(["against the class", "0", "for the class"], fontsize=8)
    return figure


def image_batch(images: Any) -> Array:
    """Return images as ``(N, H, W, 3)``, grey ones as three equal channels.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If they are no finite images of shape (N, 3, H, W) or (N, 1, H, W) with values in [0, 1].
    """
    array = finite("images", images)
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
        If they are not made of 0 and 1, or do not have the images' number and size, `shape`.
    """
    array = finite("masks", masks)
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
        If they are not finite, or not one for each of `count` images.
    """
    array = finite(f"heatmaps[{name!r}]", heatmaps)
    if array.ndim not in (3, 4) or len(array) != count or array.size == 0:
        shapes = f"({count}, H, W) or ({count}, C, H, W), one for each image"
        raise InvalidValueError(f"heatmaps[{name!r}] must have shape {shapes}; got {array.shape}")
    return array.sum(1) if array.ndim == 4 else array
