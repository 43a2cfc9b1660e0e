"""Zennit's built-in composites: stock values in eval mode, and exact gradients in both modes."""

from __future__ import annotations

import copy

import nets
import pytest
import torch
from built_in import MAKERS, every_composite, every_composite_in_one_mode, ours
from explanations import assert_exact_gradients, assert_same, itself, relevance_of, weighted_square
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet
from zennit.torchvision import ResNetCanonizer, VGGCanonizer

from zennit_isnet.lrp.relevance.composite import FuseBatchNorm, MakeFunctionsVisible, differentiable

CANONIZERS = {"vgg11_bn": VGGCanonizer, "resnet": ResNetCanonizer}
OURS = {"Zennit's canonizers": None, "ours": [FuseBatchNorm(), MakeFunctionsVisible()]}


@pytest.fixture(scope="module")
def torchvision_models():
    """In eval mode; ε of BatchNorm is 0, which Zennit's canonizer forgets in the bias."""
    generator = torch.Generator().manual_seed(0)
    # one block in each stage
    resnet = nets.randomise(ResNet(BasicBlock, [1, 1, 1, 1], nets.CLASSES).double(), generator).eval()
    models = {"vgg11_bn": nets.torchvision_net("vgg11_bn", generator), "resnet": resnet}
    for model in models.values():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 0
    return models


@pytest.mark.parametrize(
    ("name", "composite"),
    [*(("resnet", composite) for composite in MAKERS), ("vgg11_bn", "EpsilonGammaBox"), ("vgg11_bn", "DeconvNet")],
)
def test_values_on_torchvision_models_are_those_of_stock_zennit(name, composite, torchvision_models, generator):
    model, images = torchvision_models[name], nets.make_images(generator, 1, 32) - 0.5
    stock = MAKERS[composite](canonizers=[CANONIZERS[name]()])
    expected = relevance_of(stock, copy.deepcopy(model), images, torch.Tensor.detach, create_graph=False)
    for canonizers in OURS.values():
        relevance = relevance_of(differentiable(stock, canonizers=canonizers), model, images, itself, False)
        assert_same(relevance, expected)


@pytest.mark.parametrize("composite", ["EpsilonGammaBox", "GuidedBackprop"])
def test_every_parameter_of_a_torchvision_model_has_a_gradient(composite, torchvision_models, generator):
    model, images = torchvision_models["resnet"], nets.make_images(generator, 1, 32) - 0.5
    relevance = relevance_of(ours(composite), model, images, itself)
    gradients = torch.autograd.grad(weighted_square(relevance), list(model.parameters()), materialize_grads=True)
    assert [name for (name, _), g in zip(model.named_parameters(), gradients, strict=True) if not g.any()] == []


@every_composite("residual", "concatenating")
def test_gradients_are_those_of_finite_differences(net, training, composite, generator):
    model, images = nets.make(net, generator, training=training), nets.make_images(generator)
    seed = torch.randn(4, nets.CLASSES, generator=generator, dtype=torch.float64)
    composite = ours(composite, epsilon=1e-2)

    def value():
        torch.manual_seed(0)  # dropout draws the same masks
        return weighted_square(relevance_of(composite, model, images, seed))

    assert_exact_gradients(value, {"parameters": list(model.parameters())}, generator)


@every_composite_in_one_mode
def test_gradients_with_respect_to_images_and_seeds(training, composite, generator):
    model, images = nets.make("residual", generator, training=training), nets.make_images(generator).requires_grad_()
    seed = torch.randn(4, nets.CLASSES, generator=generator, dtype=torch.float64).requires_grad_()
    composite = ours(composite, epsilon=1e-2)

    def value():
        torch.manual_seed(0)
        return weighted_square(relevance_of(composite, model, images, seed))

    groups = {"seed": [seed]}
    relevance = relevance_of(composite, model, images, seed)
    (of_the_images,) = torch.autograd.grad(weighted_square(relevance), images, materialize_grads=True)
    # piecewise linear nets with gradient rules do not depend on the images in eval mode
    if of_the_images.any():
        groups["images"] = [images]
    assert_exact_gradients(value, groups, generator)


def test_a_wrong_gradient_is_seen(generator):
    model, images = nets.make("residual", generator), nets.make_images(generator)
    composite = ours("EpsilonPlus", epsilon=1e-2)
    leaves = list(model.parameters())
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)

    def value():
        # the derivative lacks what goes through `scale`
        hidden = 1 + 1e-4 * (scale.detach() - leaves[0].detach().sum())
        return weighted_square(relevance_of(composite, model, images, itself)) * hidden

    with pytest.raises(AssertionError):
        assert_exact_gradients(value, {"parameters": leaves}, generator)
