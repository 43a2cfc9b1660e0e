"""`CompositeAttribution` takes what Captum's attributions take, and returns what LRP and the gradient say."""

from __future__ import annotations

from typing import NamedTuple

import captum.attr
import nets
import pytest
import torch
from captum.attr._utils.lrp_rules import EpsilonRule
from explained_nets import CLASSES, COUNT, EXACT, TwoInputs, WithHead, make, two_inputs
from finite_differences import TOLERANCE, backward_gradients, worst_relative_error
from torch import nn
from zennit.composites import EpsilonPlus

from zennit_isnet import EpsilonZBox, LRPFlex, ZPlus, differentiable
from zennit_isnet.captum import CompositeAttribution

COMPOSITES = {
    "LRPFlex": lambda: LRPFlex(),
    "LRPFlex with z^B": lambda: LRPFlex(box=(0.0, 1.0)),
    "EpsilonZBox": lambda: EpsilonZBox(),
    "EpsilonPlus": lambda: differentiable(EpsilonPlus()),
    "ZPlus": lambda: ZPlus(),
}

HEADS = {
    "(N, C)": lambda logits: logits,
    "(N, 1)": lambda logits: logits[:, :1],
    "(N,)": lambda logits: logits.sum(1),
    "(N, C, 2)": lambda logits: torch.stack([logits, 2 * logits], 2),
}
TARGETS = [
    ("(N, C)", 2),
    ("(N, C)", -1),
    ("(N, C)", torch.tensor(3)),
    ("(N, C)", torch.tensor([3])),
    ("(N, C)", torch.tensor([0, 4, 1, 1])),
    ("(N, C)", [0, 4, 1, 1]),
    ("(N, C)", (2,)),
    ("(N, C)", [(0,), (4,), (1,), (1,)]),
    ("(N, 1)", None),
    ("(N, 1)", 0),
    ("(N,)", None),
    ("(N, C, 2)", (3, 1)),
    ("(N, C, 2)", [(3, 1), (0, 0), (4, 1), (0, 1)]),
]


class Heads(NamedTuple):
    main: torch.Tensor
    auxiliary: torch.Tensor


@pytest.fixture
def images(generator):
    return nets.make_images(generator, COUNT)


def equal(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("head", "target"), TARGETS)
def test_every_kind_of_target_means_what_it_means_in_captum(head, target, images, generator):
    model = make(WithHead, generator, HEADS[head])
    relevance = CompositeAttribution(model, EXACT).attribute(images, target)
    expected = captum.attr.InputXGradient(model).attribute(images.clone().requires_grad_(), target).detach()
    assert expected.abs().max() > 1e-3
    equal(relevance, expected)


@pytest.mark.parametrize("name", ["EpsilonZBox", "LRPFlex"])
def test_equals_captum_lrp_with_its_delta(name, images, generator):
    epsilon = 1e-9
    composite = EpsilonZBox(epsilon=epsilon) if name == "EpsilonZBox" else LRPFlex(epsilon)
    model = make(WithHead, generator)
    found = CompositeAttribution(model, composite).attribute(images, 1, return_convergence_delta=True)
    for layer in (model.conv, model.inner, model.linear):
        layer.rule = EpsilonRule(epsilon)
    expected = captum.attr.LRP(model).attribute(images.clone().requires_grad_(), 1, return_convergence_delta=True)
    for ours, captums in zip(found, expected, strict=True):
        assert captums.abs().max() > 1e-3
        torch.testing.assert_close(ours, captums.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "arguments",
    [None, 0.5, (0.5,), (2.0, torch.ones(COUNT, CLASSES).double())],
    ids=["none", "number", "tuple", "with a tensor"],
)
def test_several_inputs_get_their_own_relevance(arguments, generator):
    model, inputs = make(TwoInputs, generator), two_inputs(generator)
    relevance, delta = CompositeAttribution(model, EXACT).attribute(inputs, 1, arguments, return_convergence_delta=True)
    live = tuple(value.clone().requires_grad_() for value in inputs)
    expected = captum.attr.InputXGradient(model).attribute(live, 1, arguments)
    assert isinstance(relevance, tuple)
    for ours, captums in zip(relevance, expected, strict=True):
        assert captums.abs().max() > 1e-3
        equal(ours, captums.detach())
    further = () if arguments is None else arguments if isinstance(arguments, tuple) else (arguments,)
    total = sum(part.flatten(1).sum(1) for part in relevance)
    equal(delta, model(*inputs, *further)[:, 1].detach() - total)


def test_a_tuple_of_one_input_gives_a_tuple_of_one(images, generator):
    attribution = CompositeAttribution(make(WithHead, generator))
    (relevance,) = attribution.attribute((images,), 1)
    assert torch.equal(relevance, attribution.attribute(images, 1))


def test_one_tensor_as_two_inputs_is_two_inputs(generator):
    class Weighted(nn.Module):
        def forward(self, left, right):
            return 2 * left + 3 * right

    values = torch.rand(COUNT, 1, dtype=torch.float64, requires_grad=True)
    for create_graph in (False, True):
        left, right = CompositeAttribution(Weighted()).attribute((values, values), create_graph=create_graph)
        equal(left.detach(), 2 * values.detach())
        equal(right.detach(), 3 * values.detach())


@pytest.mark.parametrize("name", COMPOSITES)
def test_a_batch_is_its_examples(name, images, generator):
    attribution = CompositeAttribution(make(WithHead, generator), COMPOSITES[name]())
    target = torch.tensor([0, 4, 1, 1])
    whole, delta = attribution.attribute(images, target, return_convergence_delta=True)
    for index in range(COUNT):
        one, its_delta = attribution.attribute(
            images[index : index + 1], target[index : index + 1], return_convergence_delta=True
        )
        equal(one[0], whole[index])
        equal(its_delta[0], delta[index])


def test_the_delta_is_the_share_of_the_biases(images, generator):
    model = make(WithHead, generator)
    _, delta = CompositeAttribution(model, EXACT).attribute(images, 2, return_convergence_delta=True)
    biases = [layer.bias for layer in (model.conv, model.inner, model.linear)]
    for index in range(COUNT):
        signals = torch.autograd.grad(model(images)[index, 2], biases)
        share = sum((bias * signal).sum() for bias, signal in zip(biases, signals, strict=True))
        equal(delta[index], share.detach())


@pytest.mark.parametrize("name", COMPOSITES)
def test_without_biases_the_delta_is_zero_as_epsilon_is(name, images, generator):
    small = {
        "LRPFlex": lambda: LRPFlex(1e-12),
        "LRPFlex with z^B": lambda: LRPFlex(1e-12, box=(0.0, 1.0)),
        "EpsilonZBox": lambda: EpsilonZBox(epsilon=1e-12),
        "EpsilonPlus": lambda: differentiable(EpsilonPlus(epsilon=1e-12, stabilizer=1e-12)),
        "ZPlus": lambda: ZPlus(epsilon=1e-12),
    }
    model = nets.without_biases(make(WithHead, generator))
    relevance, delta = CompositeAttribution(model, small[name]()).attribute(images, 2, return_convergence_delta=True)
    assert relevance.abs().max() > 1e-3
    assert delta.abs().max() <= 1e-8 * relevance.flatten(1).sum(1).abs().max()


def test_it_says_what_captum_asks(images, generator):
    model = make(WithHead, generator)
    attribution = CompositeAttribution(model)
    assert attribution.multiplies_by_inputs is True
    assert attribution.has_convergence_delta() is True
    assert isinstance(attribution, captum.attr.GradientAttribution)
    assert attribution.forward_func is model
    assert attribution.get_name() == "Composite Attribution"
    relevance, delta = attribution.attribute(images, 0, return_convergence_delta=True)
    output = model(images)[:, 0].detach()
    assert torch.equal(attribution.compute_convergence_delta(relevance, output), delta)
    assert torch.equal(attribution.compute_convergence_delta((relevance,), output), delta)


def test_relevance_has_a_graph_only_if_asked_for(images, generator):
    attribution = CompositeAttribution(make(WithHead, generator))
    found = attribution.attribute(images.requires_grad_(), 0, return_convergence_delta=True)
    assert not any(part.requires_grad for part in found)
    assert attribution.attribute(images, 0, create_graph=True).requires_grad
    assert images.grad is None


# each composite with respect to both, and both in each mode
@pytest.mark.parametrize(
    ("composite", "of", "training"),
    [
        (LRPFlex(0.1), "parameters", True),
        (LRPFlex(0.1), "images", False),
        (differentiable(EpsilonPlus(epsilon=0.1)), "parameters", False),
        (differentiable(EpsilonPlus(epsilon=0.1)), "images", True),
    ],
)
def test_gradients_agree_with_finite_differences(composite, of, training, images, generator):
    model = nets.make("plain", generator, training=training)
    attribution = CompositeAttribution(model, composite)
    leaves = list(model.parameters()) if of == "parameters" else [images.requires_grad_()]

    def value():
        return attribution.attribute(images, [0, 1, 2, 0], create_graph=True).square().sum()

    gradients = backward_gradients(value(), leaves)
    assert worst_relative_error(lambda: value().item(), leaves, gradients, generator) <= TOLERANCE


def test_a_named_tuple_of_heads_is_explained_by_the_first(images, generator):
    model = make(WithHead, generator, lambda logits: Heads(logits, -logits))
    relevance = CompositeAttribution(model).attribute(images, 1)
    model.head = HEADS["(N, C)"]
    assert torch.equal(relevance, CompositeAttribution(model).attribute(images, 1))
