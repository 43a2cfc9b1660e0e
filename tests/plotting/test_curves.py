"""Curves of a training, and of the terms of the loss."""

import math

import numpy as np
import pytest
import torch

from zennit_isnet.errors import InvalidTypeError, InvalidValueError, MissingDependencyError
from zennit_isnet.plotting import background_term, foreground_term, heatmap_panel, rank_weights, training_curves


def test_each_panel_has_its_lines_counted_from_one() -> None:
    figure = training_curves({"loss": {"a": [3.0, math.nan, 1.0], "b": [1.0]}, "accuracy": {"a": [0.5, 0.6]}})
    loss, accuracy = figure.axes
    assert (loss.get_ylabel(), accuracy.get_ylabel()) == ("loss", "accuracy")
    assert [line.get_label() for line in loss.lines] == ["a", "b"]
    assert loss.lines[0].get_xdata().tolist() == [1, 2, 3]
    np.testing.assert_array_equal(loss.lines[0].get_ydata(), [3, math.nan, 1])


def test_refuses_panels_without_lines() -> None:
    for panels in ({}, {"loss": {}}, {"loss": {"a": []}}, {"loss": {"a": [[1.0]]}}):
        with pytest.raises(InvalidValueError):
            training_curves(panels)
    with pytest.raises(InvalidTypeError, match="mapping"):
        training_curves({"loss": [1.0, 2.0]})
    with pytest.raises(InvalidTypeError, match=r"panels\['loss'\]\['a'\]"):
        training_curves({"loss": {"a": ["low"]}})


def test_background_term_is_minus_log_of_one_minus_b() -> None:
    by_share, by_background = background_term((1.0, 4.0)).axes
    (line,) = by_share.lines
    np.testing.assert_allclose(line.get_ydata(), -np.log1p(-line.get_xdata().astype(np.float64)), rtol=1e-4)
    for line, scale in zip(by_background.lines, (1.0, 4.0), strict=True):
        background = np.asarray(line.get_xdata(), dtype=np.float64)
        np.testing.assert_allclose(line.get_ydata(), -np.log(1 - background / (background + scale)), rtol=1e-4)


@pytest.mark.parametrize("decay", [0.25, 0.9, 1.0])
def test_rank_weights_are_powers_of_the_decay_that_sum_to_one(decay: float) -> None:
    (line,) = rank_weights((decay,), ranks=20).axes[0].lines
    powers = decay ** np.arange(20)
    np.testing.assert_allclose(line.get_ydata(), powers / powers.sum(), rtol=1e-10)


def test_foreground_term_is_zero_in_the_range_and_variants_part_above_it() -> None:
    (axis,) = foreground_term(1.0, 5.0).axes
    lines = {line.get_label(): np.asarray(line.get_ydata()) for line in axis.lines}
    total = np.asarray(axis.lines[0].get_xdata())
    inside, far = (total >= 1) & (total <= 5), total > 6.01
    for values in lines.values():
        assert not values[inside].any()
        assert values[0] == 1
    assert (lines["squared"][far] > lines["hybrid"][far]).all()
    np.testing.assert_allclose(lines["squared"][~far], lines["hybrid"][~far], atol=0.05)


def test_refuses_numbers_that_the_loss_refuses() -> None:
    for draw in (lambda: background_term((0.0,)), lambda: rank_weights((1.5,)), lambda: foreground_term(5.0, 1.0)):
        with pytest.raises(InvalidValueError):
            draw()
    for draw in (lambda: background_term(()), lambda: rank_weights(()), lambda: rank_weights(ranks=1)):
        with pytest.raises(InvalidValueError, match="at least"):
            draw()
    with pytest.raises(InvalidValueError, match="highest must lie in"):
        background_term(highest=-3.0)
    with pytest.raises(InvalidTypeError, match="scales must be a sequence of numbers"):
        background_term(1.0)


def test_missing_matplotlib_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "zennit-isnet\[plotting\]"'):
        heatmap_panel(torch.rand(1, 3, 4, 4), None, {"plain": torch.rand(1, 4, 4)})
