"""The regularizer that the command line asks for, and the background share that its heatmaps show."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor, nn

from zennit_isnet import HeatmapLoss, ISNetRegularizer, LRPFlex, Original, Selective, Stochastic, ZPlus
from zennit_isnet.formulations import AllLogits
from zennit_isnet.functional import background_share
from zennit_isnet.regularizer import EveryNth

FORMULATIONS = ("stochastic", "selective", "dual", "original")


class LossWithShare(nn.Module):
    """A heatmap loss that tells, when asked, which share of the heatmaps at the images lies on the background.

    Parameters
    ----------
    loss : callable
        ``loss(relevance, foreground, c1, c2) -> (N,)``.

    Attributes
    ----------
    measuring : bool
        Whether calls take note of shares, for which an accelerator has to wait.
    """

    def __init__(self, loss: HeatmapLoss) -> None:
        super().__init__()
        self.loss = loss
        self.measuring = False
        self._shares: list[Tensor] = []

    def forward(self, relevance: Tensor, foreground: Tensor, c1: float, c2: float) -> Tensor:
        """Return the loss of each image."""
        # inner layers have fewer cells than the masks; a diverged model is found by its loss
        if self.measuring and relevance.shape[3:] == foreground.shape[2:] and bool(relevance.isfinite().all()):
            share = background_share(relevance.detach(), foreground, undefined="skip")
            # the regularizer gives a mask of ones to images without a mask
            self._shares.append(share[~foreground.flatten(1).all(1)])
        loss: Tensor = self.loss(relevance, foreground, c1, c2)
        return loss

    def take_shares(self) -> list[Tensor]:
        """Return the shares ``(n, K)`` of each set of heatmaps since the last time; Dual makes two sets."""
        shares, self._shares = self._shares, []
        return shares


def make_composite(options: argparse.Namespace, box: tuple[Any, Any] | None) -> LRPFlex:
    """Return the rules of the relevance.

    Parameters
    ----------
    options : Namespace
        ``epsilon``, ``epsilon_ratio``, ``reference`` and ``box``.
    box : tuple, optional
        Bounds of the images as the model gets them; used with ``--box``.
    """
    box = box if options.box else None
    # z^B has a zero of its own
    reference = 0.0 if options.reference == "zero" or box is not None else options.reference
    return LRPFlex(options.epsilon, box, epsilon_ratio=options.epsilon_ratio, reference=reference)


def make_regularizer(
    model: nn.Module, options: argparse.Namespace, box: tuple[Any, Any] | None, *, seed: int
) -> ISNetRegularizer:
    """Return the regularizer of a model.

    Parameters
    ----------
    model : Module
        Perhaps in `DistributedDataParallel`.
    options : Namespace
        ``formulation``, ``layers``, ``decay``, ``background_scale``, ``every``, ``every_start``, and what
        `make_composite` needs.
    box : tuple, optional
        Bounds of the images as the model gets them; used with ``--box``.
    seed : int
        Of the draws of Stochastic; another one for each process.
    """
    formulation = {
        "stochastic": lambda: Stochastic(torch.Generator().manual_seed(seed)),
        "selective": Selective,
        "dual": AllLogits,
        "original": Original,
    }[options.formulation]()
    composite = make_composite(options, box)
    positive = ZPlus(box=box if options.box else None)
    return ISNetRegularizer(
        model,
        composite=(composite, positive) if options.formulation == "dual" else composite,
        formulation=formulation,
        loss=LossWithShare(HeatmapLoss(decay=options.decay, background_scale=options.background_scale)),
        layers=options.layers,
        every=EveryNth(options.every, options.every_start),
    )
