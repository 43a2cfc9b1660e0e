"""Whole networks in both modes against LRP by hand, where stock Zennit is wrong or fails."""

from __future__ import annotations

import copy

import nets
import pytest
import torch
from built_in import every_composite, ours
from explanations import assert_exact_gradients, assert_same, relevance_of, weighted_square
from network_oracle import Oracle, run_dense_net, run_residual_net
from stock_zennit import MAJOR
from torchvision.models import DenseNet
from zennit.composites import EpsilonPlus
from zennit.torchvision import ResNetCanonizer, VGGCanonizer

E, CLASSES, COUNT = 1e-2, 3, 3


def dense_net(generator):
    model = DenseNet(4, (2, 2), 8, bn_size=2, num_classes=CLASSES)
    return nets.randomise(model.double(), generator), run_dense_net, 16


def residual_net(generator):
    model = nets.make("residual", generator)
    model.dropout.p = 0.0
    return model, run_residual_net, nets.SIZE


NETS = {"DenseNet": dense_net, "residual": residual_net}


class Problem:
    def __init__(self, net, training, generator):
        self.model, self.run, size = NETS[net](generator)
        self.model.train(training)
        self.images = nets.make_images(generator, COUNT, size) - 0.5
        self.images.requires_grad_()
        self.seed = torch.randn(COUNT, CLASSES, generator=generator, dtype=torch.float64)

    def expected(self, composite):
        oracle = Oracle(composite, E)
        output = self.run(oracle, self.model, self.images)
        return oracle.values[output], oracle.relevance(output, self.seed)


@every_composite(*NETS)
def test_values_and_gradients_are_those_of_the_fused_network_by_hand(net, training, composite, generator):
    problem = Problem(net, training, generator)
    relevance = relevance_of(ours(composite, E), problem.model, problem.images, problem.seed)
    logits, expected = problem.expected(composite)
    # the network by hand is the model
    assert_same(copy.deepcopy(problem.model)(problem.images).detach(), logits.detach())
    assert_same(relevance.detach(), expected.detach())
    leaves = list(problem.model.parameters())
    actual = torch.autograd.grad(weighted_square(relevance), leaves, materialize_grads=True)
    wanted = torch.autograd.grad(weighted_square(expected), leaves, materialize_grads=True)
    largest = max(gradient.abs().max().item() for gradient in wanted)
    assert largest > 0
    for one, other in zip(actual, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10 * largest)


@pytest.mark.parametrize(
    ("composite", "training"),
    [
        ("EpsilonGammaBox", True),
        ("EpsilonAlpha2Beta1Flat", False),
        ("ExcitationBackprop", True),
        ("GuidedBackprop", False),
    ],
)
def test_dense_nets_have_exact_gradients(training, composite, generator):
    """Of one composite of each kind; those of all are the gradients by hand above."""
    problem = Problem("DenseNet", training, generator)
    composite = ours(composite, E)

    def value():
        return weighted_square(relevance_of(composite, problem.model, problem.images, problem.seed))

    assert_exact_gradients(value, {"parameters": list(problem.model.parameters())}, generator)


def test_stock_zennit_crashes_on_dense_nets(generator):
    """It pairs each BatchNorm with the layer that is listed before it."""
    problem = Problem("DenseNet", False, generator)
    with pytest.raises(RuntimeError, match="size"):
        relevance_of(EpsilonPlus(canonizers=[VGGCanonizer()]), problem.model, problem.images, problem.seed, False)


def test_stock_zennit_fails_in_train_mode(generator):
    problem = Problem("residual", True, generator)
    stock = copy.deepcopy(problem.model)
    expected = copy.deepcopy(problem.model)(problem.images)
    with ours("EpsilonPlus").context(problem.model):
        assert torch.equal(problem.model(problem.images), expected)
    with EpsilonPlus(canonizers=[ResNetCanonizer()]).context(stock):
        if MAJOR == 0:
            assert not torch.allclose(stock(problem.images), expected, rtol=1e-3)
        else:
            with pytest.raises(ValueError, match="eps must be positive during training"):
                stock(problem.images)
