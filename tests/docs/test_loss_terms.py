"""The figures of the page on the loss show what the loss computes."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np

FIGURES = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "_ext" / "loss_terms.py"))


def test_background_term_is_minus_log_of_one_minus_b() -> None:
    by_share, by_background = FIGURES["background_term"]((1.0, 4.0), highest=20.0).axes
    (line,) = by_share.lines
    np.testing.assert_allclose(line.get_ydata(), -np.log1p(-line.get_xdata().astype(np.float64)), rtol=1e-4)
    for line, scale in zip(by_background.lines, (1.0, 4.0), strict=True):
        background = np.asarray(line.get_xdata(), dtype=np.float64)
        np.testing.assert_allclose(line.get_ydata(), -np.log(1 - background / (background + scale)), rtol=1e-4)


def test_rank_weights_are_powers_of_the_decay_that_sum_to_one() -> None:
    decays = (0.25, 0.9, 1.0)
    for decay, line in zip(decays, FIGURES["rank_weights"](decays, ranks=20).axes[0].lines, strict=True):
        powers = decay ** np.arange(20)
        np.testing.assert_allclose(line.get_ydata(), powers / powers.sum(), rtol=1e-10)


def test_foreground_term_is_zero_in_the_range_and_variants_part_above_it() -> None:
    (axis,) = FIGURES["foreground_term"](1.0, 5.0).axes
    lines = {line.get_label(): np.asarray(line.get_ydata()) for line in axis.lines}
    total = np.asarray(axis.lines[0].get_xdata())
    inside, far = (total >= 1) & (total <= 5), total > 6.01
    for values in lines.values():
        assert not values[inside].any()
        assert values[0] == 1
    assert (lines["squared"][far] > lines["hybrid"][far]).all()
    np.testing.assert_allclose(lines["squared"][~far], lines["hybrid"][~far], atol=0.05)
