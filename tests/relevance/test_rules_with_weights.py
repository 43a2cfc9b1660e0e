"""Each Zennit rule on each linear layer: stock Zennit's values, and the gradients of the formula."""

from __future__ import annotations

import copy

import pytest
import torch
from explanations import assert_exact_gradients, assert_same, relevance_of, weighted_square
from rule_oracle import (
    alpha_beta_rule,
    dense,
    epsilon_rule,
    flat_rule,
    gamma_rule,
    spread_bias,
    w_square_rule,
    z_box_rule,
    z_plus_rule,
)
from torch import nn
from zennit.composites import LayerMapComposite
from zennit.rules import AlphaBeta, Epsilon, Flat, Gamma, WSquare, ZBox, ZPlus
from zennit.types import Linear

from zennit_isnet.lrp.relevance.composite import differentiable

E, LOW, HIGH = 1e-2, -2.5, 3.0

RULES = {
    "Epsilon": (Epsilon(epsilon=E), epsilon_rule),
    "Gamma": (Gamma(stabilizer=E), gamma_rule),
    "ZPlus": (ZPlus(stabilizer=E), z_plus_rule),
    "AlphaBeta 2 1": (AlphaBeta(2, 1, stabilizer=E), lambda *args: alpha_beta_rule(*args, 2, 1)),
    "AlphaBeta 1 0": (AlphaBeta(1, 0, stabilizer=E), lambda *args: alpha_beta_rule(*args, 1, 0)),
    "ZBox": (ZBox(LOW, HIGH, stabilizer=E), lambda *args: z_box_rule(*args, LOW, HIGH)),
    "WSquare": (WSquare(stabilizer=E), w_square_rule),
    "Flat": (Flat(stabilizer=E), flat_rule),
}
CONSTANT_IN = {"WSquare": {"input"}, "Flat": {"input", "parameters"}}
"""What the relevance does not depend on, by the rule's formula."""

LAYERS = {
    "Linear": (nn.Linear, (4, 3), {}, (4,)),
    "Conv1d": (nn.Conv1d, (2, 3, 3), {"padding": 1}, (2, 5)),
    "Conv2d": (nn.Conv2d, (2, 2, 3), {"padding": 1}, (2, 3, 4)),
    "Conv3d": (nn.Conv3d, (1, 2, 2), {}, (1, 3, 2, 3)),
    "ConvTranspose2d": (nn.ConvTranspose2d, (2, 2, 2), {"stride": 2, "padding": 1}, (2, 3, 2)),
    "strided": (nn.Conv2d, (2, 2, 3), {"stride": 2, "padding": 1}, (2, 4, 4)),
    "grouped": (nn.Conv2d, (4, 2, 2), {"groups": 2}, (4, 3, 2)),
    "dilated": (nn.Conv2d, (1, 2, 2), {"dilation": 2}, (1, 4, 3)),
}


def pairwise(rules, step=1):
    """Each rule on every `step`-th layer, with a bias on every other one.

    The axes are independent: a rule sees its layer through the layer's own function. Each rule meets a bias and none,
    each layer several rules.
    """
    cases = [
        (rule, layer, (i + j // step) % 2 == 0)
        for i, rule in enumerate(rules)
        for j, layer in enumerate(LAYERS)
        if (i + j) % step == 0
    ]
    ids = [f"{rule}, {layer}{'' if bias else ', no bias'}" for rule, layer, bias in cases]
    return pytest.mark.parametrize(("rule", "layer", "bias"), cases, ids=ids)


class Problem:
    """One layer with a rule, two samples, and relevance at its output."""

    def __init__(self, rule, layer, bias, generator):
        make, args, options, self.input_shape = LAYERS[layer]
        self.rule, self.oracle = RULES[rule]
        self.layer = make(*args, bias=bias, **options).double()
        for parameter in self.layer.parameters():
            parameter.data.normal_(generator=generator)
        self.model = nn.Sequential(self.layer)
        self.parameters = list(self.layer.parameters())
        self.input = torch.randn(2, *self.input_shape, generator=generator, dtype=torch.float64).requires_grad_()
        self.output_shape = self.layer(self.input).shape
        self.seed = torch.randn(self.output_shape, generator=generator, dtype=torch.float64).requires_grad_()
        leaves = {"parameters": self.parameters, "input": [self.input], "seed": [self.seed]}
        self.moving = {key: value for key, value in leaves.items() if key not in CONSTANT_IN.get(rule, ())}
        self.fixed = [leaf for key, value in leaves.items() if key not in self.moving for leaf in value]
        self.composite = LayerMapComposite([(Linear, self.rule)])

    def relevance(self):
        return relevance_of(differentiable(self.composite), self.model, self.input, self.seed)

    def expected(self):
        """The formula on flattened samples."""
        weight = torch.ones_like(self.layer.weight) if self.oracle is flat_rule else self.layer.weight
        matrix = dense(self.layer, weight, self.input_shape)
        bias = spread_bias(self.layer, self.output_shape[1:])
        flat = self.oracle(self.input.flatten(1), matrix, bias, self.seed.flatten(1), E)
        return flat.view_as(self.input)


@pairwise(RULES)
def test_values_are_those_of_stock_zennit(rule, layer, bias, generator):
    problem = Problem(rule, layer, bias, generator)
    stock, seed = copy.deepcopy(problem.model), problem.seed.detach()
    expected = relevance_of(problem.composite, stock, problem.input.detach(), seed, create_graph=False)
    assert_same(problem.relevance().detach(), expected)


@pairwise(RULES)
def test_values_and_gradients_are_those_of_the_formula(rule, layer, bias, generator):
    problem = Problem(rule, layer, bias, generator)
    relevance, expected = problem.relevance(), problem.expected()
    assert_same(relevance.detach(), expected.detach())
    for leaves in problem.moving.values():
        actual = torch.autograd.grad(weighted_square(relevance), leaves, retain_graph=True)
        wanted = torch.autograd.grad(weighted_square(expected), leaves, retain_graph=True, materialize_grads=True)
        for one, other in zip(actual, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10 * other.abs().max().item())


@pairwise(RULES, step=4)
def test_gradients_are_those_of_finite_differences(rule, layer, bias, generator):
    """Of every rule and layer; their combinations have the gradients of the formula above."""
    problem = Problem(rule, layer, bias, generator)
    assert_exact_gradients(lambda: weighted_square(problem.relevance()), problem.moving, generator)


@pairwise(CONSTANT_IN, step=2)
def test_gradients_of_what_a_rule_does_not_read_are_exactly_zero(rule, layer, bias, generator):
    problem = Problem(rule, layer, bias, generator)
    value = weighted_square(problem.relevance())
    gradients = torch.autograd.grad(value, problem.fixed, allow_unused=True, retain_graph=True)
    assert problem.fixed
    assert all(gradient is None or gradient.count_nonzero() == 0 for gradient in gradients)
    (of_the_seed,) = torch.autograd.grad(value, problem.seed)
    assert of_the_seed.count_nonzero() > 0


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "Flat"])
def test_a_constant_seed_leaves_the_last_layer_its_gradient(rule, generator):
    """With stock Zennit it has none, whatever the parameters do."""
    problem = Problem(rule, "Linear", True, generator)
    problem.seed = problem.seed.detach()
    value = weighted_square(problem.relevance())
    gradients = torch.autograd.grad(value, problem.parameters, materialize_grads=True)
    assert gradients[0].count_nonzero() > 0


@pytest.mark.parametrize("zero_params", ["bias", ["weight"], ["weight", "bias"]], ids=str)
@pytest.mark.parametrize("rule", [Epsilon, Gamma, ZPlus, AlphaBeta, WSquare, Flat])
def test_zero_params(rule, zero_params, generator):
    problem = Problem("Epsilon", "Conv2d", True, generator)
    problem.composite = LayerMapComposite([(Linear, rule(zero_params=zero_params))])
    stock = copy.deepcopy(problem.model)
    expected = relevance_of(problem.composite, stock, problem.input.detach(), problem.seed.detach(), False)
    torch.testing.assert_close(problem.relevance().detach(), expected, rtol=1e-10, atol=1e-12)
