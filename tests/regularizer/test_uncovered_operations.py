"""A model whose relevance would be wrong is refused, with every problem of it in one error."""

from __future__ import annotations

import re

import pytest
import torch
from regularizer_models import CLASSES, ModelState, WithOutput, Wrapped, batch, tiny_net
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import SqueezeExcitation

from zennit_isnet import ISNetRegularizer, LRPFlex
from zennit_isnet.errors import UncoveredOperationError

pytestmark = pytest.mark.filterwarnings("ignore::zennit_isnet.errors.RelevanceRangeWarning")


class Cube(torch.autograd.Function):
    """An operation that no tool can look into."""

    @staticmethod
    def forward(ctx, values):
        ctx.save_for_backward(values)
        return values**3

    @staticmethod
    def backward(ctx, grad):
        (values,) = ctx.saved_tensors
        return grad * 3 * values**2


class Reversed(torch.autograd.Function):
    """Linear to look at, but its gradient is not that of what it computes (domain adaptation uses it)."""

    @staticmethod
    def forward(ctx, values):
        return values.view_as(values)

    @staticmethod
    def backward(ctx, grad):
        return -grad


class Operation(nn.Module):
    """Gives an operation a module path."""

    def __init__(self, operation) -> None:
        super().__init__()
        self.operation = operation

    def forward(self, features: Tensor) -> Tensor:
        return self.operation(features)


UNCOVERED = {
    "a product of two signals in place": (lambda x: (x + 0).mul_(x), r"torch\.Tensor\.mul_", "out of place"),
    "an inverse": (lambda x: x**-1, r"torch\.Tensor\.__pow__", "positive exponent"),
    "softplus": (F.softplus, r"torch\.nn\.functional\.softplus", "declare"),
    "exp": (torch.exp, r"torch\.exp", "declare"),
    "a custom autograd function": (lambda x: Cube.apply(x) + 0, r"torch\.Tensor\.add", r"CubeBackward.*declare"),
    "a custom autograd function of covered operations": (
        lambda x: Reversed.apply(x) + 0,
        r"torch\.Tensor\.add",
        r"ReversedBackward.*declare",
    ),
    "a sigmoid gate added to a signal": (lambda x: x + x.sigmoid(), r"torch\.Tensor\.add", "gate may only multiply"),
    "a sigmoid gate beside a signal": (
        lambda x: torch.cat([x[:, :4], x[:, 4:].sigmoid()], 1),
        r"torch\.cat",
        "gate may only multiply",
    ),
    "division by a signal": (lambda x: x / (x + 1), r"torch\.Tensor\.div", "divides.*declare"),
    "division of a number by a signal": (
        lambda x: 1 / (x + 1),
        r"torch\.Tensor\.(__rdiv__|__rtruediv__)",
        "divides.*declare",
    ),
    "weights that depend on the images": (
        lambda x: F.conv2d(x, x[:1, :8].mean((2, 3), keepdim=True).expand(8, 8, 1, 1)),
        r"torch\.nn\.functional\.conv2d",
        "weight.*declare",
    ),
    "hardtanh away from zero": (
        lambda x: F.hardtanh(x, 0.5, 1.0),
        r"torch\.nn\.functional\.hardtanh",
        r"\[0\.5, 1\.0\].*contains 0",
    ),
}
"""An operation, its function, and what else the message has to name: the cause where there are several, the remedy."""


def refusal(model: nn.Module, **parts) -> UncoveredOperationError:
    images, masks = batch(size=8)
    before = ModelState(model)
    with pytest.raises(UncoveredOperationError) as caught:
        ISNetRegularizer(model, **parts)(images, masks)
    assert before.differences(ModelState(model)) == []
    return caught.value


@pytest.mark.parametrize("name", UNCOVERED)
def test_an_operation_without_a_rule_is_named_with_path_and_remedy(name):
    operation, function, named = UNCOVERED[name]
    (problem,) = refusal(Wrapped(Operation(operation))).problems
    assert re.match(rf"operation \(Operation\): {function}: .*{named}", problem)


@pytest.mark.parametrize(
    "output",
    [lambda y: y.softmax(1), lambda y: y.log_softmax(1), torch.sigmoid, lambda y: y.detach() + 0 * y.detach()],
    ids=["softmax", "log_softmax", "sigmoid", "detached"],
)
def test_an_output_that_carries_no_signal_is_refused(output):
    (problem,) = refusal(WithOutput(output)).problems
    assert problem.startswith("(the model) (WithOutput): the model's output")
    assert "carries no signal from the images" in problem
    assert "; return logits" in problem


def test_a_softmax_module_at_the_end_is_refused():
    assert "return logits" in str(refusal(nn.Sequential(tiny_net(), nn.Softmax(1))))


def test_all_problems_are_listed_in_one_error():
    model = nn.Sequential(
        tiny_net()[:3],
        nn.Softplus(),
        Operation(torch.exp),
        Operation(lambda x: x + x.sigmoid()),
        Operation(lambda x: x / (x + 1)),
        Operation(lambda x: Cube.apply(x) + 0),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, CLASSES),
        nn.Softmax(1),
    )
    error = refusal(model)
    lines = str(error).splitlines()
    assert lines[0] == "no relevance rule covers 6 operations of this model:"
    assert lines[1:] == [f"  - {problem}" for problem in error.problems]
    places = ["1 (Softplus)", "2 (Operation)", "3 (Operation)", "4 (Operation)", "5 (Operation)", "(the model) (Sequ"]
    for problem, place in zip(error.problems, places, strict=True):
        assert problem.startswith(place)
        assert "; " in problem


def test_the_same_problem_of_the_same_module_is_listed_once():
    shared = nn.Softplus()
    error = refusal(
        nn.Sequential(tiny_net()[:3], shared, shared, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    )
    assert len(error.problems) == 1


def test_heatmap_and_calibrate_refuse_alike():
    model, images = Wrapped(F.softplus), batch(size=8)[0]
    regularizer, before = ISNetRegularizer(model), ModelState(model)
    for explain in (regularizer.heatmap, lambda x: regularizer.calibrate([x], progress=False)):
        with pytest.raises(UncoveredOperationError, match="softplus"):
            explain(images)
        assert before.differences(ModelState(model)) == []


def test_the_first_layer_of_z_b_must_be_a_convolution():
    linear = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 3))
    assert "z^B needs a convolution" in str(refusal(linear, composite=LRPFlex(box=(0.0, 1.0))))


def test_a_rule_of_the_users_own_covers_an_operation():
    def softplus(mode, func, values, *args):
        return func(values, *args)

    regularizer = ISNetRegularizer(Wrapped(F.softplus), composite=LRPFlex(rules={F.softplus: softplus}))
    assert regularizer(*batch(size=8))[1].isfinite()


def times_gate_without_gradient(features: Tensor) -> Tensor:
    with torch.no_grad():
        gate = F.softplus(features)
    return features * gate


class LayerScale(nn.Module):
    """A parameter and a buffer that multiply, shift and divide the signal."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(8, 1, 1))
        self.register_buffer("shift", torch.rand(8, 1, 1))

    def forward(self, features: Tensor) -> Tensor:
        return (features * self.scale + self.shift) / (1 + self.shift) * 2 - features * self.scale.sigmoid()


COVERED = {
    "squeeze and excitation": SqueezeExcitation(8, 4),
    "a gate that multiplies": lambda x: x * torch.sigmoid(x),
    "two gates": lambda x: x * (x.sigmoid() * x.mean((2, 3), keepdim=True).sigmoid()),
    "constants": LayerScale(),
    "a detached factor": lambda x: x * x.detach(),
    "a detached denominator": lambda x: x / (1 + x.detach().abs()),
    "a factor computed without gradients": times_gate_without_gradient,
    "a look at the values": lambda x: x if bool((x.detach().mean() > 0).item()) else -x,
    "a look at the shape": lambda x: x.view(x.shape[0], x.size(1), -1).unflatten(2, x.shape[2:]),
    "fresh constants": lambda x: x + torch.zeros_like(x) + x.new_ones(1),
    "a comparison as a mask": lambda x: x * (x > 0.1),
    "an in-place sum": lambda x: x.clone().add_(x).mul_(0.5),
}


@pytest.mark.parametrize("name", COVERED)
def test_what_is_linear_in_the_signal_is_fine(name):
    model = Wrapped(COVERED[name])
    images, masks = batch(size=8)
    logits, penalty = ISNetRegularizer(model)(images, masks)
    penalty.backward()
    assert logits.shape == (4, CLASSES)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert model.features[0].weight.grad.any()


class Inner(nn.Linear):
    """Declared by itself, and a part of a declared module."""


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner(12, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.inner(images.flatten(1))


def test_the_rule_of_a_module_counts_for_all_that_is_in_it() -> None:
    model, images = Outer(), torch.rand(2, 3, 2, 2)
    rules = ({Outer: "linear", Inner: "gate"}, {Outer: "linear"})
    both = [ISNetRegularizer(model, composite=LRPFlex(modules=one), layers=()).heatmap(images, 1) for one in rules]
    assert both[0].any()
    assert torch.equal(*both)
