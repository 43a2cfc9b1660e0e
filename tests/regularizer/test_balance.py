"""Two losses in proportion: norms of their gradients, the factor of the penalty, warnings."""

from __future__ import annotations

import warnings

import pytest
import torch
from regularizer_models import ModelState, batch, tiny_net
from torch.nn import functional as F

from zennit_isnet import ISNetRegularizer
from zennit_isnet.balance import LossBalance
from zennit_isnet.calibration import RelevanceRange
from zennit_isnet.errors import GradientRatioWarning, InvalidTypeError, InvalidValueError


@pytest.fixture
def model():
    torch.manual_seed(0)
    return tiny_net().train()


def regularizer_of(model, c1=1e-3):
    regularizer = ISNetRegularizer(model)
    regularizer.ranges = {"input": RelevanceRange(c1, 25 * c1)}
    return regularizer


def losses(regularizer):
    images, masks = batch(4, size=8)
    logits, penalty = regularizer(images, masks)
    return F.cross_entropy(logits, torch.tensor([0, 1, 2, 0])), penalty


def steeper(loss, factor):
    """The same value with a gradient that is scaled."""
    return loss.detach() + factor * (loss - loss.detach())


def norm(loss, model):
    gradients = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True, allow_unused=True)
    return torch.sqrt(sum(g.square().sum() for g in gradients if g is not None)).item()


def test_norms_are_those_of_each_loss_by_itself(model):
    regularizer = regularizer_of(model)
    classification, penalty = losses(regularizer)
    norms = regularizer.gradient_norms(classification, penalty)
    assert norms.classification == pytest.approx(norm(classification, model), rel=1e-5)
    assert norms.penalty == pytest.approx(norm(penalty, model), rel=1e-5)
    assert norms.ratio == norms.penalty / norms.classification


def test_measuring_accumulates_nothing_and_leaves_the_graph(model):
    regularizer = regularizer_of(model)
    classification, penalty = losses(regularizer)
    before = ModelState(model)
    regularizer.gradient_norms(classification, penalty)
    assert not before.differences(ModelState(model))
    assert all(p.grad is None for p in model.parameters())
    (classification + penalty).backward()


def test_the_sum_is_weighted_and_the_penalty_scaled_down_to_the_limit(model):
    regularizer = regularizer_of(model)
    classification, penalty = losses(regularizer)
    total = regularizer.balanced(classification, 1e3 * penalty, weight=0.6)
    factor = regularizer.balance.factor
    assert factor < 1
    torch.testing.assert_close(total, 0.4 * classification + 0.6 * factor * 1e3 * penalty)
    assert norm(factor * 1e3 * penalty, model) == pytest.approx(5 * norm(classification, model), rel=1e-4)


def test_a_penalty_within_the_limit_keeps_its_weight(model):
    regularizer = regularizer_of(model)
    classification, penalty = losses(regularizer)
    total = regularizer.balanced(classification, 1e-2 * penalty)
    torch.testing.assert_close(total, 0.3 * classification + 0.7 * 1e-2 * penalty)


def test_a_classifier_without_gradient_left_does_not_switch_the_penalty_off(model):
    balance = LossBalance(limit=5.0, every=1)
    classification, penalty = losses(regularizer_of(model))
    for scale in (1.0, 1e-6, 1e-6, 1e-6):
        factor = balance(model, scale * classification, 10 * penalty)
    mean = norm(classification, model) / 4
    assert factor == pytest.approx(min(1.0, 5 * mean / norm(10 * penalty, model)), rel=1e-3)


def test_an_overflow_keeps_the_former_factor(model):
    balance = LossBalance(limit=5.0, every=1)
    classification, penalty = losses(regularizer_of(model))
    before = balance(model, classification, 1e3 * penalty)
    assert balance(model, classification, penalty * torch.inf) == before


def test_a_batch_without_masks_keeps_the_former_factor(model):
    balance = LossBalance(limit=5.0, every=1)
    regularizer = regularizer_of(model)
    classification, penalty = losses(regularizer)
    before = balance(model, classification, 1e3 * penalty)
    images, masks = batch(4, size=8)
    _, without = regularizer(images, masks, torch.zeros(4, dtype=torch.bool))
    assert balance(model, classification, without) == before < 1


def test_gradients_are_measured_at_the_first_step_and_each_fiftieth(model):
    regularizer = regularizer_of(model)
    classification, penalty = losses(regularizer)
    counts = [(regularizer.balanced(classification, penalty), regularizer.balance.measurements)[1] for _ in range(101)]
    assert [counts.index(count) for count in (1, 2, 3)] == [0, 50, 100]


def test_nothing_is_measured_without_a_graph(model):
    regularizer = regularizer_of(model)
    with torch.no_grad():
        total = regularizer.balanced(*losses(regularizer))
    assert not total.requires_grad
    assert regularizer.balance.norms is None


@pytest.mark.parametrize(("scale", "loud"), [(1e-9, "classification loss"), (1e9, "penalty")])
def test_a_drowned_loss_draws_one_warning_after_three_measurements(model, scale, loud):
    regularizer = regularizer_of(model)
    classification, penalty = losses(regularizer)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        counts = [
            (regularizer.gradient_norms(classification, steeper(penalty, scale)), len(caught))[1] for _ in range(6)
        ]
    assert counts == [0, 0, 1, 1, 1, 1]
    assert caught[0].category is GradientRatioWarning
    assert f"gradient of the {loud} has had over 10 times" in str(caught[0].message)
    assert caught[0].filename == __file__


def test_the_balanced_sum_warns_of_a_penalty_that_is_drowned(model):
    regularizer = regularizer_of(model)
    classification, penalty = losses(regularizer)
    for _ in range(100):
        regularizer.balanced(classification, steeper(penalty, 1e-9))
    with pytest.warns(GradientRatioWarning, match="for 150 steps .* almost no effect: use a larger weight P") as caught:
        regularizer.balanced(classification, steeper(penalty, 1e-9))
    assert caught[0].filename == __file__


def test_a_loss_that_has_done_its_work_draws_no_warning(model):
    regularizer = regularizer_of(model)
    classification, penalty = losses(regularizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(101):
            regularizer.balanced(classification, 1e-9 * penalty)
            regularizer.gradient_norms(classification, 1e-9 * penalty)
            regularizer.gradient_norms(1e-9 * classification, penalty)


def test_a_resumed_training_goes_on_with_its_balance(model):
    first, second = regularizer_of(model), regularizer_of(model)
    classification, penalty = losses(first)
    for _ in range(3):
        first.balanced(classification, 1e3 * penalty)
    second.load_state_dict(first.state_dict())
    assert second.balance.state_dict() == first.balance.state_dict()
    torch.testing.assert_close(
        second.balanced(classification, 1e3 * penalty), first.balanced(classification, 1e3 * penalty)
    )


def test_what_is_no_scalar_or_weight_is_refused(model):
    regularizer = regularizer_of(model)
    classification, penalty = losses(regularizer)
    with pytest.raises(InvalidValueError, match=r"classification must be a scalar; got shape \(4,\)"):
        regularizer.balanced(torch.ones(4, requires_grad=True), penalty)
    with pytest.raises(InvalidTypeError, match="classification must be a scalar Tensor; got float"):
        regularizer.gradient_norms(1.0, penalty)
    with pytest.raises(InvalidValueError, match=r"weight must lie in \[0, 1\]; got 1.5"):
        regularizer.balanced(classification, penalty, weight=1.5)


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_works_under_autocast(model, dtype):
    regularizer = regularizer_of(model)
    with torch.autocast("cpu", dtype):
        total = regularizer.balanced(*losses(regularizer))
    total.backward()
    assert regularizer.balance.norms is not None
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
