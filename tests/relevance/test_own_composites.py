"""Composites and rules of a user's own, and modules that are used in unusual ways."""

from __future__ import annotations

import copy

import nets
import pytest
import torch
from explanations import assert_exact_gradients, assert_same, itself, relevance_of, state_of, weighted_square
from stock_zennit import MAJOR
from torch import nn
from torch.nn import functional as F
from zennit.canonizers import NamedMergeBatchNorm
from zennit.composites import (
    EpsilonPlus,
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

from zennit_isnet.composites import LRPFlex
from zennit_isnet.errors import InvalidTypeError, InvalidValueError, UnsupportedModelError
from zennit_isnet.relevance.canonizers import FuseBatchNorm
from zennit_isnet.relevance.composite import differentiable

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


class Unchanged(Hook):
    """Returns nothing: the ordinary gradient."""


class OwnBackward(BasicHook):
    """Calls Zennit's own computation, which reads ``param.data``."""

    def backward(self, module, grad_input, grad_output):
        return tuple(2 * r for r in super().backward(module, grad_input, grad_output))


class OwnRegistration(Epsilon):
    def pre_forward(self, module, *args):
        return None


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


def make(model, generator, shape=(4,), count=4):
    model = copy.deepcopy(model).double()
    for parameter in model.parameters():
        parameter.data.normal_(generator=generator)
    return model, torch.randn(count, *shape, generator=generator, dtype=torch.float64)


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
    with pytest.raises(UnsupportedModelError, match=r"both \(TwoInputs\): Pass: .*\(4, 5\).*give the module another"):
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


REFUSED = {
    "own backward on a layer": (nn.Linear(4, 3), OwnBackward(), r"1 \(Linear\): OwnBackward overrides BasicHook.back"),
    "rule on dropout": (nn.Dropout(), Norm(), r"1 \(Dropout\): Norm .*random.*Pass"),
    "hook on dropout": (nn.Dropout(), Unchanged(), r"1 \(Dropout\): Unchanged .*random.*Pass"),
    "random activation": (nn.RReLU(), Norm(), r"1 \(RReLU\): Norm .*random.*Pass"),
    "own registration": (nn.Linear(4, 3), OwnRegistration(), r"OwnRegistration overrides pre_forward"),
    "no rule": (nn.Linear(4, 3), "epsilon", r"1 \(Linear\): str is no rule"),
    "computed weights": (nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), ZPlus(), "remove the parametrization"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_rules_that_would_be_wrong_are_refused_and_nothing_stays(case):
    module, rule, message = REFUSED[case]
    model = nn.Sequential(nn.ReLU(), module, nn.Tanh())
    before = state_of(model)
    # rules on modules before and after are registered and have to go again
    composite = differentiable(LayerMapComposite([(type(module), rule), ((nn.Linear, nn.ReLU), Epsilon())]))
    with pytest.raises(UnsupportedModelError, match=message), composite.context(model):
        pass
    assert state_of(model) == before
    assert not composite.handles


def test_missing_parameters_of_a_rule_are_named(generator):
    model, images = make(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), generator)
    rule = BasicHook(param_modifiers=[ParamMod(lambda p, _: p, param_keys=["gain"])])
    composite = differentiable(LayerMapComposite([(nn.ReLU, rule)]))
    with pytest.raises(UnsupportedModelError, match=r"ReLU.*\['gain'\].*another rule"):
        relevance_of(composite, model, images, itself)


def test_a_batch_norm_with_its_own_rule_and_a_fusion_is_refused(generator):
    model = nets.make("residual", generator)
    before = state_of(model)
    composite = EpsilonPlus(layer_map=[(nn.BatchNorm2d, Epsilon())])
    with (
        pytest.raises(UnsupportedModelError, match=r"stem_norm.*Epsilon.*Pass or no rule, or leave out"),
        differentiable(composite, canonizers=[FuseBatchNorm()]).context(model),
    ):
        pass
    assert state_of(model) == before


def test_merging_several_layers_into_one_batch_norm_is_refused():
    canonizer = NamedMergeBatchNorm([(("a", "b"), "norm")])
    with pytest.raises(InvalidValueError, match="one layer at a time"):
        differentiable(LayerMapComposite([], canonizers=[canonizer]))


@pytest.mark.parametrize("value", [None, "epsilon_plus", EpsilonPlus, Epsilon()], ids=["None", "name", "class", "rule"])
def test_what_is_no_composite_is_refused(value):
    with pytest.raises(InvalidTypeError, match=r"composite must be a zennit.core.Composite, got"):
        differentiable(value)


def test_a_composite_that_propagates_signals_is_refused():
    with pytest.raises(InvalidTypeError, match="LRPFlex is differentiable as it is"):
        differentiable(LRPFlex())


def test_what_is_no_canonizer_is_refused():
    with pytest.raises(InvalidTypeError, match="canonizers must be"):
        differentiable(EpsilonPlus(), canonizers=[FuseBatchNorm])


def test_requests_are_refused_by_zennits_own_composites():
    with pytest.raises(UnsupportedModelError, match=r"FuseBatchNorm works in differentiable\(composite"):
        EpsilonPlus(canonizers=[FuseBatchNorm()]).register(nn.Linear(2, 2))


def test_sum_modules_and_convolutions_of_users_types(generator):
    """Subclasses of layers have the rules of their types."""

    class OwnConvolution(nn.Conv2d):
        pass

    model = nn.Sequential(OwnConvolution(2, 3, 2), nn.ReLU(), nn.Flatten(1), nn.Unflatten(1, (6, 2)), Sum())
    model, images = make(model, generator, (2, 3, 3))
    composite = LayerMapComposite([(Sum, Norm(stabilizer=E)), (Convolution, Gamma(stabilizer=E)), (Activation, Pass())])
    expected = relevance_of(composite, copy.deepcopy(model), images, torch.Tensor.detach, create_graph=False)
    assert_same(relevance_of(differentiable(composite), model, images, itself).detach(), expected)
