"""A picture of images, foreground masks and signed heatmaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor


def heatmap_panel(images: Tensor, masks: Tensor, heatmaps: Mapping[str, Tensor], titles: Sequence[str]) -> Figure:
    """Draw one column for each image: the image, its mask, and one row for each entry of `heatmaps`.

    Parameters
    ----------
    images : Tensor
        ``(N, 3, H, W)`` in [0, 1].
    masks : Tensor
        ``(N, 1, H, W)``, 1 on the foreground.
    heatmaps : mapping of str to Tensor
        Row label to signed relevance ``(N, H, W)``. Each map is scaled by its own largest magnitude, so that zero is
        white in all of them.
    titles : sequence of str
        One for each image.

    Returns
    -------
    Figure
        With a legend of the colours; the outline in each heatmap is the foreground.
    """
    rows = ["image", "foreground mask", *heatmaps]
    figure = Figure(figsize=(1.25 * len(images) + 2.2, 1.3 * len(rows) + 0.4), layout="constrained")
    axes = figure.subplots(len(rows), len(images), squeeze=False)
    colours = colormaps["RdBu_r"]
    for column, (image, mask) in enumerate(zip(images, masks[:, 0], strict=True)):
        axes[0][column].imshow(image.permute(1, 2, 0))
        axes[0][column].set_title(titles[column], fontsize=9)
        axes[1][column].imshow(mask, cmap="gray", vmin=0, vmax=1)
        for row, maps in enumerate(heatmaps.values(), start=2):
            relevance = maps[column] / maps[column].abs().max().clamp(min=1e-30)
            axes[row][column].imshow(relevance, cmap=colours, vmin=-1, vmax=1)
            axes[row][column].contour(mask.float(), levels=[0.5], colors="black", linewidths=0.6)
    for row, label in enumerate(rows):
        axes[row][0].set_ylabel(label, fontsize=9)
        for axis in axes[row]:
            axis.set_xticks([])
            axis.set_yticks([])
    scale = ScalarMappable(Normalize(-1, 1), colours)
    bar = figure.colorbar(scale, ax=axes[2:].ravel().tolist(), shrink=0.8, ticks=[-1, 0, 1])
    bar.ax.set_yticklabels(["against the class", "0", "for the class"], fontsize=8)
    return figure
