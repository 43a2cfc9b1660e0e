"""The user's model is sacred: what training with a differentiable composite leaves of it is what it was."""

from __future__ import annotations

import copy
import gc
import weakref

import nets
import pytest
import torch
from built_in import every_composite, every_composite_in_one_mode, ours
from explanations import (
    LABELS,
    assert_same_gradients,
    changed_values,
    itself,
    loss_gradients,
    plain_gradients,
    relevance_of,
    state_of,
    values_of,
    weighted_square,
)
from stock_zennit import MAJOR
from torch import nn
from torch.nn import functional as F
from zennit.composites import EpsilonPlus

from zennit_isnet.lrp.relevance.composite import FuseBatchNorm, MakeFunctionsVisible, differentiable

STEPS = 3

both_nets = pytest.mark.parametrize("net", ["residual", "concatenating"])
both_modes = pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])


@pytest.fixture
def problem(generator):
    return nets.make("residual", generator), nets.make_images(generator)


def unmoved_by_training(composite, model, images, optimizer):
    """Names of the parameters that the last of three training steps with relevance in the loss left where they were."""
    for _ in range(STEPS):
        before, source = values_of(model), images.clone().requires_grad_()
        with composite.context(model):
            logits = model(source)
            (relevance,) = torch.autograd.grad(logits, source, logits, create_graph=True)
        loss = F.cross_entropy(logits, LABELS) + weighted_square(relevance).log1p()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])]


TAKEN_OUT = {"residual": {"grouped.bias"}, "concatenating": {"stem.bias", "depthwise.bias"}}
"""Biases before a BatchNorm, which the mean of the batch takes out: they have no gradient in any training."""


@every_composite("residual", "concatenating")
def test_an_optimizer_built_before_moves_every_parameter(net, composite, training, generator):
    model, images = nets.make(net, generator, training=training), nets.make_images(generator)
    held = [id(parameter) for parameter in model.parameters()]
    keys = list(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    unmoved = unmoved_by_training(ours(composite, 1e-2), model, images, optimizer)
    assert set(unmoved) <= (TAKEN_OUT[net] if training else set())
    assert [id(parameter) for parameter in model.parameters()] == held
    assert list(model.state_dict()) == keys


def test_with_stock_zennit_1_the_optimizer_moves_nothing(generator):
    """From the second step on, it holds parameters that the model no longer has; Zennit 0.5 keeps them."""
    model, images = nets.make("plain", generator), nets.make_images(generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    unmoved = unmoved_by_training(EpsilonPlus(), model, images, optimizer)
    with_a_rule = [name for name, _ in model.named_parameters() if not name.startswith("7.")]  # all but BatchNorm
    assert unmoved == (with_a_rule if MAJOR > 0 else [])


@every_composite("residual", "concatenating")
def test_nothing_is_left_on_the_model(net, training, composite, generator):
    model, images = nets.make(net, generator, training=training), nets.make_images(generator)
    plain = copy.deepcopy(model)
    model.register_forward_hook(lambda module, args, output: None)
    model.stem.register_full_backward_hook(lambda module, grad_input, grad_output: None)
    before = state_of(model)
    torch.manual_seed(0)
    with torch.enable_grad():
        expected = plain(images)
    torch.manual_seed(0)
    source = images.clone().requires_grad_()
    with ours(composite).context(model):
        logits = model(source)
        torch.autograd.grad(logits, source, logits, create_graph=True)
    assert torch.equal(logits, expected)
    assert state_of(model) == before
    # running statistics too are those of one plain forward
    assert changed_values(model, values_of(plain)) == []


@pytest.mark.parametrize("canonizers", [None, [FuseBatchNorm()], [FuseBatchNorm(), MakeFunctionsVisible()]])
def test_an_error_in_the_model_leaves_it_usable(canonizers, problem):
    model, images = problem
    composite = differentiable(EpsilonPlus(), canonizers=canonizers)
    before, values, expected = state_of(model), values_of(model), plain_gradients(model, images)
    handle = model.grouped_norm.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="the model's own"):
        relevance_of(composite, model, images, itself)
    handle.remove()
    assert state_of(model) == before
    assert changed_values(model, values) == []
    assert_same_gradients(plain_gradients(model, images), expected)


def fail(*args):
    raise RuntimeError("the model's own")


@both_modes
@both_nets
def test_inactive_makes_backward_ordinary(net, training, generator):
    model, images = nets.make(net, generator, training=training), nets.make_images(generator)
    expected = plain_gradients(model, images)
    images.requires_grad_()
    composite = ours("EpsilonPlus")
    with composite.context(model):
        torch.manual_seed(0)
        logits = model(images)
        with composite.inactive():
            gradients = loss_gradients(logits, model, images)
        (relevance,) = torch.autograd.grad(logits, images, logits)
    assert_same_gradients(gradients, expected)
    assert not torch.allclose(relevance, expected[0])


def test_the_gradient_of_relevance_may_be_taken_inside_while_inactive(problem):
    model, images = problem
    parameters = list(model.parameters())
    value = weighted_square(relevance_of(ours("EpsilonPlus"), model, images, itself))
    expected = torch.autograd.grad(value, parameters, materialize_grads=True)
    composite, source = ours("EpsilonPlus"), images.clone().requires_grad_()
    with composite.context(model):
        logits = model(source)
        (relevance,) = torch.autograd.grad(logits, source, logits, create_graph=True)
        with composite.inactive():
            gradients = torch.autograd.grad(weighted_square(relevance), parameters, materialize_grads=True)
    assert_same_gradients(gradients, expected)


@every_composite("residual", "concatenating")
def test_backward_of_an_old_graph_is_ordinary_after_the_context(net, training, composite, generator):
    model, images = nets.make(net, generator, training=training), nets.make_images(generator)
    expected = plain_gradients(model, images)
    images.requires_grad_()
    composite = ours(composite)
    with composite.context(model):
        torch.manual_seed(0)
        logits = model(images)
    assert_same_gradients(loss_gradients(logits, model, images), expected)
    with composite.context(model):  # another registration does not wake the old graph
        assert_same_gradients(loss_gradients(logits, model, images), expected)


def test_the_forward_pass_is_untouched_whether_or_not_it_has_gradients(problem):
    model, images = problem
    expected = model(images)
    with ours("EpsilonPlus").context(model):
        with torch.no_grad():
            assert torch.equal(model(images.clone().requires_grad_()), expected)
        assert torch.equal(model(images), expected)


def test_images_keep_their_values_and_flags(generator):
    """Also where the first operation works in place."""
    model = nn.Sequential(nn.ReLU(inplace=True), nets.plain_net()).double().eval()
    images = nets.make_images(generator) - 0.5
    before, source = images.clone(), images.clone().requires_grad_()
    with ours("EpsilonPlus").context(model):
        logits = model(source + 0)
        torch.autograd.grad(logits, source, logits)
    assert torch.equal(source, before)
    assert source.grad is None


class Kept:
    """What autograd keeps of a tensor."""

    def __init__(self, tensor):
        self.tensor = tensor


@every_composite_in_one_mode
def test_graphs_are_freed_without_the_garbage_collector(composite, training, generator):
    """A rule that keeps its relevance, whose graph keeps the rule, would keep all activations of each step."""
    model, images = nets.make("residual", generator, training=training), nets.make_images(generator)
    kept = weakref.WeakSet()

    def keep(tensor):
        holder = Kept(tensor.detach())
        kept.add(holder)
        return holder

    gc.collect()
    gc.disable()
    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda holder: holder.tensor):
            relevance = relevance_of(ours(composite), model, images, itself)
        assert relevance.requires_grad
        assert len(kept) > 0
        del relevance
        assert len(kept) == 0
    finally:
        gc.enable()
