"""The regularizer that the command line asks for, and the background share that its heatmaps show."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor, nn

from zennit_isnet import Dual, HeatmapLoss, ISNetRegularizer, LRPFlex, Original, Selective, Stochastic, ZPlus
from zennit_isnet.functional import resize_foreground

FORMULATIONS = ("stochastic", "selective", "dual", "original")


class LossWithShare(nn.Module):
    """A heatmap loss that keeps the background share of the heatmaps at the images.

    Parameters
    ----------
    loss : callable
        ``loss(relevance, foreground, c1, c2) -> (N,)``.
    """

    def __init__(self, loss: HeatmapLoss) -> None:
        super().__init__()
        self.loss = loss
        self._shares: list[Tensor] = []

    def forward(self, relevance: Tensor, foreground: Tensor, c1: float, c2: float) -> Tensor:
        """Return the loss of each image."""
        # inner layers have fewer cells than the masks
        if relevance.shape[3:] == foreground.shape[2:]:
            self._shares.append(background_share(relevance.detach(), foreground))
        loss: Tensor = self.loss(relevance, foreground, c1, c2)
        return loss

    def take_shares(self) -> list[Tensor]:
        """Return the `background_share` ``(N,)`` of each set of heatmaps since the last time; Dual makes two."""
        shares, self._shares = self._shares, []
        return shares


def background_share(relevance: Tensor, foreground: Tensor) -> Tensor:
    """Return the share of |relevance| that lies on the background.

    Parameters
    ----------
    relevance : Tensor
        ``(N, K, C, H, W)``.
    foreground : Tensor
        ``(N, 1, H, W)``, 1 on the object.

    Returns
    -------
    Tensor
        ``(N,)`` in [0, 1]; NaN where there is no relevance, or no background, which a mask of ones also says of an
        image without a mask.
    """
    magnitude = relevance.float().abs().sum((1, 2))
    background = 1 - resize_foreground(foreground, magnitude.shape[1:])[:, 0]
    share = (magnitude * background).flatten(1).sum(1) / magnitude.flatten(1).sum(1)
    return torch.where(background.flatten(1).any(1), share, torch.nan)


def make_regularizer(
    model: nn.Module, options: argparse.Namespace, box: tuple[Any, Any] | None, *, seed: int
) -> ISNetRegularizer:
    """Return the regularizer of a model.

    Parameters
    ----------
    model : Module
        Perhaps in `DistributedDataParallel`.
    options : Namespace
        ``formulation``, ``layers``, ``box``, ``epsilon``, ``decay`` and ``every``.
    box : tuple, optional
        Bounds of the images as the model gets them; used with ``--box``.
    seed : int
        Of the draws of Stochastic; another one for each process.
    """
    box = box if options.box else None
    formulation = {
        "stochastic": lambda: Stochastic(torch.Generator().manual_seed(seed)),
        "selective": Selective,
        "dual": lambda: Dual(ZPlus(box=box)),
        "original": Original,
    }[options.formulation]()
    return ISNetRegularizer(
        model,
        composite=LRPFlex(options.epsilon, box),
        formulation=formulation,
        loss=LossWithShare(HeatmapLoss(decay=options.decay)),
        layers=options.layers,
        every=options.every,
    )
