"""Rules of activations, pooling and sums: stock Zennit's values, the formula's, and finite differences."""

from __future__ import annotations

import copy

import pytest
import torch
from explanations import assert_exact_gradients, assert_same, relevance_of, weighted_square
from rule_oracle import stab
from torch import nn
from zennit.composites import LayerMapComposite
from zennit.layer import Sum
from zennit.rules import Epsilon, Norm, Pass, ReLUBetaSmooth, ReLUDeconvNet, ReLUGuidedBackprop
from zennit.types import AvgPool, Linear

from zennit_isnet.lrp.relevance.composite import differentiable

E = 1e-2
COUNT = 5

ACTIVATION_RULES = {
    "Pass": (Pass(), lambda z, upper: upper),
    "Norm": (Norm(stabilizer=E), lambda z, upper: z * (z > 0) * upper / stab(z.relu(), E)),
    "ReLUDeconvNet": (ReLUDeconvNet(), lambda z, upper: upper.clamp(min=0)),
    "ReLUGuidedBackprop": (ReLUGuidedBackprop(), lambda z, upper: upper * (upper > 0) * (z > 0)),
    "ReLUBetaSmooth": (ReLUBetaSmooth(beta_smooth=3.0), lambda z, upper: torch.sigmoid(3.0 * z) * upper),
}

activations = pytest.mark.parametrize("rule", ACTIVATION_RULES)
in_place = pytest.mark.parametrize("inplace", [False, True], ids=["", "in place"])
linear_rules = pytest.mark.parametrize("linear", [Epsilon(epsilon=E), None], ids=["Epsilon", "gradient"])


class SumOfBranches(nn.Module):
    """Two branches, stacked for Zennit's `Sum`."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.sum = nn.Linear(4, 5), nn.Linear(4, 5), Sum()

    def forward(self, x):
        return self.sum(torch.stack([self.left(x), self.right(x)], dim=-1))


POOLS = {
    "AvgPool1d": (nn.Conv1d(2, 3, 2), nn.AvgPool1d(2), (2, 5)),
    "AvgPool2d": (nn.Conv2d(2, 3, 2), nn.AvgPool2d(2, stride=1, padding=1), (2, 5, 4)),
    "AvgPool3d": (nn.Conv3d(1, 2, 2), nn.AvgPool3d(2), (1, 3, 3, 3)),
    "AdaptiveAvgPool2d": (nn.Conv2d(2, 3, 2), nn.AdaptiveAvgPool2d(2), (2, 4, 4)),
    "Sum": (SumOfBranches(), nn.Identity(), (4,)),
}


def make(model, input_shape, generator):
    """Model and images with random values, and a seed for its three outputs."""
    model = copy.deepcopy(model).double()
    for parameter in model.parameters():
        parameter.data.normal_(generator=generator)
    images = torch.randn(COUNT, *input_shape, generator=generator, dtype=torch.float64).requires_grad_()
    seed = torch.randn(COUNT, 3, generator=generator, dtype=torch.float64).requires_grad_()
    return model, images, seed


def activation_problem(inplace, generator):
    return make(nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace), nn.Linear(6, 3)), (4,), generator)


def pool_problem(pool, generator):
    layer, module, shape = POOLS[pool]
    width = module(layer(torch.zeros(1, *shape))).numel()
    return make(nn.Sequential(layer, module, nn.Flatten(), nn.Linear(width, 3)), shape, generator)


def pool_composite():
    return LayerMapComposite([((AvgPool, Sum), Norm(stabilizer=E)), (Linear, Epsilon(epsilon=E))])


def activation_composite(rule, linear):
    layer_map = [(nn.ReLU, ACTIVATION_RULES[rule][0])]
    return LayerMapComposite(layer_map if linear is None else [*layer_map, (Linear, linear)])


@activations
@in_place
@linear_rules
def test_activations_have_stock_values(rule, inplace, linear, generator):
    """Those of the model out of place: of an activation in place, stock Zennit reads the input that it overwrote."""
    model, images, seed = activation_problem(inplace, generator)
    composite = activation_composite(rule, linear)
    stock = copy.deepcopy(model)
    stock[1].inplace = False
    expected = relevance_of(composite, stock, images.detach(), seed.detach(), create_graph=False)
    assert_same(relevance_of(differentiable(composite), model, images, seed).detach(), expected)


@activations
@in_place
@linear_rules
def test_activations_follow_the_formula(rule, inplace, linear, generator):
    model, images, seed = activation_problem(inplace, generator)
    first, _, last = model
    z = first(images)
    a = z.relu()

    def through(layer, x, upper):
        if linear is None:
            return upper @ layer.weight
        return x * (upper / stab(layer(x), E) @ layer.weight)

    at_z = ACTIVATION_RULES[rule][1](z, through(last, a, seed))
    expected = through(first, images, at_z)
    relevance = relevance_of(differentiable(activation_composite(rule, linear)), model, images, seed)
    assert_same(relevance.detach(), expected.detach())
    leaves = [*model.parameters(), images, seed]
    actual = torch.autograd.grad(weighted_square(relevance), leaves, materialize_grads=True)
    wanted = torch.autograd.grad(weighted_square(expected), leaves, materialize_grads=True)
    for one, other in zip(actual, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


@activations
@linear_rules
def test_activations_have_exact_gradients(rule, linear, generator):
    # in place or not is the formula's business above
    model, images, seed = activation_problem(linear is None, generator)
    composite = differentiable(activation_composite(rule, linear))
    groups = {"parameters": list(model.parameters()), "seed": [seed]}
    if linear is not None or rule == "ReLUBetaSmooth":
        groups["input"] = [images]
    assert_exact_gradients(lambda: weighted_square(relevance_of(composite, model, images, seed)), groups, generator)


@pytest.mark.parametrize("pool", POOLS)
def test_pools_and_sums_have_stock_values(pool, generator):
    model, images, seed = pool_problem(pool, generator)
    composite = pool_composite()
    expected = relevance_of(composite, copy.deepcopy(model), images.detach(), seed.detach(), create_graph=False)
    assert_same(relevance_of(differentiable(composite), model, images, seed).detach(), expected)


@pytest.mark.parametrize("pool", POOLS)
def test_pools_and_sums_have_exact_gradients(pool, generator):
    model, images, seed = pool_problem(pool, generator)
    composite = differentiable(pool_composite())
    groups = {"parameters": list(model.parameters()), "input": [images], "seed": [seed]}
    assert_exact_gradients(lambda: weighted_square(relevance_of(composite, model, images, seed)), groups, generator)


def test_norm_of_an_average_is_the_formula(generator):
    model, images, seed = pool_problem("AvgPool1d", generator)
    convolution, pool, flatten, head = model
    z = convolution(images)
    a = flatten(pool(z))
    at_pool = (a * (seed / stab(head(a), E) @ head.weight)).view(COUNT, 3, 2)
    share = (at_pool / stab(pool(z), E)).repeat_interleave(2, dim=2) / 2
    expected = images * torch.nn.functional.conv_transpose1d(z * share / stab(z, E), convolution.weight)
    relevance = relevance_of(differentiable(pool_composite()), model, images, seed)
    assert_same(relevance.detach(), expected.detach())
