"""Values without a gradient are constants of the signal pass, wherever they came from."""

from __future__ import annotations

import nets
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from zennit_isnet.errors import UncoveredOperationError
from zennit_isnet.formulations import Target
from zennit_isnet.lrp.flex import LRPFlex
from zennit_isnet.lrp.propagation import LRPAttribution


class Net(nn.Module):
    def __init__(self, middle):
        super().__init__()
        self.stem, self.head, self.middle = nn.Conv2d(nets.CHANNELS, 4, 3), nn.Linear(4, nets.CLASSES), middle

    def forward(self, images):
        return self.head(self.middle(F.relu(self.stem(images))).mean((2, 3)))


def scatter(x):
    placed = torch.zeros_like(x)
    placed[:, 1:] = x[:, :-1]
    return placed


@torch.no_grad()
def without_gradient(function, x):
    return function(x)


CONSTANT = {
    "divided by a norm without a gradient": lambda x: x / without_gradient(torch.norm, x),
    "multiplied by values without a gradient": lambda x: x * without_gradient(torch.exp, x),
    "zeros made without a gradient": lambda x: x + without_gradient(torch.zeros_like, x),
    "divided by its detached norm": lambda x: x / x.detach().norm(),
    "multiplied by its detached values": lambda x: x * x.detach(),
    "masked by a comparison": lambda x: x * (x > 0.5),
    "zeros of its shape": lambda x: x + torch.zeros_like(x),
    "assigned to zeros": scatter,
}


@pytest.mark.parametrize("middle", CONSTANT)
def test_relevance_is_conserved(middle, generator):
    model = nets.without_biases(nets.randomise(Net(CONSTANT[middle]).double(), generator))
    logits, relevance = LRPAttribution(LRPFlex(1e-30))(model, nets.make_images(generator), Target(0))
    torch.testing.assert_close(relevance["input"].sum((1, 2, 3, 4)), logits[:, 0], rtol=1e-8, atol=1e-12)


ADDED = {
    "detached": lambda x: x + x.detach(),
    "made without a gradient": lambda x: x + without_gradient(torch.exp, x),
    "detached without a gradient": lambda x: x + without_gradient(torch.detach, x),
    "made in two steps": lambda x: x + 2 * without_gradient(lambda y: y.exp().mean(1, keepdim=True), x),
    "concatenated": lambda x: torch.cat([x[:, :2], without_gradient(torch.exp, x[:, 2:])], 1),
}


@pytest.mark.parametrize("middle", ADDED)
def test_a_sum_with_values_of_the_images_that_have_no_gradient_is_refused(middle, generator):
    model = Net(ADDED[middle]).double()
    with pytest.raises(UncoveredOperationError, match="constant in the signal pass"):
        LRPAttribution()(model, nets.make_images(generator), Target(0))


def test_a_detached_output_is_refused(generator):
    model = nn.Sequential(nets.plain_net().double(), Detach())
    with pytest.raises(UncoveredOperationError, match="carries no signal from the images"):
        LRPAttribution()(model, nets.make_images(generator), Target(0))


class Detach(nn.Module):
    def forward(self, logits):
        return logits.detach()
