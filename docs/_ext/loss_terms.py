"""The parts of the heatmap loss, each drawn against its argument by the function that the loss uses."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import get_args

import torch
from matplotlib.figure import Figure

from zennit_isnet.functional import background_loss, foreground_loss, gwrp
from zennit_isnet.functional.heatmap import ForegroundVariant
from zennit_isnet.plotting import COLOURS, empty_figure

POINTS = 500
LINE_STYLES = ("-", "--", ":", "-.")


def background_term(scales: Sequence[float], highest: float) -> Figure:
    """Draw the background term: left against b, where all E give the same curve, right against the background.

    `scales` are values of E; `highest` is the right end of the axis of the background, in units of the foreground's
    mean.
    """
    figure = empty_figure(8.4, 3.2)
    by_share, by_background = figure.subplots(1, 2)
    share = torch.linspace(0, 0.999, POINTS)
    by_share.plot(share, _background_loss(share / (1 - share), 1.0), color=COLOURS[0])
    by_share.set(xlabel="b", ylabel="background term  −log(1 − b)")
    background = torch.linspace(0, highest, POINTS)
    for scale, colour, style in zip(
        scales, cycle(COLOURS), cycle(LINE_STYLES), strict=False
    ):
        loss = _background_loss(background, scale)
        by_background.plot(
            background, loss, color=colour, linestyle=style, label=f"E = {scale:g}"
        )
    by_background.set(
        xlabel="pooled background / mean of the foreground", ylabel="background term"
    )
    by_background.legend(fontsize=8)
    for axis in (by_share, by_background):
        axis.grid(alpha=0.3)
    return figure


def rank_weights(
    decays: Sequence[float] = (0.5, 0.9, 0.996, 1.0), ranks: int = 1024
) -> Figure:
    """Draw the weights of global weighted rank pooling, the first of the hottest background pixel."""
    figure = empty_figure(5.6, 3.4)
    axis = figure.subplots()
    for decay, colour, style in zip(
        decays, cycle(COLOURS), cycle(LINE_STYLES), strict=False
    ):
        values = torch.linspace(1, 0, ranks, dtype=torch.float64).requires_grad_()
        # the pooling is linear in the sorted values, so its gradient holds their weights
        (weights,) = torch.autograd.grad(gwrp(values, decay), values)
        axis.plot(
            range(1, ranks + 1),
            weights,
            color=colour,
            linestyle=style,
            label=f"d = {decay:g}",
        )
    axis.set(
        xscale="log",
        yscale="log",
        ylim=(1e-6, 1.5),
        xlabel="rank of the pixel",
        ylabel="weight",
    )
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)
    return figure


def foreground_term(c1: float = 1.0, c2: float = 5.0) -> Figure:
    """Draw both variants of the foreground term against the total |relevance| of the foreground."""
    total = torch.linspace(0, c2 + 4 * c1, POINTS)
    figure = empty_figure(5.6, 3.4)
    axis = figure.subplots()
    axis.axvspan(c1, c2, color=COLOURS[2], alpha=0.15, label="C₁ to C₂")
    heatmaps, foreground = total.reshape(-1, 1, 1, 1, 1), torch.ones(POINTS, 1, 1)
    for variant, colour, style in zip(
        get_args(ForegroundVariant), COLOURS, LINE_STYLES, strict=False
    ):
        loss = foreground_loss(heatmaps, foreground, c1, c2, variant=variant)
        axis.plot(total, loss, linestyle=style, color=colour, label=variant)
    axis.set(xlabel="total |relevance| on the foreground", ylabel="foreground term")
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)
    return figure


def _background_loss(background: torch.Tensor, scale: float) -> torch.Tensor:
    """Loss of heatmaps of two pixels, relevance 1 on the foreground and `background` beside it."""
    heatmaps = torch.stack([torch.ones_like(background), background], dim=1)
    foreground = torch.tensor([1.0, 0.0]).expand(len(background), 1, 2)
    # the smallest decay takes the maximum, which is the background pixel itself
    return background_loss(
        heatmaps[:, None, None, None], foreground, decay=1e-30, background_scale=scale
    )
