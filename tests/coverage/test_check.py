"""`check` finds every operation without a rule, says what to do, and leaves the model as it was."""

from __future__ import annotations

import planted
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision import models

from zennit_isnet import ISNetRegularizer, LRPFlex, check
from zennit_isnet.errors import InvalidValueError, ISNetError, UncoveredOperationError
from zennit_isnet.lrp import Report

IMAGES = torch.linspace(-1, 1, 2 * 3 * 8 * 8).view(2, 3, 8, 8)


@pytest.mark.parametrize("gap", planted.GAPS)
def test_a_planted_gap_is_named_with_path_and_remedy(gap):
    make, operation = planted.GAPS[gap]
    report = check(planted.model_with(make()), IMAGES)
    assert not report.ok
    for problem in report.problems:
        assert problem.module.startswith("3")
        assert problem.remedy
        assert problem.remedy in str(report)
    assert any(operation in problem.operation for problem in report.problems)


@pytest.mark.parametrize("gap", planted.GAPS)
def test_the_regularizer_refuses_what_the_checker_finds(gap):
    model = planted.model_with(planted.GAPS[gap][0]())
    with pytest.raises(UncoveredOperationError):
        ISNetRegularizer(model)(IMAGES, torch.ones(2, 1, 8, 8))


@pytest.mark.parametrize("gap", [gap for gap in planted.GAPS if gap != "sigmoid as an activation in a sum"])
def test_what_only_flows_into_a_gate_needs_no_rule(gap):
    block = planted.GAPS[gap][0]()
    model = planted.model_with(nn.Identity())
    model[3] = gated = nn.Module()
    gated.block = block
    gated.forward = lambda features: features * gated.block(features).sigmoid()
    report = check(model, IMAGES)
    assert report.ok, str(report)
    ISNetRegularizer(model).heatmap(IMAGES)


def test_a_softmax_at_the_end_is_a_problem():
    report = check(planted.model_with(nn.Identity(), end=nn.Softmax(1)), IMAGES)
    (problem,) = report.problems
    assert "return logits" in problem.remedy


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "swin_t"])
def test_classifiers_of_torchvision_have_rules_for_everything(name):
    report = check(models.get_model(name, num_classes=3), torch.rand(1, 3, 32, 32))
    assert report.ok
    assert report.rows
    assert str(report).endswith("every operation has a rule")


def test_rows_name_operations_modules_and_rules():
    report = check(planted.model_with(nn.Identity()), IMAGES)
    found = {(row.module, row.operation, row.rule) for row in report.rows}
    assert ("0 (Conv2d)", "torch.nn.functional.conv2d", "convolution") in found
    assert ("1 (BatchNorm2d)", "torch.nn.functional.batch_norm", "batch_norm") in found
    assert isinstance(report, Report)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("gap", ["functional softplus", "custom autograd function"])
def test_the_model_and_the_random_state_stay(gap, training):
    model = planted.model_with(planted.GAPS[gap][0]()).train(training)
    values = {name: value.clone() for name, value in model.state_dict().items()}
    before = [(id(m), m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    random_state = torch.get_rng_state()
    check(model, IMAGES)
    assert all(torch.equal(value, values[name]) for name, value in model.state_dict().items())
    assert [(id(m), m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()] == before
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not IMAGES.requires_grad


def test_the_box_is_part_of_the_pass():
    problems = check(nn.Sequential(nn.ReLU(), nn.Flatten()), IMAGES, LRPFlex(box=(-1.0, 1.0))).problems
    assert "z^B" in [problem.operation for problem in problems]
    assert all("box=None" in problem.remedy for problem in problems)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_the_pass_runs_in_the_mode_of_the_model(training):
    class SoftInTraining(nn.Module):
        def forward(self, features):
            return F.softplus(features) if self.training else features.relu()

    assert check(planted.model_with(SoftInTraining()).train(training), IMAGES[:1]).ok != training


def test_the_pass_runs_backwards_too():
    def lost(module, input, output, signal):
        raise InvalidValueError("the signal is lost")

    report = check(planted.model_with(CubeBlock()), IMAGES, LRPFlex(modules={CubeBlock: lost}))
    assert [(row.operation, row.remedy) for row in report.problems] == [("the signal pass", "the signal is lost")]


def test_an_error_of_the_model_leaves_no_hooks():
    model = planted.model_with(nn.Conv2d(7, 7, 1))
    with pytest.raises(RuntimeError):
        check(model, IMAGES)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("bad", [(nn.ReLU, IMAGES), (nn.ReLU(), IMAGES[0]), (nn.ReLU(), IMAGES.int())])
def test_bad_arguments_are_refused(bad):
    with pytest.raises(ISNetError):
        check(*bad)


class CubeBlock(planted.Block):
    """A module of the user's own around a custom autograd function."""

    def __init__(self) -> None:
        super().__init__(planted.Cube.apply)


class Softplus(nn.Module):
    def forward(self, features):
        return F.softplus(features)


DECLARED = {
    "function, linear": (lambda: planted.Block(torch.exp), {"rules": {torch.exp: "linear"}}),
    "function, activation": (lambda: planted.Block(torch.sin), {"rules": {torch.sin: "activation"}}),
    "module, linear": (CubeBlock, {"modules": {CubeBlock: "linear"}}),
    "module, activation": (CubeBlock, {"modules": {CubeBlock: "activation"}}),
    "base of the module": (CubeBlock, {"modules": {planted.Block: "activation"}}),
    "module, own rule": (CubeBlock, {"modules": {CubeBlock: lambda module, input, output, signal: 2 * signal}}),
}


@pytest.mark.parametrize("name", DECLARED)
def test_one_line_registers_a_rule(name):
    make, options = DECLARED[name]
    model = planted.model_with(make())
    assert not check(model, IMAGES).ok
    assert check(model, IMAGES, LRPFlex(**options)).ok
    ISNetRegularizer(model, composite=LRPFlex(**options)).heatmap(IMAGES)
    assert not check(model, IMAGES).ok


def test_a_declared_gate_may_multiply_a_signal():
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = Softplus()

        def forward(self, features):
            return features * self.gate(features)

    model = planted.model_with(Gated())
    assert not check(model, IMAGES).ok
    composite = LRPFlex(modules={Softplus: "gate"})
    assert check(model, IMAGES, composite).ok
    assert not check(planted.model_with(Softplus()), IMAGES, composite).ok


@pytest.mark.parametrize("word", ["linear", "activation", "own"])
def test_declared_rules_do_what_they_say(word, generator):
    """Relevance by hand: (W₂ᵀ seed) through the declared block, times the input."""
    images = torch.randn(2, 3, 2, 2, generator=generator, dtype=torch.float64)
    model = nn.Sequential(CubeBlock(), nn.Flatten(), nn.Linear(12, 3)).double()
    rule = (lambda module, input, output, signal: 5 * signal) if word == "own" else word
    epsilon = 1e-3
    with LRPFlex(epsilon, modules={CubeBlock: rule}).context(model):
        source = images.clone().requires_grad_()
        (relevance,) = torch.autograd.grad(model(source)[:, 1].sum(), source)
    factor = {
        "linear": 3 * images**2,
        "activation": images**3 / (images + epsilon * images.sign()),
        "own": torch.full_like(images, 5.0),
    }[word]
    expected = images * factor * model[2].weight[1].detach().view(3, 2, 2)
    torch.testing.assert_close(relevance, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("option", ["rules", "modules"])
def test_an_unknown_word_names_the_legal_ones(option):
    key = torch.exp if option == "rules" else nn.ReLU
    with pytest.raises(ISNetError, match=r"one of \['linear', 'activation', 'gate'\], got 'affine'"):
        LRPFlex(**{option: {key: "affine"}})


def test_modules_are_given_by_type():
    with pytest.raises(ISNetError, match="module types"):
        LRPFlex(modules={nn.ReLU(): "linear"})


def test_a_declared_module_that_writes_to_its_input_is_refused():
    model = planted.model_with(planted.Block(lambda x: x.exp_()))
    report = check(model, IMAGES, LRPFlex(modules={planted.Block: "activation"}))
    assert "out of place" in report.problems[0].remedy
