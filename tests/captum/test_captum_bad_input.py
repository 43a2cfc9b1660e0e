"""The model is the user's, whatever comes; what does not fit is refused with what came and what is allowed."""

from __future__ import annotations

import itertools

import pytest
import torch
from regularizer_models import BUILDERS, ModelState, Wrapped, batch, tiny_net, with_mixed_modes
from torch import nn
from zennit.composites import EpsilonPlus

from zennit_isnet import EpsilonZBox, LRPAttribution, LRPFlex, differentiable
from zennit_isnet.captum import CompositeAttribution, LayerCompositeAttribution
from zennit_isnet.errors import InvalidTypeError, InvalidValueError, UncoveredOperationError, UnsupportedModelError

COMPOSITES = {
    "LRPFlex": lambda: LRPFlex(),
    "EpsilonZBox": lambda: EpsilonZBox(box=(-2.0, 2.0)),
    "EpsilonPlus": lambda: differentiable(EpsilonPlus()),
}


@pytest.mark.parametrize("create_graph", [False, True], ids=["no graph", "graph"])
@pytest.mark.parametrize(
    ("model", "composite"),
    [
        *itertools.product(["tiny", "densenet-like"], COMPOSITES),
        # EpsilonZBox has no rule for the products of this net
        *itertools.product(["in-place first"], ["LRPFlex", "EpsilonPlus"]),
    ],
)
def test_an_explanation_changes_nothing_at_all(model, composite, create_graph):
    model, (images, _) = with_mixed_modes(BUILDERS[model]()), batch()
    images_before, before = images.clone(), ModelState(model)
    attribution = CompositeAttribution(model, COMPOSITES[composite]())
    relevance = attribution.attribute(images, 1, create_graph=create_graph)
    assert before.differences(ModelState(model)) == []
    assert torch.equal(images, images_before)
    assert not images.requires_grad
    if create_graph:
        relevance.square().sum().backward()
        assert any(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize("of_input", [False, True])
def test_an_explanation_of_a_layer_changes_nothing_at_all(of_input, composite):
    model, (images, _) = with_mixed_modes(tiny_net()), batch()
    before = ModelState(model)
    LayerCompositeAttribution(model, model[5 if not of_input else 3], COMPOSITES[composite]()).attribute(
        images, 1, attribute_to_layer_input=of_input
    )
    assert before.differences(ModelState(model)) == []


@pytest.mark.parametrize("composite", COMPOSITES)
def test_an_error_in_the_model_changes_nothing_at_all(composite):
    def fail(features):
        raise ZeroDivisionError

    model, (images, _) = with_mixed_modes(Wrapped(fail)), batch()
    before = ModelState(model)
    for attribution in (
        CompositeAttribution(model, COMPOSITES[composite]()),
        LayerCompositeAttribution(model, model.features[2], COMPOSITES[composite]()),
    ):
        with pytest.raises(ZeroDivisionError):
            attribution.attribute(images, 1)
    assert before.differences(ModelState(model)) == []


def test_an_operation_without_a_rule_is_an_error_and_changes_nothing():
    model, (images, _) = with_mixed_modes(Wrapped(torch.exp)), batch()
    before = ModelState(model)
    with pytest.raises(UncoveredOperationError, match="exp"):
        CompositeAttribution(model).attribute(images, 1)
    assert before.differences(ModelState(model)) == []


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (None, InvalidValueError, r"select one element of each example's output; got None for \(4, 3\)"),
        (3, InvalidValueError, r"target 3 does not fit an output of shape \(4, 3\)"),
        (-4, InvalidValueError, "target -4 does not fit"),
        (1.0, InvalidValueError, "does not fit .*float"),
        ("cat", InvalidValueError, "does not fit .*str"),
        (torch.tensor([0, 1, 2, 3]), InvalidValueError, r"lie in 0, ..., 2; got \[3\]"),
        (torch.tensor([0, 1, 2, -1]), InvalidValueError, r"lie in 0, ..., 2; got \[-1\]"),
        (torch.tensor([0.0, 1.0, 2.0, 1.0]), InvalidTypeError, "tensor of integers"),
        (torch.tensor(1.5), InvalidTypeError, "tensor of integers"),
        (torch.tensor([0, 1]), InvalidValueError, "does not fit"),
        (torch.tensor([[0, 1, 2, 1]]), InvalidValueError, "does not fit"),
        ([0, 1, 2, 3], InvalidValueError, r"lie in 0, ..., 2; got \[3\]"),
        ([0, 1, 2], InvalidValueError, "does not fit"),
        ([], InvalidValueError, "does not fit"),
        (["a", "b", "c", "d"], InvalidValueError, "does not fit"),
        ((1, 1), InvalidValueError, "does not fit"),
        ([(0,), (1,), (2,), (3,)], InvalidValueError, "does not fit"),
    ],
)
def test_a_target_outside_of_the_output_is_refused(target, error, message):
    model = tiny_net().eval()
    before = ModelState(model)
    with pytest.raises(error, match=message):
        CompositeAttribution(model).attribute(batch()[0], target)
    assert before.differences(ModelState(model)) == []


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ([torch.rand(2, 3, 8, 8)], InvalidTypeError, r"inputs must be a Tensor \(N, …\) or a tuple of them; got list"),
        ((), InvalidValueError, "got an empty tuple"),
        ((torch.rand(2, 3, 8, 8), None), InvalidTypeError, "got NoneType"),
        (torch.ones(2, 3, 8, 8, dtype=torch.uint8), InvalidTypeError, "floating point.*uint8"),
        (torch.ones(2, 3, 8, 8, dtype=torch.float16), InvalidTypeError, "float16"),
        (torch.tensor(1.0), InvalidValueError, r"without empty dimensions; got \(\)"),
        (torch.rand(0, 3, 8, 8), InvalidValueError, r"got \(0, 3, 8, 8\)"),
        (torch.rand(2, 3, 0, 8), InvalidValueError, r"got \(2, 3, 0, 8\)"),
        ((torch.rand(2, 3, 8, 8), torch.rand(3, 4)), InvalidValueError, r"the same batch size; got \[2, 3\]"),
    ],
)
def test_wrong_inputs_are_refused(inputs, error, message):
    with pytest.raises(error, match=message):
        CompositeAttribution(tiny_net().eval()).attribute(inputs, 1)


@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize(
    ("output", "error", "message"),
    [
        (lambda logits: [logits], InvalidTypeError, "floating tensor, or a named tuple of heads; got list"),
        (lambda logits: logits.argmax(1), InvalidTypeError, "got torch.int64"),
        (lambda logits: logits.sum(), InvalidValueError, r"one row for each of 4 examples; got shape \(\)"),
        (lambda logits: logits[:2], InvalidValueError, r"one row for each of 4 examples; got shape \(2, 3\)"),
    ],
)
def test_outputs_that_cannot_be_explained_are_refused(output, error, message, composite):
    model = nn.Sequential(tiny_net(), Function(output)).eval()
    with pytest.raises((error, UncoveredOperationError), match=f"{message}|carries no signal"):
        CompositeAttribution(model, COMPOSITES[composite]()).attribute(batch()[0], 1)


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, logits):
        return self.function(logits)


class Sum(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = tiny_net()

    def forward(self, first, second):
        return self.net(first) + self.net(second)


def test_images_outside_of_the_box_are_refused():
    with pytest.raises(InvalidValueError, match="must lie in the box"):
        CompositeAttribution(tiny_net().eval(), LRPFlex(box=(0.0, 1.0))).attribute(batch()[0] + 1, 1)


@pytest.mark.parametrize("make", [LRPFlex, EpsilonZBox])
def test_a_box_needs_a_single_input(make):
    images, _ = batch()
    with pytest.raises(InvalidValueError, match="z\\^B needs one image batch as input; got 2 tensors"):
        CompositeAttribution(Sum().eval(), make(box=(0.0, 1.0))).attribute((images, images), 1)


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (lambda: "resnet18", InvalidTypeError, "model must be a torch.nn.Module; got str"),
        (lambda: tiny_net().forward, InvalidTypeError, "model must be a torch.nn.Module; got method"),
        (lambda: nn.DataParallel(tiny_net()), UnsupportedModelError, "DataParallel"),
    ],
)
def test_what_is_no_model_is_refused(model, error, message):
    with pytest.raises(error, match=message):
        CompositeAttribution(model())


@pytest.mark.parametrize("attribution", [CompositeAttribution, lambda _, composite: LRPAttribution(composite)])
@pytest.mark.parametrize(
    ("composite", "message"),
    [
        (EpsilonPlus(), r"got EpsilonPlus; wrap it: differentiable\(composite\)"),
        (LRPFlex, "got the class LRPFlex$"),
        ("lrp_flex", "got str$"),
    ],
)
def test_what_is_no_composite_of_this_package_is_refused(composite, message, attribution):
    with pytest.raises(InvalidTypeError, match=message):
        attribution(tiny_net(), composite)


def test_in_inference_mode_there_is_no_explanation():
    with torch.inference_mode(), pytest.raises(InvalidValueError, match="inference_mode"):
        CompositeAttribution(tiny_net().eval()).attribute(torch.rand(2, 3, 8, 8), 1)


def test_attributions_of_another_number_of_examples_have_no_delta():
    attribution = CompositeAttribution(tiny_net())
    with pytest.raises(InvalidValueError, match=r"\[3\] examples do not match 2 outputs"):
        attribution.compute_convergence_delta(torch.rand(3, 4), torch.rand(2))
