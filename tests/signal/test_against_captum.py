"""Values against Captum's LRP with its ε rule on sequential networks, float64."""

from __future__ import annotations

import copy

import nets
import pytest
import torch
from captum.attr import LRP
from captum.attr._utils.lrp_rules import EpsilonRule
from torch import nn

from zennit_isnet.formulations import Original
from zennit_isnet.lrp.flex import LRPFlex
from zennit_isnet.lrp.propagation import LRPAttribution

NETS = {
    "convolutions": lambda: [
        *(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(6, nets.CLASSES)),
    ],
    "BatchNorm": lambda: [
        *(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, nets.CLASSES)),
    ],
    "linear layers": lambda: [
        *(nn.Flatten(), nn.Linear(192, 10), nn.ReLU(), nn.Dropout(), nn.Linear(10, 8), nn.ReLU()),
        nn.Linear(8, nets.CLASSES),
    ],
}


def captum_lrp(model, images, epsilon):
    """Captum's relevance of every class, (N, K, C, H, W)."""
    heatmaps = []
    for target in range(nets.CLASSES):
        explained = copy.deepcopy(model)
        for module in explained:
            if not isinstance(module, (nn.ReLU, nn.Dropout)):
                module.rule = EpsilonRule(epsilon)
        heatmaps.append(LRP(explained).attribute(images.clone().requires_grad_(), target=target))
    return torch.stack(heatmaps, 1).detach()


@pytest.mark.parametrize("epsilon", [1e-9, 1e-12])
@pytest.mark.parametrize("biases", [False, True], ids=["no biases", "biases"])
@pytest.mark.parametrize("net", NETS)
def test_equals_captum(net, biases, epsilon, generator):
    model = nets.randomise(nn.Sequential(*NETS[net]()).double(), generator).eval()
    if not biases:
        nets.without_biases(model)
    images = nets.make_images(generator)
    expected = captum_lrp(model, images, epsilon)
    _, relevance = LRPAttribution(LRPFlex(epsilon))(model, images, Original(), create_graph=False)
    assert expected.abs().max() > 1e-3
    error = (relevance["input"] - expected).abs().max() / expected.abs().max()
    assert error <= 1e-6
