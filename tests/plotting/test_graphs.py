"""Graphs: shares of relevance by class and by model, and curves of a training."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.plotting import share_by_class, share_histogram, training_curves

CLASSES = ["cat", "dog", "owl"]


@pytest.fixture
def shares(generator: torch.Generator) -> Tensor:
    return torch.rand(40, generator=generator)


@pytest.fixture
def labels() -> Tensor:
    """Cats and owls, but no dog."""
    return torch.arange(40) % 2 * 2


def test_class_with_the_highest_median_is_on_top(shares: Tensor, labels: Tensor) -> None:
    shares[labels == 0] /= 2
    (axis,) = share_by_class(shares, labels, CLASSES).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["cat", "owl"]
    (medians,) = axis.lines
    np.testing.assert_allclose(medians.get_xdata(), [np.median(shares[labels == label]) for label in (0, 2)])
    assert list(medians.get_ydata()) == [1, 2]


def test_lines_reach_over_all_images_and_over_the_middle_half(shares: Tensor, labels: Tensor) -> None:
    (axis,) = share_by_class(shares, labels, CLASSES).axes
    for lines, ends in zip(axis.collections, [(0, 100), (25, 75)], strict=True):
        drawn = {tuple(segment[:, 0].tolist()) for segment in lines.get_segments()}
        assert drawn == {tuple(np.percentile(shares[labels == label].double(), ends).tolist()) for label in (0, 2)}


def test_mark_shows_the_share_of_uniform_relevance(shares: Tensor, labels: Tensor) -> None:
    (axis,) = share_by_class(shares, labels, CLASSES, expected=torch.where(labels == 0, 0.25, 0.75)).axes
    names = [label.get_text() for label in axis.get_yticklabels()]
    marks = dict(zip(names, axis.lines[1].get_xdata(), strict=True))
    assert marks == pytest.approx({"cat": 0.25, "owl": 0.75})


def test_only_the_worst_classes_are_drawn_where_there_are_many() -> None:
    shares = torch.arange(100) / 100
    (axis,) = share_by_class(shares, list(range(100)), [f"class {i}" for i in range(100)]).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == [f"class {i}" for i in range(70, 100)]
    assert "30 of 100" in axis.get_title()


def test_histogram_counts_every_image_of_every_model(shares: Tensor) -> None:
    edges = torch.tensor([0.0, 1.0])
    figure = share_histogram({"plain": shares, "ISNet": edges}, expected=[0.5, 0.7])
    (axis,) = figure.axes
    heights = [patch.get_xy()[:, 1].max() for patch in axis.patches]
    counts, _ = np.histogram(shares, 20, (0, 1))
    assert heights == [counts.max(), 1]
    assert axis.lines[0].get_xdata() == pytest.approx([0.6, 0.6])
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert set(names) == {"plain", "ISNet", "background's share of the area"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.5, float("nan")], "finite; got 1 NaN"),
        ([1.5], r"\[0, 1\]; got 1.5"),
        ([], "at least one"),
        ([[0.5]], r"\(n,\)"),
    ],
)
def test_refuses_what_is_no_share(values: list, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        share_histogram({"plain": values})
    with pytest.raises(InvalidValueError, match=message):
        share_by_class(values, [0] * len(values), CLASSES)


def test_refuses_what_does_not_fit_the_shares() -> None:
    with pytest.raises(InvalidValueError, match=r"labels must have shape \(2,\)"):
        share_by_class([0.1, 0.2], [0], CLASSES)
    with pytest.raises(InvalidValueError, match=r"labels .* 2; got \[3\]"):
        share_by_class([0.1, 0.2], [0, 3], CLASSES)
    with pytest.raises(InvalidValueError, match=r"expected .* 2 shares; got 1"):
        share_by_class([0.1, 0.2], [0, 1], CLASSES, expected=[0.5])
    with pytest.raises(InvalidTypeError, match="labels must be integers; got list"):
        share_by_class([0.1, 0.2], ["cat", "dog"], CLASSES)
    with pytest.raises(InvalidValueError, match="at least one model"):
        share_histogram({})
    with pytest.raises(InvalidTypeError, match=r"shares\['plain'\] must consist of numbers"):
        share_histogram({"plain": ["high"]})
    with pytest.raises(InvalidTypeError, match="shares must map the name of each model to its values; got list"):
        share_histogram([0.1])


def test_each_panel_has_its_lines_counted_from_one() -> None:
    figure = training_curves({"loss": {"a": [3.0, math.nan, 1.0], "b": [1.0]}, "accuracy": {"a": [0.5, 0.6]}})
    loss, accuracy = figure.axes
    assert (loss.get_ylabel(), accuracy.get_ylabel()) == ("loss", "accuracy")
    assert [line.get_label() for line in loss.lines] == ["a", "b"]
    assert loss.lines[0].get_xdata().tolist() == [1, 2, 3]
    np.testing.assert_array_equal(loss.lines[0].get_ydata(), [3, math.nan, 1])


def test_losses_that_were_kept_with_their_graph_are_drawn() -> None:
    losses = [torch.tensor(value, requires_grad=True) for value in (2.0, 1.0)]
    (axis,) = training_curves({"loss": {"a": losses}}).axes
    assert axis.lines[0].get_ydata().tolist() == [2, 1]


def test_names_are_not_formulas() -> None:
    name = "$\\frac$"
    training_curves({name: {name: [1.0, 2.0]}}).canvas.draw()
    share_histogram({name: [0.5]}).canvas.draw()
    share_by_class([0.5], [0], [name]).canvas.draw()


def test_refuses_panels_without_lines() -> None:
    for panels in ({}, {"loss": {}}, {"loss": {"a": []}}, {"loss": {"a": [[1.0]]}}):
        with pytest.raises(InvalidValueError):
            training_curves(panels)
    with pytest.raises(InvalidTypeError, match=r"panels\['loss'\] must map the name of each line"):
        training_curves({"loss": [1.0, 2.0]})
    with pytest.raises(InvalidTypeError, match=r"panels\['loss'\]\['a'\]"):
        training_curves({"loss": {"a": ["low"]}})
    with pytest.raises(InvalidTypeError, match=r"panels\['loss'\]\['a'\]"):
        training_curves({"loss": {"a": [[1.0], [2.0, 3.0]]}})
