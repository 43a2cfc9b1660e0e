"""Rules and composites that would give wrong relevance or gradients are refused, with the remedy."""

from __future__ import annotations

import nets
import pytest
from explanations import itself, relevance_of, state_of
from torch import nn
from user_rules import OwnBackward, Unchanged, make
from zennit.canonizers import NamedMergeBatchNorm
from zennit.composites import (
    EpsilonPlus,
    LayerMapComposite,
)
from zennit.core import BasicHook, ParamMod
from zennit.rules import Epsilon, Norm, ZPlus

from zennit_isnet.errors import InvalidTypeError, InvalidValueError, UnsupportedModelError
from zennit_isnet.lrp.flex import LRPFlex
from zennit_isnet.lrp.relevance.composite import FuseBatchNorm, differentiable


class OwnRegistration(Epsilon):
    def pre_forward(self, module, *args):
        return None


REFUSED = {
    "own backward on a layer": (nn.Linear(4, 3), OwnBackward(), r"1 \(Linear\): OwnBackward overrides BasicHook.back"),
    "rule on dropout": (nn.Dropout(), Norm(), r"1 \(Dropout\): Norm .*random.*Pass"),
    "hook on dropout": (nn.Dropout(), Unchanged(), r"1 \(Dropout\): Unchanged .*random.*Pass"),
    "random activation": (nn.RReLU(), Norm(), r"1 \(RReLU\): Norm .*random.*Pass"),
    "own registration": (nn.Linear(4, 3), OwnRegistration(), r"OwnRegistration overrides pre_forward"),
    "no rule": (nn.Linear(4, 3), "epsilon", r"1 \(Linear\): str is not a rule"),
    "computed weights": (nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), ZPlus(), "remove the parametrization"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_rules_that_would_be_wrong_are_refused_and_nothing_stays(case):
    module, rule, message = REFUSED[case]
    model = nn.Sequential(nn.ReLU(), module, nn.Tanh())
    before = state_of(model)
    # rules on modules before and after are registered and have to go again
    composite = differentiable(LayerMapComposite([(type(module), rule), ((nn.Linear, nn.ReLU), Epsilon())]))
    with pytest.raises(UnsupportedModelError, match=message), composite.context(model):
        pass
    assert state_of(model) == before
    assert not composite.handles


def test_missing_parameters_of_a_rule_are_named(generator):
    model, images = make(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), generator)
    rule = BasicHook(param_modifiers=[ParamMod(lambda p, _: p, param_keys=["gain"])])
    composite = differentiable(LayerMapComposite([(nn.ReLU, rule)]))
    with pytest.raises(UnsupportedModelError, match=r"ReLU.*\['gain'\].*another rule"):
        relevance_of(composite, model, images, itself)


def test_a_batch_norm_with_its_own_rule_and_a_fusion_is_refused(generator):
    model = nets.make("residual", generator)
    before = state_of(model)
    composite = EpsilonPlus(layer_map=[(nn.BatchNorm2d, Epsilon())])
    with (
        pytest.raises(UnsupportedModelError, match=r"stem_norm.*Epsilon.*Pass or no rule, or leave out"),
        differentiable(composite, canonizers=[FuseBatchNorm()]).context(model),
    ):
        pass
    assert state_of(model) == before


def test_merging_several_layers_into_one_batch_norm_is_refused():
    canonizer = NamedMergeBatchNorm([(("a", "b"), "norm")])
    with pytest.raises(InvalidValueError, match="one layer at a time"):
        differentiable(LayerMapComposite([], canonizers=[canonizer]))


@pytest.mark.parametrize("value", [None, "epsilon_plus", EpsilonPlus, Epsilon()], ids=["None", "name", "class", "rule"])
def test_what_is_no_composite_is_refused(value):
    with pytest.raises(InvalidTypeError, match=r"composite must be a zennit.core.Composite; got"):
        differentiable(value)


def test_a_composite_that_propagates_signals_is_refused():
    with pytest.raises(InvalidTypeError, match="LRPFlex is already differentiable"):
        differentiable(LRPFlex())


def test_what_is_no_canonizer_is_refused():
    with pytest.raises(InvalidTypeError, match="canonizers must be"):
        differentiable(EpsilonPlus(), canonizers=[FuseBatchNorm])


def test_requests_are_refused_by_zennits_own_composites():
    with pytest.raises(UnsupportedModelError, match=r"FuseBatchNorm only works in differentiable\(composite"):
        EpsilonPlus(canonizers=[FuseBatchNorm()]).register(nn.Linear(2, 2))
