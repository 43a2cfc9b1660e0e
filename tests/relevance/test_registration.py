"""Registering with a model: what is refused, and that a failure leaves nothing."""

from __future__ import annotations

import nets
import pytest
import torch
from built_in import ours
from explanations import assert_same_gradients, itself, plain_gradients, relevance_of, state_of
from torch import nn
from zennit.canonizers import Canonizer
from zennit.composites import EpsilonPlus, LayerMapComposite
from zennit.rules import Epsilon

from zennit_isnet.errors import InvalidTypeError, InvalidValueError, UnsupportedModelError
from zennit_isnet.lrp.relevance.composite import differentiable


@pytest.fixture
def problem(generator):
    return nets.make("residual", generator), nets.make_images(generator)


class Renaming(Canonizer):
    """Sets an attribute, as Zennit's canonizers of blocks do."""

    def __init__(self, model=None):
        self.model = model

    def apply(self, root_module):
        root_module.renamed = True
        return [Renaming(root_module)]

    def register(self):
        pass

    def remove(self):
        del self.model.renamed


class Failing(Renaming):
    def apply(self, root_module):
        raise RuntimeError("the canonizer's own")


class FailingMap(LayerMapComposite):
    def mapping(self, ctx, name, module):
        if name == "head":
            raise RuntimeError("the map's own")
        return super().mapping(ctx, name, module)


FAILURES = {
    "canonizer": (
        LayerMapComposite([(nn.Conv2d, Epsilon())], [Renaming(), Failing()]),
        RuntimeError,
        "canonizer's own",
    ),
    "map": (FailingMap([(nn.Conv2d, Epsilon())], [Renaming()]), RuntimeError, "map's own"),
    "rule": (
        LayerMapComposite([(nn.Conv2d, Epsilon()), (nn.Dropout, Epsilon())], [Renaming()]),
        UnsupportedModelError,
        "dropout",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_registration_that_fails_leaves_no_hooks(case, problem):
    model, images = problem
    composite, error, message = FAILURES[case]
    before, expected = state_of(model), plain_gradients(model, images)
    with pytest.raises(error, match=message):
        differentiable(composite).register(model)
    assert state_of(model) == before
    assert_same_gradients(plain_gradients(model, images), expected)


def test_register_and_remove(problem):
    model, images = problem
    before, expected = state_of(model), relevance_of(ours("EpsilonPlus"), model, images, itself)
    composite = ours("EpsilonPlus")
    composite.register(model)
    with pytest.raises(InvalidValueError, match="registered"):
        composite.register(model)  # the passes that ran under the first registration would lose their rules
    assert state_of(model) != before
    source = images.clone().requires_grad_()
    logits = model(source)
    assert torch.equal(torch.autograd.grad(logits, source, logits)[0], expected)
    for _ in range(2):
        composite.remove()
        assert state_of(model) == before


def test_registering_with_a_second_model_is_refused(problem):
    model, images = problem
    second = nets.make("concatenating", torch.Generator().manual_seed(1))
    before, composite = state_of(second), ours("EpsilonPlus")
    expected = relevance_of(composite, model, images, itself)
    with composite.context(model):
        with pytest.raises(InvalidValueError, match=r"registered with another model \(ResidualNet\).*remove\(\)"):
            composite.register(second)
        source = images.clone().requires_grad_()
        logits = model(source)
        assert torch.equal(torch.autograd.grad(logits, source, logits)[0], expected)
    assert state_of(second) == before
    relevance_of(composite, second, images, itself)


def test_a_model_that_is_gone_blocks_nothing(problem):
    model, images = problem
    composite = ours("EpsilonPlus")
    composite.register(nets.plain_net())
    assert relevance_of(composite, model, images, itself).any()


def test_a_wrapped_composite_that_is_registered_itself_is_refused(problem):
    model, _ = problem
    stock = EpsilonPlus()
    with stock.context(model):
        before = state_of(model)
        with pytest.raises(InvalidValueError, match="EpsilonPlus in this composite is itself registered with a model"):
            differentiable(stock).register(model)
        assert state_of(model) == before


BAD_MODELS = {
    "function": (lambda model: torch.relu, InvalidTypeError, "model must be a torch.nn.Module; got"),
    "DataParallel": (nn.DataParallel, UnsupportedModelError, "DataParallel.*use DistributedDataParallel"),
    "compiled": (torch.compile, UnsupportedModelError, "torch.compile does not support double backward.*_orig_mod"),
    "compiled in place": (lambda m: (m.compile(), m)[1], UnsupportedModelError, r"do not call `compile\(\)`"),
    "part compiled": (lambda m: (m.stem.compile(), m)[1], UnsupportedModelError, r"stem \(Conv2d\).*compile"),
    "scripted": (lambda m: torch.jit.trace(m, torch.rand(2, 3, 8, 8).double()), UnsupportedModelError, "scripted"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("case", BAD_MODELS)
def test_models_that_cannot_be_seen_are_refused(case, problem):
    wrap, error, message = BAD_MODELS[case]
    model = wrap(problem[0])
    before = state_of(problem[0])
    with pytest.raises(error, match=message):
        ours("EpsilonPlus").register(model)
    assert state_of(problem[0]) == before
