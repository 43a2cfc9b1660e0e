"""The panel: what its artists show, and what it refuses."""

import sys

import matplotlib.pyplot
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from zennit_isnet.errors import InvalidTypeError, InvalidValueError, ISNetError, MissingDependencyError
from zennit_isnet.plotting import heatmap_panel


def limits(axis: Axes) -> tuple[float, float]:
    (picture,) = axis.images
    return picture.get_clim()


def grid(figure: Figure, rows: int) -> list[list[Axes]]:
    """The axes by row, without the colour bar."""
    axes = figure.axes[:-1]
    columns = len(axes) // rows
    return [axes[row * columns : (row + 1) * columns] for row in range(rows)]


def test_has_a_row_for_images_masks_and_each_set_of_heatmaps(images: Tensor, masks: Tensor, relevance: Tensor) -> None:
    figure = heatmap_panel(images, masks, {"plain": relevance, "ISNet": -relevance}, ["cat", "dog"])
    rows = grid(figure, 4)
    assert [row[0].get_ylabel() for row in rows] == ["image", "foreground mask", "plain", "ISNet"]
    assert [axis.get_title() for axis in rows[0]] == ["cat", "dog"]
    for column in range(2):
        shown = [np.asarray(row[column].images[0].get_array()) for row in rows]
        np.testing.assert_allclose(shown[0], images[column].permute(1, 2, 0))
        np.testing.assert_array_equal(shown[1], masks[column, 0])
        np.testing.assert_allclose(shown[2], relevance[column])
        np.testing.assert_allclose(shown[3], -relevance[column])


def test_without_masks_there_is_no_row_and_no_outline(images: Tensor, relevance: Tensor) -> None:
    rows = grid(heatmap_panel(images, None, {"plain": relevance}), 2)
    assert [row[0].get_ylabel() for row in rows] == ["image", "plain"]
    assert not any(axis.collections for axis in rows[1])


def test_zero_is_in_the_middle_and_each_map_reaches_the_full_colours(
    images: Tensor, masks: Tensor, relevance: Tensor
) -> None:
    _, _, row = grid(heatmap_panel(images, masks, {"plain": relevance}), 3)
    for axis, values in zip(row, relevance, strict=True):
        low, high = limits(axis)
        assert -low == high == pytest.approx(values.abs().max().item())


def test_map_of_zeros_is_white(images: Tensor, masks: Tensor) -> None:
    _, _, row = grid(heatmap_panel(images, masks, {"plain": torch.zeros(2, 6, 8)}), 3)
    (picture,) = row[0].images
    assert min(picture.to_rgba(picture.get_array())[0, 0]) > 0.96


def test_outline_runs_around_the_foreground(images: Tensor, masks: Tensor, relevance: Tensor) -> None:
    _, _, row = grid(heatmap_panel(images, masks, {"plain": relevance}), 3)
    for axis, mask in zip(row, masks[:, 0], strict=True):
        (outline,) = axis.collections
        (path,) = outline.get_paths()
        inside = [[path.contains_point((x, y)) for x in range(8)] for y in range(6)]
        np.testing.assert_array_equal(inside, mask.bool())


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_mask_without_an_edge_has_no_outline(images: Tensor, relevance: Tensor, value: float) -> None:
    _, _, row = grid(heatmap_panel(images, torch.full((2, 6, 8), value), {"plain": relevance}), 3)
    assert not any(axis.collections for axis in row)


def test_images_of_one_row_have_no_outline() -> None:
    mask = torch.tensor([0, 1, 1, 0]).view(1, 1, 1, 4)
    _, _, row = grid(heatmap_panel(torch.rand(1, 3, 1, 4), mask, {"plain": torch.rand(1, 1, 4)}), 3)
    assert not row[0].collections


def test_map_of_an_inner_layer_covers_the_picture_and_sums_its_channels(
    images: Tensor, masks: Tensor, generator: torch.Generator
) -> None:
    relevance = torch.randn(2, 5, 3, 4, generator=generator)
    rows = grid(heatmap_panel(images, masks, {"layer": relevance}), 3)
    for column in range(2):
        (picture,) = rows[2][column].images
        assert tuple(picture.get_extent()) == tuple(rows[0][column].images[0].get_extent())
        np.testing.assert_allclose(picture.get_array(), relevance[column].sum(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2])
def test_images_and_heatmaps_are_aligned_beside_the_colour_bar(images: Tensor, relevance: Tensor, count: int) -> None:
    figure = heatmap_panel(images[:count], None, {"cat\n90 %": relevance[:count], "dog\n10 %": relevance[:count]})
    figure.draw_without_rendering()
    for column in zip(*grid(figure, 3), strict=True):
        np.testing.assert_allclose([axis.get_position().x0 for axis in column], column[0].get_position().x0, atol=1e-6)
    bar, rows = figure.axes[-1].get_position(), [row[0].get_position() for row in grid(figure, 3)]
    assert rows[2].y0 <= bar.y0 < bar.y1 <= rows[1].y1


def test_grey_images_and_masks_of_booleans_are_drawn(masks: Tensor, relevance: Tensor) -> None:
    figure = heatmap_panel(torch.rand(2, 1, 6, 8), masks.bool(), {"plain": relevance.bfloat16()})
    picture = np.asarray(figure.axes[0].images[0].get_array())
    assert picture.shape == (6, 8, 3)
    np.testing.assert_array_equal(picture[..., 0], picture[..., 2])


def test_inputs_and_global_state_stay_and_the_figure_belongs_to_no_window(
    images: Tensor, masks: Tensor, relevance: Tensor
) -> None:
    before = [tensor.clone() for tensor in (images, masks, relevance)]
    settings = dict(matplotlib.rcParams)
    heatmap_panel(images, masks, {"plain": relevance.requires_grad_()})
    assert all(torch.equal(*pair) for pair in zip(before, (images, masks, relevance), strict=True))
    assert dict(matplotlib.rcParams) == settings
    assert matplotlib.pyplot.get_fignums() == []


def test_refuses_what_cannot_be_drawn(images: Tensor, masks: Tensor, relevance: Tensor) -> None:
    broken = relevance.clone()
    broken[1, 2, 3] = torch.nan
    maps = {"plain": relevance}
    refused: list[tuple[tuple, type[ISNetError], str]] = [
        ((images, masks, {"plain": broken}), InvalidValueError, r"heatmaps\['plain'\] .* NaN .* \(1, 2, 3\)"),
        ((images, masks, {"plain": relevance[:1]}), InvalidValueError, r"shape \(2, H, W\).* got \(1, 6, 8\)"),
        ((images, masks, {"plain": relevance[0]}), InvalidValueError, r"got \(6, 8\)"),
        ((images, masks, {}), InvalidValueError, "at least one row"),
        ((images, masks, relevance), InvalidTypeError, "heatmaps must map the name of each row .* got Tensor"),
        (
            (images, masks[..., 1:], maps),
            InvalidValueError,
            r"masks must have shape .*\(2, 1, 6, 8\)",
        ),
        ((images, 255 * masks, maps), InvalidValueError, "1 on the foreground"),
        ((2 * images, masks, maps), InvalidValueError, r"\[0, 1\]; got .* normalisation"),
        ((images[:, :2], masks, maps), InvalidValueError, r"images must have shape .* got \(2, 2, 6, 8\)"),
        (("cat.png", masks, maps), InvalidTypeError, "images must consist of numbers; got str"),
        ((images, masks, maps, ["cat"]), InvalidValueError, "titles must have one entry for each of 2 images; got 1"),
    ]
    for arguments, error, message in refused:
        with pytest.raises(error, match=message):
            heatmap_panel(*arguments)


def test_missing_matplotlib_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "zennit-isnet\[plotting\]"'):
        heatmap_panel(torch.rand(1, 3, 4, 4), None, {"plain": torch.rand(1, 4, 4)})
