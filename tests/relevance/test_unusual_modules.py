"""Modules with several inputs or options, in several places, and in place."""

from __future__ import annotations

import copy

import pytest
import torch
from explanations import assert_exact_gradients, assert_same, itself, relevance_of, state_of, weighted_square
from stock_zennit import MAJOR
from torch import nn
from torch.nn import functional as F
from zennit.composites import (
    LayerMapComposite,
)
from zennit.core import Hook
from zennit.rules import AlphaBeta, Epsilon, Pass
from zennit.types import Activation, Linear

from zennit_isnet.errors import UnsupportedModelError
from zennit_isnet.lrp.relevance.composite import differentiable

E = 1e-2


class Unchanged(Hook):
    """Returns nothing: the ordinary gradient."""


def make(model, generator, shape=(4,), count=4):
    model = copy.deepcopy(model).double()
    for parameter in model.parameters():
        parameter.data.normal_(generator=generator)
    return model, torch.randn(count, *shape, generator=generator, dtype=torch.float64)


class TwoInputs(nn.Module):
    """A weighted product of two inputs."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(5))

    def forward(self, left, right):
        return self.weight * left * right.sigmoid()


class TwoBranches(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.both, self.head = nn.Linear(4, 5), nn.Linear(4, 5), TwoInputs(), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.both(self.left(x), self.right(x)))


class Scaled(Hook):
    """Modifies the gradient of each input."""

    def backward(self, module, grad_input, grad_output):
        return tuple(None if g is None else (i + 2) * g for i, g in enumerate(grad_input))


@pytest.mark.parametrize("rule", [Unchanged, Scaled])
def test_hooks_see_the_gradient_of_each_input(rule, generator):
    model, images = make(TwoBranches(), generator)
    composite = LayerMapComposite([(TwoInputs, rule())])
    seed = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    expected = relevance_of(composite, copy.deepcopy(model), images, seed, create_graph=False)
    ours = differentiable(composite)
    assert_same(relevance_of(ours, model, images, seed).detach(), expected)
    assert_exact_gradients(
        lambda: weighted_square(relevance_of(ours, model, images, seed)),
        {"parameters": list(model.parameters())},
        generator,
    )


def test_pass_on_a_module_of_two_inputs_is_refused(generator):
    model, images = make(TwoBranches(), generator)
    before = state_of(model)
    composite = differentiable(LayerMapComposite([(TwoInputs, Pass())]))
    with pytest.raises(UnsupportedModelError, match=r"both \(TwoInputs\): Pass: .*\(4, 5\).*use another rule"):
        relevance_of(composite, model, images, itself)
    assert state_of(model) == before


class WithOptions(nn.Module):
    """A module that takes options by position and by keyword."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(5, 4))

    def forward(self, x, power=1, *, shift=0.0):
        return F.linear(x, self.weight**power) + shift


class CallsWithOptions(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.head = WithOptions(), nn.Linear(5, 3)
        self.by_position = True

    def forward(self, x):
        hidden = self.inner(x, 2, shift=0.5) if self.by_position else self.inner(x, power=2, shift=0.5)
        return self.head(hidden)


def test_options_of_a_call_reach_the_rule(generator):
    model, images = make(CallsWithOptions(), generator)
    composite = LayerMapComposite([((WithOptions, nn.Linear), Epsilon(epsilon=E))])
    ours = differentiable(composite)
    relevance = relevance_of(ours, model, images, itself)
    z = images @ model.inner.weight.T.square() + 0.5
    y = model.head(z)
    at_z = z * (y / (y + E * y.sign()) @ model.head.weight)
    expected = images * (at_z / (z + E * z.sign()) @ model.inner.weight.square())
    assert_same(relevance.detach(), expected.detach())
    if MAJOR > 0:  # Zennit 0.5 does not know keyword arguments, and 1.0 fails for numbers by position
        model.by_position = False
        assert_same(
            relevance.detach(), relevance_of(composite, copy.deepcopy(model), images, torch.Tensor.detach, False)
        )
    assert_exact_gradients(
        lambda: weighted_square(relevance_of(ours, model, images, itself)),
        {"parameters": list(model.parameters())},
        generator,
    )


class ByKeyword(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, x):
        return self.inner(input=x)


def test_an_input_by_keyword_is_refused_instead_of_left_without_its_rule(generator):
    model, images = make(ByKeyword(), generator)
    with pytest.raises(UnsupportedModelError, match=r"inner \(Linear\): Epsilon: .*pass it by position"):
        relevance_of(differentiable(LayerMapComposite([(nn.Linear, Epsilon())])), model, images, itself)


class Reused(nn.Module):
    """One layer and one activation in several places."""

    def __init__(self, inplace=False):
        super().__init__()
        self.layer, self.relu, self.head = nn.Linear(4, 4), nn.ReLU(inplace), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.relu(self.layer(self.relu(self.layer(x)))))


class Unrolled(nn.Module):
    """The same network with a module for each place."""

    def __init__(self, reused):
        super().__init__()
        first, second = copy.deepcopy(reused.layer), copy.deepcopy(reused.layer)
        self.steps = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), copy.deepcopy(reused.head))

    def forward(self, x):
        return self.steps(x)


@pytest.mark.parametrize("inplace", [False, True], ids=["", "in place"])
def test_reused_modules(inplace, generator):
    model, images = make(Reused(inplace), generator, count=16)
    stock = LayerMapComposite([(Activation, Pass()), (Linear, AlphaBeta(stabilizer=E))])
    expected = relevance_of(stock, Unrolled(model), images, torch.Tensor.detach, create_graph=False)
    ours = differentiable(stock)
    assert_same(relevance_of(ours, model, images, itself).detach(), expected)
    assert_exact_gradients(
        lambda: weighted_square(relevance_of(ours, model, images, itself)),
        {"parameters": list(model.parameters())},
        generator,
    )


class OverwrittenInput(nn.Module):
    """Changes in place what an activation has read, which PyTorch allows: a ReLU keeps its output only."""

    def __init__(self):
        super().__init__()
        self.first, self.relu, self.head = nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)

    def forward(self, x):
        z = self.first(x) + 0
        a = self.relu(z)
        z += 1
        return self.head(a)


def test_pass_keeps_no_tensor_that_the_model_may_overwrite(generator):
    model, images = make(OverwrittenInput(), generator)
    composite = differentiable(LayerMapComposite([(Activation, Pass()), (Linear, Epsilon(epsilon=E))]))
    relevance = relevance_of(composite, model, images, itself)
    sequential = nn.Sequential(model.first, model.relu, model.head)
    assert_same(relevance.detach(), relevance_of(composite, sequential, images, itself).detach())


class Tupled(nn.Module):
    """A layer that returns more than its output."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 4))

    def forward(self, x):
        return F.linear(x, self.weight), {"rows": len(x)}


class CallsTupled(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Tupled()

    def forward(self, x):
        y, rest = self.inner(x)
        assert rest == {"rows": len(x)}
        return y


def test_the_first_of_several_outputs_has_the_rule(generator):
    model, images = make(CallsTupled(), generator)
    relevance = relevance_of(differentiable(LayerMapComposite([(Tupled, Epsilon(epsilon=E))])), model, images, itself)
    y = images @ model.inner.weight.T
    assert_same(relevance.detach(), (images * (y / (y + E * y.sign()) @ model.inner.weight)).detach())
