"""Values against stock Zennit with its canonizers: eval mode, float64, BatchNorm's own eps 0."""

from __future__ import annotations

import copy

import nets
import pytest
import torch
from stock_zennit import epsilon_composite, zbox_composite
from torch import nn
from zennit.attribution import Gradient
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.torchvision import ResNetCanonizer

from zennit_isnet.formulations import Target
from zennit_isnet.lrp.flex import LRPFlex, box_from_normalization
from zennit_isnet.lrp.propagation import LRPAttribution

CANONIZERS = {"vgg11_bn": SequentialMergeBatchNorm, "resnet18": ResNetCanonizer}
BOX = box_from_normalization(mean=(0.5, 0.4, 0.3), std=(0.25, 0.3, 0.2))
CLASS = 1

models = pytest.mark.parametrize("name", CANONIZERS)


def make(name, generator):
    model = nets.torchvision_net(name, generator)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
    low, high = BOX
    return model, low + (high - low) * nets.make_images(generator, 1, 32)


def ours(model, images, epsilon, box=None):
    logits, relevance = LRPAttribution(LRPFlex(epsilon, box))(model, images, Target(CLASS), create_graph=False)
    return logits.detach(), relevance["input"][:, 0]


def stock(model, images, composite):
    """Zennit's relevance of the logit; of a copy, because canonizers and, in Zennit 1, rules write to the model."""
    with Gradient(copy.deepcopy(model), composite) as attributor:
        return attributor(images.clone(), lambda logits: logits * torch.eye(nets.CLASSES).to(logits)[CLASS])[1]


def relative_error(actual, expected):
    return ((actual - expected).abs().max() / expected.abs().max()).item()


@models
def test_epsilon_rule_at_a_small_epsilon(name, generator):
    model, images = make(name, generator)
    expected = stock(model, images, epsilon_composite(1e-9, [CANONIZERS[name]()]))
    assert relative_error(ours(model, images, 1e-9)[1], expected) <= 1e-6


@models
def test_zbox_rule_at_a_small_epsilon(name, generator):
    model, images = make(name, generator)
    expected = stock(model, images, zbox_composite(1e-9, *BOX, [CANONIZERS[name]()]))
    assert relative_error(ours(model, images, 1e-9, BOX)[1], expected) <= 1e-6


@pytest.mark.parametrize(("box", "epsilon"), [(None, 1e-1), (BOX, 1e-2)], ids=["no box", "z^B"])
def test_chains_differ_by_the_last_layer_alone(box, epsilon, generator):
    """Zennit divides by y + ε in the last layer too, where no activation follows: a factor y/(y + ε·sign y)."""
    model, images = make("vgg11_bn", generator)
    canonizers = [SequentialMergeBatchNorm()]
    composite = epsilon_composite(epsilon, canonizers)
    if box is not None:
        composite = zbox_composite(epsilon, *box, canonizers)
    logits, relevance = ours(model, images, epsilon, box)
    y = logits[:, CLASS]
    factor = (y / (y + epsilon * y.sign())).view(-1, 1, 1, 1)
    expected = stock(model, images, composite)
    assert relative_error(relevance, expected) > 1e-6, "the factor is visible"
    assert relative_error(factor * relevance, expected) <= 1e-8


def test_residual_sums_differ_at_a_large_epsilon(generator):
    """By definition: Zennit's ε shrinks relevance at the end of each residual branch, ours only at activations."""
    model, images = make("resnet18", generator)
    expected = stock(model, images, epsilon_composite(1e-1, [ResNetCanonizer()]))
    assert relative_error(ours(model, images, 1e-1)[1], expected) > 1e-3
