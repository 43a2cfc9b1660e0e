"""`LRPFlex` is a Zennit composite like any other, and leaves nothing behind."""

from __future__ import annotations

import copy

import nets
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from zennit.attribution import Gradient, SmoothGrad
from zennit.composites import COMPOSITES
from zennit.core import Composite

from zennit_isnet.errors import InvalidValueError
from zennit_isnet.formulations import Target
from zennit_isnet.lrp.flex import LRPFlex
from zennit_isnet.lrp.propagation import LRPAttribution

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
SEED = torch.eye(nets.CLASSES, dtype=torch.float64)[[0, 1, 2, 1]]

nets_and_modes = [
    pytest.mark.parametrize("net", nets.NETS),
    pytest.mark.parametrize("training", [False, True], ids=["eval", "train"]),
]


def all_nets(test):
    for mark in nets_and_modes:
        test = mark(test)
    return test


@pytest.fixture
def problem(generator):
    return nets.make("residual", generator), nets.make_images(generator)


def hooks_of(model):
    return [(name, kind, list(getattr(m, kind))) for name, m in model.named_modules() for kind in HOOKS]


def plain_gradients(model, images):
    """Cross-entropy's gradients with respect to images and parameters in one plain step."""
    torch.manual_seed(0)
    images = images.detach().clone().requires_grad_()
    return loss_gradients(model(images), images, model)


def loss_gradients(logits, images, model):
    loss = F.cross_entropy(logits, torch.tensor([0, 1, 2, 0]))
    return torch.autograd.grad(loss, [images, *model.parameters()], retain_graph=True, materialize_grads=True)


def relevance_of(model, images, composite=None):
    attribution = LRPAttribution(composite)
    return attribution(model, images, Target(SEED.argmax(1)), create_graph=False)[1]["input"][:, 0]


def assert_same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


def test_is_a_registered_composite():
    assert issubclass(LRPFlex, Composite)
    assert COMPOSITES["lrp_flex"] is LRPFlex
    assert COMPOSITES["lrp_flex"]().propagates == "signal"


def test_gradient_attributor(problem):
    model, images = problem
    with Gradient(model, COMPOSITES["lrp_flex"](), attr_output=SEED) as attributor:
        logits, relevance = attributor(images)
    assert torch.equal(logits, model(images))
    assert torch.equal(relevance, relevance_of(model, images))


def test_gradient_attributor_without_a_context(problem):
    """Zennit registers and removes the composite around the call."""
    model, images = problem
    before = hooks_of(model)
    _, relevance = Gradient(model, LRPFlex(), attr_output=SEED)(images)
    assert torch.equal(relevance, relevance_of(model, images))
    assert hooks_of(model) == before


def test_gradient_attributor_with_a_graph(problem):
    model, images = problem
    with Gradient(model, LRPFlex(), create_graph=True) as attributor:
        _, relevance = attributor(images, SEED)
    gradients = torch.autograd.grad(relevance.square().sum(), list(model.parameters()), materialize_grads=True)
    _, expected = LRPAttribution()(model, images, Target(SEED.argmax(1)))
    expected = torch.autograd.grad(expected["input"].square().sum(), list(model.parameters()), materialize_grads=True)
    assert_same(gradients, expected)
    assert gradients[0].abs().max() > 0


def test_smooth_grad_averages_heatmaps(problem):
    model, images = problem
    torch.manual_seed(0)
    with SmoothGrad(model, LRPFlex(), noise_level=0.1, n_iter=3, attr_output=SEED) as attributor:
        _, relevance = attributor(images)
    torch.manual_seed(0)
    width = (images.amax((1, 2, 3), keepdim=True) - images.amin((1, 2, 3), keepdim=True)) * 0.1
    noisy = [images + torch.randn_like(images) * width for _ in range(2)] + [images]
    candidates = torch.stack([relevance_of(model, batch) for batch in noisy])
    # Zennit leaves the last of the batches without noise
    assert_same(relevance, candidates.mean(0))


@all_nets
def test_inactive_makes_backward_ordinary(net, training, generator):
    model, images = nets.make(net, generator, training=training), nets.make_images(generator)
    expected = plain_gradients(model, images)
    composite = LRPFlex()
    images.requires_grad_()
    with composite.context(model):
        torch.manual_seed(0)
        logits = model(images)
        with composite.inactive():
            gradients = loss_gradients(logits, images, model)
        (signal,) = torch.autograd.grad(logits, images, SEED)
    assert_same(gradients, expected)
    assert not torch.allclose(signal, expected[0])


@all_nets
def test_backward_is_ordinary_after_the_context(net, training, generator):
    model, images = nets.make(net, generator, training=training), nets.make_images(generator)
    expected = plain_gradients(model, images)
    images.requires_grad_()
    with LRPFlex(box=(0.0, 1.0)).context(model):
        torch.manual_seed(0)
        logits = model(images)
        torch.autograd.grad(logits, images, SEED, retain_graph=True)
    assert_same(loss_gradients(logits, images, model), expected)


@all_nets
def test_double_backward_is_ordinary_after_the_context(net, training, generator):
    """A gradient penalty of the user's own, on the logits that came with the heatmaps."""
    model, images = nets.make(net, generator, training=training), nets.make_images(generator).requires_grad_()

    def penalty_gradients(logits):
        (gradient,) = torch.autograd.grad(logits[:, 1].sum(), images, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), list(model.parameters()), materialize_grads=True)

    torch.manual_seed(0)
    expected = penalty_gradients(model(images))
    with LRPFlex(box=(0.0, 1.0)).context(model):
        torch.manual_seed(0)
        logits = model(images)
    assert_same(penalty_gradients(logits), expected)
    assert max(gradient.abs().max() for gradient in expected) > 0


def test_a_second_registration_does_not_wake_the_first(problem):
    model, images = problem
    expected = plain_gradients(model, images)
    images.requires_grad_()
    composite = LRPFlex()
    with composite.context(model):
        old = model(images)
    with composite.context(model):
        model(images)
        gradients = loss_gradients(old, images, model)
    assert_same(gradients, expected)


def test_register_and_remove(problem):
    model, images = problem
    before, expected = hooks_of(model), relevance_of(model, images)
    composite = LRPFlex()
    images.requires_grad_()
    composite.register(model)
    assert hooks_of(model) != before
    (relevance,) = torch.autograd.grad(model(images), images, SEED)
    composite.remove()
    assert hooks_of(model) == before
    assert torch.equal(relevance, expected)
    composite.remove()
    assert hooks_of(model) == before


def test_registering_with_a_second_model_is_refused(problem):
    """Zennit's composites leave the first model silently."""
    first, images = problem
    second = copy.deepcopy(first)
    before, expected = hooks_of(second), relevance_of(first, images)
    composite = LRPFlex()
    composite.register(first)
    with pytest.raises(InvalidValueError, match=r"registered with another model \(ResidualNet\).*remove\(\)"):
        composite.register(second)
    assert hooks_of(second) == before
    images.requires_grad_()
    (relevance,) = torch.autograd.grad(first(images), images, SEED)
    assert torch.equal(relevance, expected)
    composite.remove()
    composite.register(second)
    (relevance,) = torch.autograd.grad(second(images), images, SEED)
    composite.remove()
    assert torch.equal(relevance, expected)


def test_two_composites_on_two_models_do_not_disturb_each_other(problem):
    first, images = problem
    second = nets.make("concatenating", torch.Generator().manual_seed(1))
    expected = [relevance_of(first, images, LRPFlex(1e-2)), relevance_of(second, images, LRPFlex(1e-1))]
    images.requires_grad_()
    with LRPFlex(1e-2).context(first):
        logits = first(images)
        with LRPFlex(1e-1).context(second):
            (other,) = torch.autograd.grad(second(images), images, SEED)
        (relevance,) = torch.autograd.grad(logits, images, SEED)
    assert torch.equal(relevance, expected[0])
    assert torch.equal(other, expected[1])


@pytest.mark.parametrize("grad_enabled", [False, True], ids=["no_grad", "images without gradient"])
def test_a_forward_without_a_gradient_is_untouched(grad_enabled, problem):
    model, images = problem
    expected = plain_gradients(model, images)[1:]
    with LRPFlex().context(model), torch.set_grad_enabled(grad_enabled):
        logits = model(images if grad_enabled else images.requires_grad_())
        assert torch.equal(logits, model(images))
        if grad_enabled:
            loss = F.cross_entropy(logits, torch.tensor([0, 1, 2, 0]))
            assert_same(torch.autograd.grad(loss, list(model.parameters())), expected)
    assert logits.requires_grad == grad_enabled


def test_hooks_of_others_stay_and_run(problem):
    model, images = problem
    calls = []
    for module in (model, model.stem, model.relu):
        module.register_forward_hook(lambda module, args, output: calls.append(module))
        module.register_forward_pre_hook(lambda module, args: None)
    model.stem.register_full_backward_hook(lambda module, grad_input, grad_output: None)
    before = hooks_of(model)
    plain_gradients(model, images)
    expected, calls[:] = list(calls), []
    relevance_of(model, images)
    assert [id(module) for module in calls] == [id(module) for module in expected]
    assert hooks_of(model) == before


def test_an_error_in_the_model_leaves_it_usable(problem):
    model, images = problem
    before, expected = hooks_of(model), plain_gradients(model, images)
    handle = model.head.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="the model's own"):
        relevance_of(model, images)
    handle.remove()
    assert hooks_of(model) == before
    assert_same(plain_gradients(model, images), expected)
    assert torch.equal(torch.relu(torch.tensor([-1.0, 2.0])), torch.tensor([0.0, 2.0]))


def fail(module, args):
    raise RuntimeError("the model's own")


def test_the_images_keep_their_values_and_flags(generator):
    """Also where the first operation works in place."""
    model = nn.Sequential(nn.ReLU(inplace=True), nets.plain_net()).double().eval()
    images = nets.make_images(generator) - 0.5
    before = images.clone()
    relevance_of(model, images)
    assert torch.equal(images, before)
    assert not images.requires_grad
    assert images.grad is None


def test_attributes_and_forward_methods_stay(problem):
    model, images = problem
    before = [(name, id(module), sorted(vars(module))) for name, module in model.named_modules()]
    relevance_of(model, images, LRPFlex(box=(0.0, 1.0)))
    assert [(name, id(module), sorted(vars(module))) for name, module in model.named_modules()] == before
