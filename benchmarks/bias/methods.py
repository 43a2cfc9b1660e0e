"""The training methods that are compared, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, nn

from zennit_isnet import (
    HeatmapLoss,
    ISNetRegularizer,
    LRPAttribution,
    LRPFlex,
    Original,
    Selective,
    Stochastic,
    ZPlus,
    peers,
)
from zennit_isnet.data.background_bias import Background
from zennit_isnet.formulations import AllLogits
from zennit_isnet.model import eval_mode

MakePenalty = Callable[[nn.Module, Generator], ISNetRegularizer]
MakeOptimizer = Callable[..., torch.optim.Optimizer]


@dataclass(frozen=True)
class Method:
    """One training method.

    Parameters
    ----------
    penalty : str, optional
        A key of `PENALTIES`; if None, cross-entropy alone.
    weight : float
        P in ``(1 − P)·cross-entropy + P·penalty``.
    swap : float
        Probability that a training image gets another background.
    fade : float
        Probability that the background of a training image is faded.
    consistency : float
        Weight of the distance between the predictions for an image and for the same foreground on another background.
    every : int
        The penalty is applied at every n-th step only, with n times its weight.
    background : str
        Background of the training and validation images.
    """

    penalty: str | None = None
    weight: float = 0.7
    swap: float = 0.0
    fade: float = 0.0
    consistency: float = 0.0
    every: int = 1
    background: Background = "biased"


@dataclass(frozen=True)
class Penalty:
    """How a regularizer is made, and whether its range (C₁, C₂) is meaningful and measured."""

    make: MakePenalty
    calibrated: bool = True


@dataclass(frozen=True)
class Recipe:
    """An optimizer; its learning rate is the peak of one cycle."""

    make: MakeOptimizer
    settings: dict[str, Any]


def _recipe(**options: Any) -> MakePenalty:
    """README's recipe, with the run's own random draws."""
    return lambda model, generator: ISNetRegularizer(
        model, **{"formulation": Stochastic(generator), **{name: make() for name, make in options.items()}}
    )


def _dual() -> tuple[LRPFlex, ZPlus]:
    return LRPFlex(reference="darkest"), ZPlus()


def _papers(layers: str | tuple[str, ...] = ()) -> MakePenalty:
    """Return the papers' settings, with Stochastic."""
    return lambda model, generator: ISNetRegularizer(
        model,
        composite=LRPFlex(epsilon=1e-2),
        formulation=Stochastic(generator),
        loss=HeatmapLoss(decay=0.9, background_scale=1.0),
        layers=layers,
    )


def _gradcam(model: nn.Module, _: Generator) -> ISNetRegularizer:
    """Guide the coarsest map of at least 8×8 cells: on a coarser map a digit covers every cell."""
    images = torch.zeros(1, 3, 32, 32)
    with eval_mode(model):
        _, relevance = LRPAttribution(layers="auto")(model, images, Selective(), create_graph=False)
    fine = [place.layer for place, maps in relevance.items() if place.layer and min(maps.shape[3:]) >= 8]
    return peers.gradcam_guided(model, fine[-1])


PENALTIES: dict[str, Penalty] = {
    "isnet": Penalty(_recipe()),
    "isnet-selective": Penalty(_recipe(formulation=Selective)),
    "isnet-input": Penalty(_recipe(layers=tuple)),
    "dual": Penalty(_recipe(composite=_dual, formulation=AllLogits, layers=tuple)),
    "original": Penalty(_recipe(formulation=Original, layers=tuple)),
    "papers": Penalty(_papers()),
    "papers-lds": Penalty(_papers("auto")),
    "rrr": Penalty(lambda model, _: peers.rrr(model), calibrated=False),
    "gradmask": Penalty(lambda model, _: peers.gradmask(model), calibrated=False),
    "energy": Penalty(lambda model, _: peers.energy(model), calibrated=False),
    "gradcam": Penalty(_gradcam, calibrated=False),
}

METHODS: dict[str, Method] = {
    "plain": Method(),
    "plain+swap": Method(swap=0.5),
    "consistency": Method(consistency=1.0),
    "papers": Method("papers"),
    "papers-lds": Method("papers-lds"),
    "isnet": Method("isnet"),
    "isnet-selective": Method("isnet-selective"),
    "isnet-input": Method("isnet-input"),
    "isnet+fade": Method("isnet", fade=0.5),
    "plain+fade": Method(fade=0.5),
    "isnet+swap": Method("isnet", swap=0.5),
    "isnet+swap+every4": Method("isnet", swap=0.5, every=4),
    "dual": Method("dual"),
    "original": Method("original"),
    "rrr": Method("rrr"),
    "gradmask": Method("gradmask"),
    "energy": Method("energy"),
    "gradcam": Method("gradcam"),
    "ceiling": Method(background="unbiased"),
}


def find_method(name: str) -> Method:
    """Return a method of the table; ``name@weight`` gives its penalty another weight P, as in ``rrr@0.1``.

    Raises
    ------
    ValueError
        If the name is unknown, the weight is not a number in [0, 1], or the method has no penalty.
    """
    base, at, weight = name.partition("@")
    if base not in METHODS:
        raise ValueError(f"unknown method {base!r}; known: {', '.join(METHODS)}")
    method = METHODS[base]
    if not at:
        return method
    if method.penalty is None or not 0 <= float(weight) <= 1:
        raise ValueError(f"{name!r}: the part after @ must be a weight in [0, 1], for a method with a penalty")
    return replace(method, weight=float(weight))


OPTIMIZERS: dict[str, Recipe] = {
    "sgd": Recipe(torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}),
    "adamw": Recipe(torch.optim.AdamW, {"lr": 2e-3, "weight_decay": 0.05}),
}
