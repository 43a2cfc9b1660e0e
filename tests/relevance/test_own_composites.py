"""Composites and rules of a user's own, and modules that are used in unusual ways."""

from __future__ import annotations

import copy

import pytest
import torch
from explanations import assert_exact_gradients, assert_same, itself, relevance_of, weighted_square
from torch import nn
from user_rules import OwnBackward, Unchanged, make
from zennit.composites import (
    LayerMapComposite,
    MixedComposite,
    NameLayerMapComposite,
    NameMapComposite,
    SpecialFirstLayerMapComposite,
)
from zennit.core import BasicHook, Composite, Hook, ParamMod, Stabilizer
from zennit.layer import Sum
from zennit.rules import AlphaBeta, Epsilon, Flat, Gamma, Norm, Pass, ZPlus
from zennit.types import Activation, Convolution, Linear

from zennit_isnet.lrp.relevance.composite import differentiable

E = 1e-2


class Halved(Epsilon):
    """A subclassed rule; Zennit's `copy` keeps the pieces of a rule, not its attributes."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        reducer = self.reducer
        self.reducer = lambda inputs, gradients: 0.5 * reducer(inputs, gradients)


class Doubling(BasicHook):
    """A rule of pieces, one of which modifies the weight only."""

    def __init__(self):
        super().__init__(
            input_modifiers=[lambda x: x, lambda x: x.abs()],
            param_modifiers=[lambda parameter, name: 2 * parameter, ParamMod(lambda p, _: p.abs(), ["weight"])],
            output_modifiers=[lambda y: y, lambda y: y + 1],
            gradient_mapper=lambda upper, outputs: [upper / Stabilizer(E)(y) for y in outputs],
        )


class Sharpened(Hook):
    """Modifies the gradient by what it saw in the forward pass."""

    def forward(self, module, input, output):
        self.stored_tensors["input"] = input

    def backward(self, module, grad_input, grad_output):
        (x,) = self.stored_tensors["input"]
        return (grad_input[0] * torch.sigmoid(x) + 0 * grad_output[0].sum(),)


class MappedComposite(Composite):
    """A module map of the user's own."""

    def __init__(self):
        super().__init__(module_map=lambda ctx, name, module: Gamma(stabilizer=E) if name == "0" else None)


def mlp():
    return nn.Sequential(nn.Linear(4, 6), nn.Sigmoid(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def by_name():
    return NameMapComposite([(("0", "2"), AlphaBeta(stabilizer=E)), (("4",), Epsilon(epsilon=E))])


def by_type():
    return LayerMapComposite([(Activation, Pass()), (Linear, ZPlus(stabilizer=E))])


COMPOSITES = {
    "names": by_name,
    "mixed": lambda: MixedComposite([NameMapComposite([(("2",), Gamma(stabilizer=E))]), by_type()]),
    "names and types": lambda: NameLayerMapComposite(
        [(("0",), Gamma(stabilizer=E))], [(Linear, Epsilon(epsilon=E)), (Activation, Pass())]
    ),
    "special first layer": lambda: SpecialFirstLayerMapComposite([(Linear, Epsilon(epsilon=E))], [(Linear, Flat(E))]),
    "nested": lambda: MixedComposite([MixedComposite([by_name()]), by_type()]),
    "own map": MappedComposite,
    "subclassed rule": lambda: LayerMapComposite([(Linear, Halved(epsilon=E))]),
    "own pieces": lambda: LayerMapComposite([(Linear, Doubling())]),
    "own hook": lambda: LayerMapComposite([(nn.ReLU, Sharpened()), (Linear, Epsilon(epsilon=E))]),
    "own hook on all activations": lambda: LayerMapComposite([(Activation, Sharpened())]),
    "hook that returns nothing": lambda: LayerMapComposite([((Activation, Linear), Unchanged())]),
    "own backward": lambda: LayerMapComposite([(nn.ReLU, OwnBackward(stabilizer=E)), (Linear, Epsilon(epsilon=E))]),
    "callable stabilizer": lambda: LayerMapComposite([(Linear, Epsilon(epsilon=Stabilizer(0.1, clip=True)))]),
    "no rules": lambda: LayerMapComposite([]),
}


@pytest.mark.parametrize("composite", COMPOSITES)
def test_relevance_is_stock_zennits_and_its_gradient_exact(composite, generator):
    model, images = make(mlp(), generator)
    composite = COMPOSITES[composite]()
    seed = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    expected = relevance_of(composite, copy.deepcopy(model), images, seed, create_graph=False)
    ours = differentiable(composite)
    assert_same(relevance_of(ours, model, images, seed).detach(), expected)
    parameters = list(model.parameters())
    assert_exact_gradients(
        lambda: weighted_square(relevance_of(ours, model, images, seed)), {"parameters": parameters}, generator
    )


def test_a_hook_at_the_end_makes_a_graph_from_a_constant_seed(generator):
    """Zennit's own backward makes one only if the incoming relevance has one."""
    model, images = make(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), generator)
    composite = differentiable(LayerMapComposite([(nn.ReLU, OwnBackward(stabilizer=E)), (Linear, ZPlus(E))]))
    seed = torch.ones(4, 3, dtype=torch.float64)
    assert_exact_gradients(
        lambda: weighted_square(relevance_of(composite, model, images, seed)),
        {"parameters": list(model.parameters())},
        generator,
    )


def test_sum_modules_and_convolutions_of_users_types(generator):
    """Subclasses of layers have the rules of their types."""

    class OwnConvolution(nn.Conv2d):
        pass

    model = nn.Sequential(OwnConvolution(2, 3, 2), nn.ReLU(), nn.Flatten(1), nn.Unflatten(1, (6, 2)), Sum())
    model, images = make(model, generator, (2, 3, 3))
    composite = LayerMapComposite([(Sum, Norm(stabilizer=E)), (Convolution, Gamma(stabilizer=E)), (Activation, Pass())])
    expected = relevance_of(composite, copy.deepcopy(model), images, torch.Tensor.detach, create_graph=False)
    assert_same(relevance_of(differentiable(composite), model, images, itself).detach(), expected)
