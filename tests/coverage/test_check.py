"""`check` finds every operation without a rule, says what to do, and leaves the model as it was."""

from __future__ import annotations

import planted
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision import models

from zennit_isnet import ISNetRegularizer, LRPAttribution, LRPFlex, Selective, Target, check
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
    with pytest.raises(ISNetError, match=r"one of \['linear', 'activation', 'gate'\]; got 'affine'"):
        LRPFlex(**{option: {key: "affine"}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modules": {nn.ReLU(): "linear"}}, "modules must map module types to rules; got the key ReLU"),
        ({"modules": [nn.ReLU]}, r"modules must map module types to rules; got \[<class"),
        ({"modules": {nn.ReLU: []}}, r"the rule of ReLU must be a function or one of .*; got \[\]"),
        ({"rules": {"exp": "linear"}}, "rules must map functions to rules; got the key 'exp'"),
        ({"rules": [torch.exp]}, r"rules must map functions to rules; got \[<built-in method exp"),
        ({"rules": {torch.exp: 3}}, "the rule of exp must be a function or one of .*; got 3"),
    ],
)
def test_rules_are_mappings_with_what_is_allowed(options, message):
    with pytest.raises(ISNetError, match=message):
        LRPFlex(**options)


class Declared(nn.Module):
    """A module with a declared rule, between an operation's own inputs."""

    def __init__(self, operation, *inputs) -> None:
        super().__init__()
        self.block, self.inputs = planted.Block(lambda pair: operation(*pair)), inputs

    def forward(self, features):
        return self.block([make(features) for make in self.inputs]).expand_as(features)


def same(features):
    return features


MISDECLARED = {
    "function that reduces": (
        lambda: planted.Block(lambda x: x.logsumexp(1, keepdim=True).expand_as(x)),
        {"rules": {torch.Tensor.logsumexp: "activation"}},
        ["logsumexp", "makes (2, 1, 6, 6) of (2, 4, 6, 6)"],
    ),
    "function with two inputs": (
        lambda: planted.Block(lambda x: torch.hypot(x, 2 * x)),
        {"rules": {torch.hypot: "activation"}},
        ["hypot", "a parameter that depends on the images"],
    ),
    "function whose second input is the signal": (
        lambda: planted.Block(lambda x: torch.hypot(torch.ones(1), x)),
        {"rules": {torch.hypot: "activation"}},
        ["hypot", "a parameter that depends on the images"],
    ),
    "function in place": (
        lambda: planted.Block(lambda x: x.clone().sin_()),
        {"rules": {torch.Tensor.sin_: "activation"}},
        ["sin_", "works in place"],
    ),
    "function in place by its argument": (
        lambda: planted.Block(lambda x: F.hardsigmoid(x.clone(), inplace=True)),
        {"rules": {F.hardsigmoid: "activation"}},
        ["hardsigmoid", "works in place"],
    ),
    "gate with several results": (
        lambda: planted.Block(lambda x: x * torch.max(x, 1, keepdim=True)[0]),
        {"rules": {torch.max: "gate"}},
        ["max", "one result"],
    ),
    "module that reduces": (
        lambda: Declared(lambda x: x.mean((2, 3), keepdim=True), same),
        {"modules": {planted.Block: "activation"}},
        ["3.block (Block)", "makes (2, 4, 1, 1) of (2, 4, 6, 6)"],
    ),
    "module with two inputs": (
        lambda: Declared(torch.add, same, lambda x: 2 * x),
        {"modules": {planted.Block: "activation"}},
        ["3.block (Block)", "2 tensors that carry the signal"],
    ),
    "module with two inputs and a rule": (
        lambda: Declared(torch.add, same, lambda x: 2 * x),
        {"modules": {planted.Block: lambda module, input, output, signal: signal}},
        ["3.block (Block)", "2 tensors that carry the signal"],
    ),
    "module in place": (
        lambda: planted.Block(lambda x: x.exp_()),
        {"modules": {planted.Block: "activation"}},
        ["3 (Block)", "out of place"],
    ),
    "rule that returns another shape": (
        lambda: Declared(torch.sin, same),
        {"modules": {planted.Block: lambda module, input, output, signal: signal.mean()}},
        ["3.block (Block)", "of shape (2, 4, 6, 6); got ()"],
    ),
    "rule that returns nothing": (
        lambda: Declared(torch.sin, same),
        {"modules": {planted.Block: lambda module, input, output, signal: None}},
        ["3.block (Block)", "got NoneType"],
    ),
}


@pytest.mark.parametrize("name", MISDECLARED)
def test_what_cannot_be_as_declared_is_refused_by_name(name):
    make, options, fragments = MISDECLARED[name]
    model = planted.model_with(make())
    with pytest.raises(ISNetError) as caught:
        LRPAttribution(LRPFlex(**options))(model, IMAGES, Selective())
    assert not check(model, IMAGES, LRPFlex(**options)).ok
    for fragment in fragments:
        assert fragment in str(caught.value)


@pytest.mark.parametrize("inputs", [(torch.zeros_like, same), (torch.sigmoid, same), (same, same)])
def test_the_input_of_a_declared_module_is_the_one_that_carries_the_signal(inputs, generator):
    model = nn.Sequential(Declared(lambda a, b: (1 + a) * b, *inputs), nn.Flatten(), nn.Linear(12, 3, bias=False))
    images = torch.randn(2, 3, 2, 2, generator=generator, dtype=torch.float64)
    composite = LRPFlex(1e-30, modules={planted.Block: "activation"})
    logits, relevance = LRPAttribution(composite)(model.double(), images, Target(1))
    torch.testing.assert_close(relevance["input"].sum((1, 2, 3, 4)), logits[:, 1])
