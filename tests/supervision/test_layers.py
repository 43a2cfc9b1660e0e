"""LRP deep supervision: relevance at inner layers, its masks, its range, its combination."""

from __future__ import annotations

from typing import Any

import nets
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from zennit_isnet import (
    EpsilonZBox,
    HeatmapLoss,
    ISNetRegularizer,
    LRPAttribution,
    LRPFlex,
    Original,
    Selective,
    Target,
    differentiable,
)
from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.functional import gwrp
from zennit_isnet.lrp import INPUT, Place


class Front(nn.Module):
    """The net of `nets.plain_net` up to its first pooling."""

    def __init__(self, net: nn.Sequential) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        return self.net[:3](images)


@pytest.fixture
def net(generator: torch.Generator) -> nn.Module:
    return nets.make("plain", generator, training=False)


@pytest.fixture
def images(generator: torch.Generator) -> Tensor:
    return nets.make_images(generator)


@pytest.mark.parametrize("box", [None, (-3.0, 3.0)], ids=["no box", "z^B"])
def test_relevance_at_a_layer_is_that_of_the_net_behind_it(net: nn.Sequential, images: Tensor, box: Any) -> None:
    attribution = LRPAttribution(LRPFlex(box=box), layers=["2"])
    images = images.clamp(-3, 3)
    _, relevance = attribution(net, images, Original())
    _, behind = LRPAttribution()(net[3:], net[:3](images).detach(), Original())
    torch.testing.assert_close(relevance["2"], behind["input"], rtol=1e-10, atol=1e-14)


def test_relevance_before_an_in_place_activation_is_that_of_the_preactivation(
    net: nn.Sequential, images: Tensor
) -> None:
    assert net[1].inplace
    _, relevance = LRPAttribution(LRPFlex(1e-2), layers=["0", "1"])(net, images, Target(0))
    preactivation = net[0](images)
    gate = preactivation.clamp(min=0) / (preactivation.clamp(min=0) + 1e-2)
    signal_behind = relevance["1"][:, 0] / preactivation.clamp(min=0)
    expected = torch.where(preactivation > 0, preactivation * gate * signal_behind, 0.0)
    torch.testing.assert_close(relevance["0"][:, 0], expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("composite", [LRPFlex(1e-12), EpsilonZBox(epsilon=1e-12)], ids=["signal", "relevance"])
def test_every_layer_conserves_the_logit_without_biases(composite: Any, generator: torch.Generator) -> None:
    net = nets.without_biases(nets.make("residual", generator, training=False))
    attribution = LRPAttribution(composite, layers=["pool"])
    logits, relevance = attribution(net, nets.make_images(generator), Target(1))
    for name, heatmaps in relevance.items():
        torch.testing.assert_close(heatmaps.flatten(1).sum(1), logits[:, 1], rtol=1e-8, atol=1e-12, msg=name)


def test_the_penalty_is_the_ranked_mean_of_the_layers_losses(net: nn.Module, images: Tensor) -> None:
    masks = torch.zeros(len(images), 1, *images.shape[2:])
    masks[:, :, 2:4, 1:3] = 1
    regularizer = ISNetRegularizer(net, composite=LRPFlex(), formulation=Selective(), layers=["2"], layer_decay=0.3)
    regularizer.calibrate([images], progress=False)
    assert set(regularizer.ranges) == {INPUT, Place("2")}
    _, penalty = regularizer(images, masks)
    _, relevance = LRPAttribution(layers=["2"])(net, images, Selective())
    losses = [
        HeatmapLoss()(heatmaps, masks, regularizer.ranges[name].c1, regularizer.ranges[name].c2).mean()
        for name, heatmaps in relevance.items()
    ]
    high, low = max(losses), min(losses)
    torch.testing.assert_close(penalty, (high + 0.3 * low) / 1.3)
    torch.testing.assert_close(penalty, gwrp(torch.stack(losses), 0.3))


def test_foreground_never_becomes_background_at_a_coarse_layer(net: nn.Module, images: Tensor) -> None:
    masks = torch.zeros(len(images), 1, *images.shape[2:])
    masks[:, :, ::2, ::2] = 1  # some foreground in each cell of the pooled layer
    attribution = LRPAttribution(layers=["2"])
    _, relevance = attribution(net, images, Selective())
    losses = HeatmapLoss(foreground_weight=0.0)(relevance["2"], masks, 1.0, 2.0)
    assert (losses == 0).all()


def test_an_unknown_layer_is_named_with_close_matches() -> None:
    with pytest.raises(InvalidValueError, match=r"no layer 'layer5'; close matches: .*layer4"):
        ISNetRegularizer(resnet18(num_classes=3), layers=["layer5"])


@pytest.mark.parametrize(("layers", "what"), [("layer1", "layer1"), ([3], "3")])
def test_layers_are_a_sequence_of_names(layers: Any, what: str) -> None:
    with pytest.raises(InvalidTypeError, match=what):
        ISNetRegularizer(resnet18(num_classes=3), layers=layers)


@pytest.mark.parametrize(
    ("composite", "layer", "message"),
    [
        (LRPFlex(), "fc", r"spatial output \(N, C, H, W\).*'fc' returns \(2, 3\); choose a layer that returns maps"),
        (LRPFlex(), "layer1.0.relu", "must run only once in a forward pass; 'layer1.0.relu' runs again"),
        (EpsilonZBox(), "conv1", "no relevance reaches layer 'conv1'.*use the activation instead"),
        (LRPFlex(box=(0.0, 1.0)), "bn1", "no relevance reaches layer 'bn1'.*use the activation instead"),
    ],
)
def test_a_layer_without_a_relevance_of_its_own_is_refused(composite: Any, layer: str, message: str) -> None:
    model = resnet18(num_classes=3)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    hooks = [dict(module._forward_hooks) for module in model.modules()]
    regularizer = ISNetRegularizer(model, composite=composite, layers=[layer])
    with pytest.raises(InvalidValueError, match=message):
        regularizer(torch.rand(2, 3, 32, 32), torch.ones(2, 1, 32, 32))
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert [dict(module._forward_hooks) for module in model.modules()] == hooks


def test_a_stock_composite_is_refused_and_a_differentiable_one_accepted(net: nn.Module) -> None:
    from zennit.composites import EpsilonPlus

    with pytest.raises(InvalidTypeError, match=r"differentiable\(…\).*EpsilonPlus"):
        ISNetRegularizer(net, composite=EpsilonPlus())
    regularizer = ISNetRegularizer(net, composite=differentiable(EpsilonPlus()))
    assert [one.propagates for one in regularizer.attribution.composites] == ["relevance"]
