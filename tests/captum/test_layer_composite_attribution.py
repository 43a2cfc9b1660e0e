"""`LayerCompositeAttribution` gives what `captum.attr.LayerLRP` and the gradient give at inner layers."""

from __future__ import annotations

import captum.attr
import nets
import pytest
import torch
from captum.attr._utils.lrp_rules import EpsilonRule
from explained_nets import COUNT, EXACT, TwoBranches, WithHead, make
from torch import nn
from zennit.composites import EpsilonPlus

from zennit_isnet import EpsilonZBox, LRPFlex, differentiable
from zennit_isnet.captum import CompositeAttribution, LayerCompositeAttribution
from zennit_isnet.errors import InvalidTypeError, InvalidValueError

LAYERS = ["conv", "relu", "inner", "last", "linear"]


@pytest.fixture
def images(generator):
    return nets.make_images(generator, COUNT)


@pytest.fixture
def model(generator):
    return make(WithHead, generator)


def equal(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("of_input", [False, True], ids=["output", "input"])
@pytest.mark.parametrize("layer", LAYERS)
def test_equals_activation_times_gradient(layer, of_input, model, images):
    found = LayerCompositeAttribution(model, model.get_submodule(layer), EXACT).attribute(
        images, 1, attribute_to_layer_input=of_input
    )
    model.relu.inplace = False  # Captum reads what an in-place operation overwrites
    expected = captum.attr.LayerGradientXActivation(model, model.get_submodule(layer)).attribute(
        images, 1, attribute_to_layer_input=of_input
    )
    assert expected.abs().max() > 1e-3
    equal(found, expected.detach())


@pytest.mark.parametrize("name", ["LRPFlex", "EpsilonZBox"])
@pytest.mark.parametrize("of_input", [False, True], ids=["output", "input"])
def test_equals_captums_layer_lrp_with_its_delta(of_input, name, model, images):
    composite = LRPFlex(1e-9) if name == "LRPFlex" else EpsilonZBox(epsilon=1e-9)
    layer = model.inner
    found = LayerCompositeAttribution(model, layer, composite).attribute(
        images, 1, return_convergence_delta=True, attribute_to_layer_input=of_input
    )
    for ruled in (model.conv, model.inner, model.linear):
        ruled.rule = EpsilonRule(1e-9)
    expected = captum.attr.LayerLRP(model, layer).attribute(
        images.clone().requires_grad_(), 1, return_convergence_delta=True, attribute_to_layer_input=of_input
    )
    for ours, captums in zip(found, expected, strict=True):
        captums = captums[0] if isinstance(captums, tuple) else captums
        assert captums.abs().max() > 1e-3
        torch.testing.assert_close(ours, captums.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("composite", [EXACT, differentiable(EpsilonPlus())], ids=["signal", "relevance"])
def test_the_input_of_the_first_layer_is_the_input_of_the_model(composite, model, images):
    relevance = LayerCompositeAttribution(model, model.conv, composite).attribute(
        images, 1, attribute_to_layer_input=True
    )
    equal(relevance, CompositeAttribution(model, composite).attribute(images, 1))


def test_a_list_of_layers_gives_lists_in_its_order(model, images):
    layers = [model.linear, model.conv, model.linear]
    relevance, delta = LayerCompositeAttribution(model, layers).attribute(images, 1, return_convergence_delta=True)
    for layer, its_relevance, its_delta in zip(layers, relevance, delta, strict=True):
        alone = LayerCompositeAttribution(model, layer).attribute(images, 1, return_convergence_delta=True)
        assert torch.equal(its_relevance, alone[0])
        assert torch.equal(its_delta, alone[1])


@pytest.mark.parametrize("composite", [EXACT, differentiable(EpsilonPlus())], ids=["signal", "relevance"])
@pytest.mark.parametrize("of_input", [False, True], ids=["output", "input"])
def test_a_layer_of_several_tensors_has_their_relevance(of_input, composite, images, generator):
    model = make(TwoBranches, generator)
    parts, delta = LayerCompositeAttribution(model, model.pair, composite).attribute(
        images, 1, return_convergence_delta=True, attribute_to_layer_input=of_input
    )
    assert isinstance(parts, tuple)
    of_branches = LayerCompositeAttribution(model, [model.left, model.right], composite).attribute(images, 1)
    for part, of_branch in zip(parts, of_branches, strict=True):
        assert part.abs().max() > 1e-3
        if of_input:
            equal(part, of_branch)
    equal(delta, model(images)[:, 1].detach() - sum(part.flatten(1).sum(1) for part in parts))


@pytest.mark.parametrize("of_input", [False, True], ids=["output", "input"])
def test_several_tensors_of_a_layer_equal_activation_times_gradient(of_input, images, generator):
    model = make(TwoBranches, generator)
    parts = LayerCompositeAttribution(model, model.pair, EXACT).attribute(images, 1, attribute_to_layer_input=of_input)
    left, right = model.left(images), model.right(images)
    if not of_input:
        left, right = left.relu(), 2 * right.relu()
    gradient = model.linear.weight[1].unflatten(0, left.shape[1:])
    expected = [left * gradient * (left > 0), right * gradient * (right > 0) * (2 if of_input else 1)]
    for part, by_hand in zip(parts, expected, strict=True):
        equal(part, by_hand.detach())


def test_arguments_without_relevance_have_zero(generator):
    model = make(lambda: nn.TransformerEncoderLayer(6, 2, 8, activation="gelu", batch_first=True), generator)
    net = nn.Sequential(model, nn.Flatten(), nn.Linear(24, 3)).double().eval()
    tokens = torch.rand(COUNT, 4, 6, generator=generator, dtype=torch.float64)
    query, key, value = LayerCompositeAttribution(net, model.self_attn).attribute(
        tokens, 1, attribute_to_layer_input=True
    )
    assert not query.any()
    assert not key.any()
    assert value.abs().max() > 1e-6


def test_it_interpolates_as_captum_does(model, images):
    attribution = LayerCompositeAttribution(model, model.inner)
    relevance = attribution.attribute(images, 1)
    assert isinstance(attribution, captum.attr.LayerAttribution)
    assert attribution.interpolate(relevance, (8, 8)).shape == (COUNT, 4, 8, 8)


def test_relevance_of_a_layer_can_be_differentiated(model, images):
    relevance = LayerCompositeAttribution(model, model.inner).attribute(images, 1, create_graph=True)
    relevance.square().sum().backward()
    assert model.conv.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        (lambda model: "conv", InvalidTypeError, r"a module of the model, or a list of modules; got 'conv'"),
        (lambda model: ["conv"], InvalidTypeError, r"got \['conv'\]"),
        (lambda model: nn.Linear(2, 2), InvalidValueError, "part of the model; got Linear"),
        (lambda model: [model.conv, nn.ReLU()], InvalidValueError, "part of the model; got ReLU"),
        (lambda model: model, InvalidValueError, "part of the model; got WithHead"),
        (lambda model: [], InvalidValueError, "got an empty list"),
    ],
)
def test_what_is_no_layer_of_the_model_is_refused(layer, error, message, model):
    with pytest.raises(error, match=message):
        LayerCompositeAttribution(model, layer(model))


def test_a_layer_that_does_not_run_is_an_error(model, images):
    model.unused = nn.ReLU()
    with pytest.raises(InvalidValueError, match="'unused' did not run"):
        LayerCompositeAttribution(model, model.unused).attribute(images, 1)


def test_a_layer_that_runs_twice_is_an_error(model, images):
    model.last = model.relu
    with pytest.raises(InvalidValueError, match="'relu' runs again"):
        LayerCompositeAttribution(model, model.relu).attribute(images, 1)


def test_a_layer_that_takes_a_list_is_an_error(images, generator):
    class OfList(nn.Module):
        def forward(self, parts):
            return torch.cat(parts, 1)

    model = make(WithHead, generator, lambda logits: model.last_layer([logits, logits]))
    model.last_layer = OfList()
    with pytest.raises(InvalidValueError, match="floating tensors, alone or in one tuple; 'last_layer' takes list"):
        LayerCompositeAttribution(model, model.last_layer).attribute(images, 1, attribute_to_layer_input=True)


def test_a_layer_inside_of_what_one_rule_covers_is_an_error(images, generator):
    model = make(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)),
        generator,
    )
    with pytest.raises(InvalidValueError, match="no relevance reaches layer '1'"):
        LayerCompositeAttribution(model, model[1], EpsilonZBox()).attribute(images, 1, attribute_to_layer_input=True)
