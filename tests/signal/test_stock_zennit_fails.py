"""Why this package exists: stock Zennit's relevance is right, its gradients with respect to the parameters are not.

These tests state a fact about another project. If one of them fails after an update of Zennit, the claim in the
README has to change.
"""

from __future__ import annotations

import copy

import nets
import pytest
import torch
from finite_differences import TOLERANCE, worst_relative_error
from stock_zennit import MAJOR, epsilon_composite
from torch import nn
from zennit.attribution import Gradient
from zennit.composites import EpsilonPlus

from zennit_isnet.lrp.flex import LRPFlex

EPSILON = 1e-2


def make_mlp(generator):
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    return nets.randomise(model.double(), generator), torch.randn(4, 6, generator=generator, dtype=torch.float64)


def ours_seed(logits):
    """Signal of the second logit: ones, not relevance."""
    return torch.eye(3, dtype=logits.dtype)[1].expand_as(logits)


def stock_seed(logits):
    """Relevance of the second logit, attached to the graph: a constant would switch off the last layer's gradient."""
    return logits * ours_seed(logits)


WAYS = {
    "ours": (lambda: LRPFlex(EPSILON), ours_seed),
    "stock Epsilon": (lambda: epsilon_composite(EPSILON), stock_seed),
    "stock EpsilonPlus": (lambda: EpsilonPlus(epsilon=EPSILON), stock_seed),
}
STOCK = [way for way in WAYS if way != "ours"]


def explain(way, model, inputs):
    make_composite, seed = WAYS[way]
    with Gradient(model, make_composite(), create_graph=True) as attributor:
        return attributor(inputs, seed)[1]


def check(way, model, inputs, generator):
    """Worst error of the gradient of ΣR² with respect to the parameters the model had before the explanation."""
    parameters = list(model.parameters())
    untouched = copy.deepcopy(model)
    copies = list(untouched.parameters())
    value = explain(way, model, inputs.clone()).square().sum()
    gradients = torch.autograd.grad(value, parameters, allow_unused=True)
    gradients = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]

    def evaluate():
        # of a copy, because Zennit 1 replaces the parameters of what it explains
        return explain(way, copy.deepcopy(untouched), inputs.clone()).square().sum().item()

    return worst_relative_error(evaluate, copies, gradients, generator)


def test_stock_relevance_is_right(generator):
    model, inputs = make_mlp(generator)
    first, _, last = model
    z = first(inputs)
    a = z.relu()
    y = last(a)[:, 1]
    stabilized_z, stabilized_y = z + EPSILON * z.sign(), y + EPSILON * y.sign()
    relevance = a * last.weight[1] * (y / stabilized_y)[:, None]
    relevance = inputs * ((relevance / stabilized_z) @ first.weight)
    torch.testing.assert_close(explain("stock Epsilon", model, inputs.clone()), relevance, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("way", STOCK)
def test_stock_gradients_are_wrong(way, generator):
    model, inputs = make_mlp(generator)
    assert check(way, model, inputs, generator) > 0.1


def test_ours_are_exact_on_the_same_net(generator):
    model, inputs = make_mlp(generator)
    assert check("ours", model, inputs, generator) <= TOLERANCE


@pytest.mark.parametrize("way", STOCK)
def test_zennit_1_replaces_the_parameters_that_an_optimizer_holds(way, generator):
    model, inputs = make_mlp(generator)
    before = list(model.parameters())
    explain(way, model, inputs)
    kept = [after is held for after, held in zip(model.parameters(), before, strict=True)]
    assert all(kept) if MAJOR == 0 else not any(kept)


def test_ours_keeps_them(generator):
    model, inputs = make_mlp(generator)
    before = list(model.parameters())
    explain("ours", model, inputs)
    assert all(after is held for after, held in zip(model.parameters(), before, strict=True))
