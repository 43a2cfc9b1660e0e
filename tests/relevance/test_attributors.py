"""Differentiable composites in Zennit's attributors."""

from __future__ import annotations

import nets
import pytest
import torch
from built_in import ours
from explanations import assert_exact_gradients, assert_same, itself, relevance_of, state_of, weighted_square
from zennit.attribution import Gradient, IntegratedGradients, SmoothGrad

from zennit_isnet.lrp.relevance.composite import DifferentiableComposite

N_ITER = 3


@pytest.fixture
def problem(generator):
    return nets.make("residual", generator), nets.make_images(generator)


def smooth_grad(model, composite, **options):
    return SmoothGrad(model, composite, noise_level=0.1, n_iter=N_ITER, **options)


def integrated_gradients(model, composite, **options):
    return IntegratedGradients(model, composite, n_iter=N_ITER, **options)


ATTRIBUTORS = {"Gradient": Gradient, "SmoothGrad": smooth_grad, "IntegratedGradients": integrated_gradients}


def attribute(attributor, model, images, create_graph=True):
    torch.manual_seed(0)
    with ATTRIBUTORS[attributor](model, ours("EpsilonPlus", 1e-2), create_graph=create_graph) as attribution:
        return attribution(images, itself)


def by_hand(attributor, model, images):
    """The attributors' averages of our relevance."""

    def explain(batch):
        return relevance_of(ours("EpsilonPlus", 1e-2), model, batch.detach(), itself)

    if attributor == "Gradient":
        return explain(images)
    if attributor == "SmoothGrad":
        torch.manual_seed(0)
        width = (images.amax((1, 2, 3), keepdim=True) - images.amin((1, 2, 3), keepdim=True)) * 0.1
        # Zennit leaves the last of the batches without noise
        batches = [images + torch.randn_like(images) * width for _ in range(N_ITER - 1)] + [images]
        return sum(map(explain, batches)) / N_ITER
    steps = torch.linspace(1 / N_ITER, 1.0, N_ITER)  # in single precision, as Zennit's
    return images * sum(explain(step * images) for step in steps) / N_ITER


@pytest.mark.parametrize("attributor", ATTRIBUTORS)
def test_the_average_is_that_of_single_explanations(attributor, problem):
    model, images = problem
    before = state_of(model)
    logits, relevance = attribute(attributor, model, images)
    assert_same(logits.detach(), model(images).detach())
    assert_same(relevance.detach(), by_hand(attributor, model, images).detach())
    assert state_of(model) == before


@pytest.mark.parametrize("attributor", ATTRIBUTORS)
def test_the_gradient_is_that_of_single_explanations(attributor, problem):
    model, images = problem
    parameters = list(model.parameters())
    relevance, expected = attribute(attributor, model, images)[1], by_hand(attributor, model, images)
    actual = torch.autograd.grad(weighted_square(relevance), parameters, materialize_grads=True)
    wanted = torch.autograd.grad(weighted_square(expected), parameters, materialize_grads=True)
    assert max(gradient.abs().max() for gradient in wanted) > 0
    torch.testing.assert_close(actual, wanted, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("attributor", ATTRIBUTORS)
def test_gradients_are_exact(attributor, problem, generator):
    model, images = problem
    leaves = {"parameters": list(model.parameters())}
    assert_exact_gradients(lambda: weighted_square(attribute(attributor, model, images)[1]), leaves, generator)


@pytest.mark.parametrize("attributor", ATTRIBUTORS)
def test_without_a_graph_there_is_none(attributor, problem):
    model, images = problem
    relevance = attribute(attributor, model, images, create_graph=False)[1]
    assert not relevance.requires_grad
    assert_same(relevance, by_hand(attributor, model, images).detach())


def test_relevance_is_what_is_propagated():
    assert DifferentiableComposite.propagates == "relevance"


def test_relevance_at_inner_layers_can_be_read_out(problem):
    """As with Zennit: keep a layer's output and ask for the gradient there."""
    model, images = problem
    kept = []
    handle = model.pool.register_forward_hook(lambda module, args, output: kept.append(output))
    with ours("EpsilonPlus", 1e-12).context(model):
        source = images.clone().requires_grad_()
        logits = model(source)
        (inner,) = torch.autograd.grad(logits, kept[0], logits, create_graph=True, retain_graph=True)
    handle.remove()
    assert inner.shape == kept[0].shape
    gradient = torch.autograd.grad(inner.square().sum(), model.strided.weight)[0]
    assert gradient.count_nonzero() > 0
