"""Canonizers by mechanism instead of by architecture: relevance is conserved on each family of ReLU networks."""

from __future__ import annotations

import nets
import pytest
import torch

from zennit_isnet import EpsilonZBox, LRPAttribution, Target, ZPlus
from zennit_isnet.errors import UncoveredOperationError
from zennit_isnet.formulations import AllLogits

FAMILIES = {
    "alexnet": (64, {}),
    "vgg11_bn": (32, {}),
    "resnet18": (32, {}),
    "resnext50_32x4d": (32, {}),
    "densenet121": (32, {}),
    "googlenet": (48, {"init_weights": False}),
    "inception_v3": (96, {"init_weights": False}),
    "regnet_x_400mf": (32, {}),
    "mnasnet0_5": (32, {}),
    "shufflenet_v2_x0_5": (32, {}),
    "mobilenet_v2": (32, {}),
    "squeezenet1_1": (32, {}),
}

SLOW = frozenset({"resnext50_32x4d", "inception_v3", "regnet_x_400mf", "mnasnet0_5"})
"""Made of what the others are made of."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in FAMILIES])
def test_relevance_is_the_logit(name: str, generator: torch.Generator) -> None:
    """Positive relevance is not negative, and is the logit where all weights are positive."""
    size, options = FAMILIES[name]
    model = nets.without_biases(nets.torchvision_net(name, generator, **options))
    images = nets.make_images(generator, count=1, size=size)
    strongest = model(images).abs().argmax(1)
    logits, relevance = LRPAttribution(EpsilonZBox(epsilon=1e-13))(model, images, Target(strongest), create_graph=False)
    logit = logits.gather(1, strongest[:, None])[:, 0]
    assert logit.abs() > 1e-6
    torch.testing.assert_close(relevance["input"].flatten(1).sum(1), logit, rtol=1e-8, atol=1e-12)
    _, relevance = LRPAttribution(ZPlus(epsilon=1e-13))(model, images, AllLogits(), create_graph=False)
    positive = relevance["input"]
    assert (positive >= 0).all()
    assert positive.sum() > 0
    for parameter in model.parameters():
        parameter.data.abs_()
    logits, relevance = LRPAttribution(ZPlus(epsilon=1e-13))(model, images, Target(strongest), create_graph=False)
    logit = logits.gather(1, strongest[:, None])[:, 0]
    torch.testing.assert_close(relevance["input"].flatten(1).sum(1), logit, rtol=1e-8, atol=1e-12)


REFUSED = {
    "efficientnet_b0": r"SqueezeExcitation\): torch\.Tensor\.mul: multiplies",
    "mobilenet_v3_small": r"SqueezeExcitation\): torch\.Tensor\.mul: multiplies",
    "convnext_tiny": r"features\.0\.1 \(LayerNorm2d\): torch\.nn\.functional\.layer_norm",
    "swin_t": r"features\.1\.0\.attn \(ShiftedWindowAttention\): torch\.Tensor\.matmul",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_families_that_are_not_convolutions_and_sums_are_refused_by_name(name: str, generator: torch.Generator) -> None:
    model, images = nets.torchvision_net(name, generator), nets.make_images(generator, count=1, size=32)
    for composite in (EpsilonZBox(), ZPlus()):
        with pytest.raises(UncoveredOperationError, match=REFUSED[name]):
            LRPAttribution(composite)(model, images, Target(0))
