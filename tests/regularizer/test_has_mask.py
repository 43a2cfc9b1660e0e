"""`has_mask`: images without a mask train the classifier only."""

from __future__ import annotations

import copy

import pytest
import torch
from regularizer_models import batch, on_images, regularizer_of, tiny_net
from torch import nn
from torch.nn.functional import cross_entropy

from zennit_isnet import LRPFlex

FLAGS = torch.tensor([True, False, True, False])
LABELS = torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize("has_mask", [FLAGS, FLAGS.tolist(), FLAGS.numpy()], ids=["tensor", "list", "array"])
def test_the_penalty_is_that_of_the_images_with_a_mask(has_mask):
    regularizer, (images, masks) = regularizer_of(tiny_net().eval()), batch(size=8)
    _, penalty = regularizer(images, masks, has_mask)
    _, expected = regularizer(images[FLAGS], masks[FLAGS])
    torch.testing.assert_close(penalty, expected)


def test_the_logits_are_those_of_all_images():
    regularizer, (images, masks) = regularizer_of(tiny_net().eval()), batch(size=8)
    assert torch.equal(regularizer(images, masks, FLAGS)[0], regularizer(images, masks)[0])


@pytest.mark.parametrize("garbage", [float("nan"), 255.0, -1.0, 0.0])
def test_what_stands_in_missing_masks_is_ignored(garbage):
    model, (images, masks) = tiny_net(), batch(size=8)
    twin, dirty = copy.deepcopy(model), masks.clone()
    dirty[~FLAGS] = garbage
    _, penalty = regularizer_of(model)(images, dirty, FLAGS)
    _, expected = regularizer_of(twin)(images, masks, FLAGS)
    penalty.backward()
    expected.backward()
    assert torch.equal(penalty, expected)
    for parameter, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(parameter.grad, other.grad)
        assert parameter.grad.isfinite().all()


def test_a_batch_without_any_mask_has_no_penalty_and_no_gradient_of_it():
    model, (images, masks) = tiny_net(), batch(size=8)
    twin = copy.deepcopy(model)
    logits, penalty = regularizer_of(model)(images, torch.full_like(masks, torch.nan), torch.zeros(4).bool())
    assert penalty.item() == 0
    (cross_entropy(logits, LABELS) + penalty).backward()
    cross_entropy(twin(images), LABELS).backward()
    for parameter, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore::zennit_isnet.errors.RelevanceRangeWarning")
@pytest.mark.parametrize("is_nan", [False, True], ids=["infinite", "NaN"])
def test_an_image_without_a_mask_may_have_relevance_that_leaves_the_range_of_its_dtype(is_nan):
    """Not even 0 times infinity, in the gradient, reaches the parameters."""

    def rule(module, input, output, signal):
        huge = torch.where(FLAGS.view(-1, 1, 1, 1), 1.0, 1e30) * output
        blown = signal * huge * huge
        return blown - is_nan * (blown - signal)

    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ELU(), nn.Flatten(), nn.Linear(216, 3))
    images, masks = batch(size=8)
    parts = {"composite": LRPFlex(modules={nn.ELU: rule}), "loss": lambda r, *_: r.flatten(1).norm(dim=1)}
    assert not on_images(model, **parts)(images, masks)[1].isfinite()
    _, penalty = on_images(model, **parts)(images, masks, FLAGS)
    penalty.backward()
    assert penalty.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_all_masks_present_is_the_default():
    regularizer, (images, masks) = regularizer_of(tiny_net().eval()), batch(size=8)
    assert torch.equal(regularizer(images, masks, [True] * 4)[1], regularizer(images, masks)[1])
