"""The training loss of a method."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from methods import PENALTIES, Method
from torch import Generator, Tensor, nn

from zennit_isnet import ISNetRegularizer
from zennit_isnet.calibration import RelevanceRange
from zennit_isnet.lrp import Place
from zennit_isnet.regularizer import EveryNth
from zennit_isnet.swap import BackgroundFade, BackgroundSwap, swap_consistency

Ranges = Mapping[Place, RelevanceRange]


def main_head(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Return the logits, without auxiliary heads."""
    return output[0] if isinstance(output, tuple) else output


class Objective:
    """``(1 − P)·cross-entropy + P·penalty + weight·consistency`` of one batch, possibly on changed backgrounds.

    Parameters
    ----------
    method : Method
    model : Module
    ranges : dict of str to RelevanceRange
        Ranges of the method's penalty; empty if it has none.
    seed : int
        Seed for the draws of formulations and swaps.
    """

    def __init__(self, method: Method, model: nn.Module, ranges: Ranges, seed: int) -> None:
        self.method, self.model = method, model
        self.cross_entropy = nn.CrossEntropyLoss()
        self.augment = BackgroundSwap(method.swap, generator=Generator().manual_seed(seed + 1))
        self.swap = BackgroundSwap(1.0, generator=Generator().manual_seed(seed + 2))
        self.fade = BackgroundFade(method.fade, generator=Generator().manual_seed(seed + 3))
        self.regularizer: ISNetRegularizer | None = None
        if method.penalty is not None:
            self.regularizer = PENALTIES[method.penalty].make(model, Generator().manual_seed(seed))
            self.regularizer.ranges, self.regularizer.schedule = ranges, EveryNth(method.every)

    def __call__(self, images: Tensor, masks: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the loss and its terms; backgrounds are swapped for augmentation in train mode only."""
        if self.method.swap and self.model.training:
            images = self.augment(images, masks)
        if self.method.fade and self.model.training:
            images = self.fade(images, masks)
        if self.regularizer is None:
            logits = main_head(self.model(images))
            terms = {"loss": self.cross_entropy(logits, labels)}
        else:
            output, penalty = self.regularizer(images, masks, labels=labels)
            logits, weight = main_head(output), self.method.weight
            cross_entropy = self.cross_entropy(logits, labels)
            terms = {"loss": (1 - weight) * cross_entropy + weight * penalty, "penalty": penalty}
            if penalty.requires_grad:
                # in validation the penalty's factor would make epochs incomparable
                terms["loss"] = self.regularizer.balanced(cross_entropy, penalty, weight)
        if self.method.consistency:
            swapped = main_head(self.model(self.swap(images, masks)))
            terms["consistency"] = swap_consistency(logits, swapped).mean()
            terms["loss"] = terms["loss"] + self.method.consistency * terms["consistency"]
        return {name: term if name == "loss" else term.detach() for name, term in terms.items()}


def measure_ranges(penalty: str, plain: nn.Module, images: Tensor, seed: int) -> Ranges:
    """Measure the relevance range of a penalty on a plainly trained model."""
    regularizer = PENALTIES[penalty].make(plain, Generator().manual_seed(seed))
    return regularizer.calibrate(torch.split(images, 125), progress=False)
