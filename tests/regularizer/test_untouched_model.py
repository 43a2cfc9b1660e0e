"""The model is the user's: after a call, and after an error in one, nothing about it can be told from before.

Objects, modes, attributes, hooks, flags and values are compared by `ModelState`.
"""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from regularizer_models import BUILDERS, Failing, ModelState, Wrapped, batch, tiny_net, with_mixed_modes
from torch import nn
from torch.nn import functional as F

from zennit_isnet import HeatmapLoss, ISNetRegularizer, LRPFlex, Target
from zennit_isnet.errors import RelevanceRangeWarning, UncoveredOperationError

pytestmark = pytest.mark.filterwarnings("ignore::zennit_isnet.errors.RelevanceRangeWarning")

MODELS = pytest.mark.parametrize("name", BUILDERS)


class InterruptedCallError(Exception):
    """Raised by a part of the call."""


def failing_part(*args, **kwargs):
    raise InterruptedCallError


def prepared(name: str) -> nn.Module:
    """A model with mixed modes, a frozen parameter and gradients left from an earlier step."""
    model = with_mixed_modes(BUILDERS[name]())
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.rand_like(parameter)
    return model


@MODELS
@pytest.mark.parametrize("gradients", [True, False])
def test_a_call_does_what_one_plain_forward_does_and_no_more(name, gradients):
    model, (images, masks) = prepared(name), batch()
    twin, images_before, masks_before = copy.deepcopy(model), images.clone(), masks.clone()
    before = ModelState(model)

    with torch.set_grad_enabled(gradients):
        logits, _ = ISNetRegularizer(model)(images, masks)
    plain = twin(images_before.clone())

    after = ModelState(model)
    assert before.fact_differences(after) == []
    assert after.value_differences(ModelState(twin).values) == []
    assert before.value_differences(after.values) != []  # running statistics did move
    torch.testing.assert_close(logits, plain, rtol=1e-5, atol=1e-6)
    assert logits.requires_grad is gradients
    assert torch.equal(images, images_before)
    assert torch.equal(masks, masks_before)
    assert images.grad is None
    assert not images.requires_grad


@MODELS
@pytest.mark.parametrize(
    "explain",
    [
        lambda regularizer, images: regularizer.heatmap(images),
        lambda regularizer, images: regularizer.heatmap(images, target=1),
        lambda regularizer, images: regularizer.calibrate([images, (images, None)], progress=False),
    ],
    ids=["heatmap", "heatmap of a target", "calibrate"],
)
def test_explaining_changes_nothing_at_all(name, explain):
    model, (images, _) = prepared(name), batch()
    images_before, before = images.clone(), ModelState(model)
    explain(ISNetRegularizer(model), images)
    assert before.differences(ModelState(model)) == []
    assert torch.equal(images, images_before)
    assert images.grad is None
    assert not images.requires_grad


class AlwaysFrozen(nn.BatchNorm2d):
    """Ignores `train`, as fine-tuning code does."""

    def train(self, mode: bool = True) -> AlwaysFrozen:
        return super().train(False)


@pytest.mark.parametrize("training", [True, False])
def test_a_module_with_its_own_train_method_gets_its_mode_back(training):
    model = nn.Sequential(nn.Conv2d(3, 6, 3), AlwaysFrozen(6), *tiny_net()[2:])
    model[1].training = training
    before = ModelState(model)
    ISNetRegularizer(model).heatmap(batch(size=8)[0])
    assert before.differences(ModelState(model)) == []


def failing_submodule(error: BaseException) -> nn.Module:
    return nn.Sequential(*tiny_net()[:6], Failing(error), *tiny_net()[6:])


FAILURES = {
    "a submodule": lambda: (ISNetRegularizer(failing_submodule(InterruptedCallError())), InterruptedCallError),
    "the attribution": lambda: (ISNetRegularizer(tiny_net(), attribution=failing_part), InterruptedCallError),
    "coverage": lambda: (ISNetRegularizer(Wrapped(F.softplus)), UncoveredOperationError),
    "coverage of z^B": lambda: (
        ISNetRegularizer(nn.Sequential(nn.ReLU(inplace=True), tiny_net()), composite=LRPFlex(box=(0.0, 1.0))),
        UncoveredOperationError,
    ),
}


@pytest.mark.parametrize("cause", FAILURES)
@pytest.mark.parametrize("mixed", [False, True], ids=["train mode", "mixed modes"])
def test_an_error_inside_the_call_leaves_everything_as_it_was(cause, mixed):
    regularizer, error = FAILURES[cause]()
    model, (images, masks) = regularizer.model.train(), batch(size=8)
    if mixed:
        with_mixed_modes(model)
    images_before, before = images.clone(), ModelState(model)
    with pytest.raises(error):
        regularizer(images, masks)
    assert before.differences(ModelState(model)) == []
    assert torch.equal(images, images_before)
    assert images.grad is None
    assert not images.requires_grad


@pytest.mark.parametrize("cause", FAILURES)
@pytest.mark.parametrize("explain", ["heatmap", "calibrate"])
def test_an_error_while_explaining_leaves_everything_as_it_was(cause, explain):
    regularizer, error = FAILURES[cause]()
    with_mixed_modes(regularizer.model)
    images, before = batch(size=8)[0], ModelState(regularizer.model)
    with pytest.raises(error):
        regularizer.heatmap(images) if explain == "heatmap" else regularizer.calibrate([images], progress=False)
    assert before.differences(ModelState(regularizer.model)) == []
    assert regularizer.ranges == {}


def test_a_warning_turned_into_an_error_leaves_everything_as_it_was():
    model, (images, masks) = tiny_net(), batch(size=8)
    with torch.no_grad():
        model[-1].weight.mul_(1e6)
    before = ModelState(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RelevanceRangeWarning):
            ISNetRegularizer(model, formulation=Target(0))(images, masks)
    assert before.differences(ModelState(model)) == []


def with_foreign_hooks(model: nn.Module) -> list[str]:
    """Hook a model everywhere one can, as other tools do; return the list that the hooks write to."""
    events: list[str] = []

    def note(event: str):
        return lambda *args, **kwargs: events.append(event)

    for path, module in model.named_modules():
        module.register_forward_pre_hook(note(f"pre {path}"))
        module.register_forward_hook(note(f"post {path}"))
        module.register_forward_hook(note(f"post first {path}"), prepend=True)
        module.register_forward_hook(note(f"post always {path}"), always_call=True)
    for name, parameter in model.named_parameters():
        parameter.register_hook(note(f"gradient {name}"))
        parameter.register_post_accumulate_grad_hook(note(f"accumulated {name}"))
    return events


@MODELS
def test_other_peoples_hooks_stay_and_fire_in_the_same_order(name):
    model, (images, masks) = BUILDERS[name](), batch()
    twin = copy.deepcopy(model)
    events, plain_events = with_foreign_hooks(model), with_foreign_hooks(twin)
    before = ModelState(model)

    logits, penalty = ISNetRegularizer(model)(images, masks)
    plain_logits = twin(images.clone())
    assert events == plain_events
    assert events != []
    assert before.fact_differences(ModelState(model)) == []

    events.clear()
    plain_events.clear()
    (F.cross_entropy(logits, torch.zeros(4, dtype=torch.long)) + penalty).backward()
    F.cross_entropy(plain_logits, torch.zeros(4, dtype=torch.long)).backward()
    assert sorted(events) == sorted(plain_events)
    assert events != []


def test_backward_hooks_of_modules_stay_and_fire_in_the_same_order():
    model, (images, masks) = tiny_net(), batch(size=8)
    model[2].inplace = False  # PyTorch forbids in-place operations between full backward hooks
    twin = copy.deepcopy(model)
    events: dict[nn.Module, list[str]] = {model: [], twin: []}
    for net in (model, twin):
        for path, module in net.named_modules():
            module.register_full_backward_pre_hook(lambda *_, net=net, path=path: events[net].append(f"pre {path}"))
            module.register_full_backward_hook(lambda *_, net=net, path=path: events[net].append(path))
    before = ModelState(model)
    logits, _ = ISNetRegularizer(model)(images, masks)
    assert before.fact_differences(ModelState(model)) == []
    events[model].clear()
    logits.sum().backward()
    twin(images.clone().requires_grad_()).sum().backward()
    assert events[model] == events[twin] != []


def test_the_call_itself_writes_no_gradient():
    model, (images, masks) = tiny_net(), batch(size=8)
    _, penalty = ISNetRegularizer(model)(images, masks)
    assert all(parameter.grad is None for parameter in model.parameters())
    penalty.backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter is not model[-1].bias)


def test_the_regularizer_adds_nothing_to_parameters_or_state():
    model = tiny_net()
    before = ModelState(model)
    regularizer = ISNetRegularizer(model, composite=LRPFlex(box=(0.0, 1.0)), loss=HeatmapLoss())
    assert not isinstance(regularizer, nn.Module)
    assert before.differences(ModelState(model)) == []


def test_dropout_draws_what_a_plain_forward_draws(seed):
    model = nn.Sequential(*tiny_net()[:8], nn.Dropout(0.5, inplace=True), tiny_net()[8])
    images, masks = batch(size=8)
    torch.manual_seed(seed)
    plain, next_plain = copy.deepcopy(model)(images), torch.rand(3)
    torch.manual_seed(seed)
    logits, _ = ISNetRegularizer(model)(images, masks)
    torch.testing.assert_close(logits, plain, rtol=1e-5, atol=1e-6)
    assert torch.equal(torch.rand(3), next_plain)
