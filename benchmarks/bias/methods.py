"""The ways of training that are compared, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, nn

from zennit_isnet import Dual, ISNetRegularizer, Original, Selective, Stochastic
from zennit_isnet.data.options import Background

MakePenalty = Callable[[nn.Module, Generator], ISNetRegularizer]
MakeOptimizer = Callable[..., torch.optim.Optimizer]


@dataclass(frozen=True)
class Method:
    """One way of training.

    Parameters
    ----------
    penalty : str, optional
        A key of `PENALTIES`; cross-entropy alone without.
    weight : float
        P in ``(1 − P)·cross-entropy + P·penalty``.
    swap : float
        The chance of each training image to get another background.
    consistency : float
        Weight of the distance between the predictions for the images and for the same on other backgrounds.
    background : str
        Of the training and validation images.
    """

    penalty: str | None = None
    weight: float = 0.7
    swap: float = 0.0
    consistency: float = 0.0
    background: Background = "biased"


@dataclass(frozen=True)
class Penalty:
    """How a regularizer is made, and whether its range (C₁, C₂) has a meaning and is measured."""

    make: MakePenalty
    calibrated: bool = True


@dataclass(frozen=True)
class Recipe:
    """An optimizer; its learning rate is the peak of one cycle."""

    make: MakeOptimizer
    settings: dict[str, Any]


def _stochastic(layers: str | tuple[str, ...] = ()) -> MakePenalty:
    return lambda model, generator: ISNetRegularizer(model, formulation=Stochastic(generator), layers=layers)


PENALTIES: dict[str, Penalty] = {
    "selective": Penalty(lambda model, _: ISNetRegularizer(model, formulation=Selective())),
    "stochastic": Penalty(_stochastic()),
    "dual": Penalty(lambda model, _: ISNetRegularizer(model, formulation=Dual())),
    "original": Penalty(lambda model, _: ISNetRegularizer(model, formulation=Original())),
    "lds": Penalty(_stochastic("auto")),
}

METHODS: dict[str, Method] = {
    "plain": Method(),
    "plain+swap": Method(swap=0.5),
    "consistency": Method(consistency=1.0),
    **{name: Method(name) for name in PENALTIES},
    "selective+swap": Method("selective", swap=0.5),
    "stochastic+swap": Method("stochastic", swap=0.5),
    "dual+swap": Method("dual", swap=0.5),
    "lds+swap": Method("lds", swap=0.5),
    "selective+consistency": Method("selective", consistency=1.0),
    "stochastic+consistency": Method("stochastic", consistency=1.0),
    "ceiling": Method(background="unbiased"),
}

OPTIMIZERS: dict[str, Recipe] = {
    "sgd": Recipe(torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}),
    "adamw": Recipe(torch.optim.AdamW, {"lr": 2e-3, "weight_decay": 0.05}),
}
