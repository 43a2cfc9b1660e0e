"""Dual ISNet: the ε and the z⁺ heatmap from one forward pass."""

from __future__ import annotations

from typing import Any

import nets
import pytest
import torch
from finite_differences import TOLERANCE, backward_gradients, worst_relative_error
from torch import Tensor, nn
from torch.nn import functional as F

from zennit_isnet import EpsilonZBox, ISNetRegularizer, LRPAttribution, LRPFlex, Original, ZPlus
from zennit_isnet.calibration import RelevanceRange
from zennit_isnet.errors import InvalidValueError, UncoveredOperationError
from zennit_isnet.formulations import AllLogits, SoftmaxGradient
from zennit_isnet.gradients import GradientTimesInput
from zennit_isnet.lrp import INPUT, Place

EPSILON = 1e-2


class Residual(nn.Module):
    """Convolution-BatchNorm-ReLU, a residual sum, average pooling, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        first = self.relu(self.bn1(self.conv1(images)))
        branch = self.bn2(self.conv2(first))
        branch += first
        return self.fc(self.pool(self.relu(branch)).flatten(1))


def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and bias of a convolution with its BatchNorm folded in, by the statistics the pass used."""
    y = conv(x)
    mean, var = (
        (y.mean((0, 2, 3)), y.var((0, 2, 3), unbiased=False))
        if norm.training
        else (norm.running_mean, norm.running_var)
    )
    scale = norm.weight / (var + norm.eps).sqrt()
    bias = 0.0 if conv.bias is None else conv.bias
    return conv.weight * scale.view(-1, 1, 1, 1), norm.bias + (bias - mean) * scale


def positive_oracle(net: Residual, images: Tensor) -> tuple[Tensor, Tensor]:
    """z⁺ relevance of the sum of all logits, written out; images are not negative."""
    w1, b1 = folded(net.conv1, net.bn1, images)
    a1 = F.conv2d(images, w1, b1, padding=1).relu()
    w2, b2 = folded(net.conv2, net.bn2, a1)
    y2 = F.conv2d(a1, w2, b2, padding=1)
    a2 = (y2 + a1).relu()
    pooled = a2.mean((2, 3))

    def back(x: Tensor, w: Tensor, b: Tensor, upper: Tensor) -> Tensor:
        w, b = w.clamp(min=0), b.clamp(min=0)
        z = F.conv2d(x, w, b, padding=1)
        return x * F.conv_transpose2d(upper / (z + EPSILON), w, padding=1)

    w, b = net.fc.weight.clamp(min=0), net.fc.bias.clamp(min=0)
    top = pooled @ w.T + b
    r = pooled * ((top / (top + EPSILON)) @ w)
    r = a2 / (a2.shape[2] * a2.shape[3]) * (r / (pooled + EPSILON))[:, :, None, None]
    share = y2.clamp(min=0) + a1.clamp(min=0) + EPSILON
    r_branch, r_skip = y2.clamp(min=0) / share * r, a1.clamp(min=0) / share * r
    r_first = r_skip + back(a1, w2, b2, r_branch)
    return back(images, w1, b1, r_first), top


POSITIVE = Place(composite=1)


def dual(positive: ZPlus | None = None) -> LRPAttribution:
    return LRPAttribution((LRPFlex(), ZPlus() if positive is None else positive))


@pytest.fixture(params=["eval", "train"])
def net(request: pytest.FixtureRequest, generator: torch.Generator) -> Residual:
    net = nets.randomise(Residual().double(), generator)
    return net.train(request.param == "train")


@pytest.fixture
def images(generator: torch.Generator) -> Tensor:
    return torch.rand(3, 3, 6, 6, generator=generator, dtype=torch.float64)


def test_the_positive_heatmap_equals_the_formula(net: Residual, images: Tensor) -> None:
    expected, _ = positive_oracle(net, images)
    _, relevance = dual(ZPlus(epsilon=EPSILON))(net, images, AllLogits())
    torch.testing.assert_close(relevance[POSITIVE][:, 0], expected, rtol=1e-9, atol=1e-12)


def test_the_epsilon_heatmap_is_that_of_all_logits(net: Residual, images: Tensor) -> None:
    _, both = dual()(net.eval(), images, AllLogits())
    _, each = LRPAttribution()(net.eval(), images, Original())
    torch.testing.assert_close(both["input"][:, 0], each["input"].sum(1), rtol=1e-9, atol=1e-12)


def test_parameter_gradients_equal_those_of_the_formula(net: Residual, images: Tensor) -> None:
    weights = torch.linspace(-1, 1, images.numel(), dtype=torch.float64).view_as(images)
    leaves = list(net.parameters())
    expected = torch.autograd.grad((weights * positive_oracle(net, images)[0]).sum(), leaves, allow_unused=True)
    _, relevance = dual(ZPlus(epsilon=EPSILON))(net, images, AllLogits())
    found = backward_gradients((weights * relevance[POSITIVE][:, 0]).sum(), leaves)
    for parameter, gradient in zip(found, expected, strict=True):
        gradient = torch.zeros_like(parameter) if gradient is None else gradient
        torch.testing.assert_close(parameter, gradient, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("box", [None, (-0.5, 1.5)], ids=["no box", "z^B"])
def test_parameter_gradients_of_the_penalty_equal_finite_differences(box: Any, generator: torch.Generator) -> None:
    net = nets.randomise(Residual().double(), generator).train()
    images = torch.rand(3, 3, 6, 6, generator=generator, dtype=torch.float64)
    masks = torch.zeros(3, 1, 6, 6)
    masks[:, :, 1:4, 2:5] = 1
    regularizer = ISNetRegularizer(
        net,
        composite=(LRPFlex(box=box), ZPlus(box)),
        formulation=AllLogits(),
        layers=["pool"],
        layer_decay=0.7,
        ranges=dict.fromkeys([INPUT, Place("pool"), POSITIVE, Place("pool", 1)], RelevanceRange(50.0, 60.0)),
    )
    leaves = list(net.parameters())

    def penalty() -> Tensor:
        return regularizer(images, masks)[1]

    gradients = backward_gradients(penalty(), leaves)
    error = worst_relative_error(lambda: penalty().item(), leaves, gradients, generator)
    assert error <= TOLERANCE


def test_nothing_is_negative_and_all_of_it_arrives(net: Residual, images: Tensor) -> None:
    nets.without_biases(net)
    net.eval()
    _, relevance = dual(ZPlus(epsilon=1e-13))(net, images, AllLogits())
    _, top = positive_oracle(net, images)
    assert (relevance[POSITIVE] >= 0).all()
    torch.testing.assert_close(relevance[POSITIVE].flatten(1).sum(1), top.sum(1), rtol=1e-8, atol=1e-10)


def test_one_forward_pass_serves_both_composites(net: Residual, images: Tensor) -> None:
    net.train()
    twin = Residual().double()
    twin.load_state_dict(net.state_dict())
    expected = twin(images)
    calls: list[int] = []
    handle = net.conv1.register_forward_hook(lambda *_: calls.append(1))
    output, _ = dual()(net, images, AllLogits())
    handle.remove()
    assert len(calls) == 1
    assert torch.equal(output, expected)
    assert all(torch.equal(value, twin.state_dict()[key]) for key, value in net.state_dict().items())


def test_each_composite_has_its_own_range(net: Residual, images: Tensor) -> None:
    regularizer = ISNetRegularizer(net, composite=(LRPFlex(), ZPlus()), formulation=AllLogits(), layers=())
    measured = regularizer.calibrate([images], progress=False)
    assert set(measured) == {INPUT, POSITIVE}
    assert measured[INPUT].mean != measured[POSITIVE].mean


def test_epsilon_zbox_is_lrp_flex_as_epsilon_vanishes(net: Residual, images: Tensor) -> None:
    box = (-0.5, 1.5)
    for ours in (None, box):
        _, signal = LRPAttribution(LRPFlex(1e-11, box=ours))(net, images, Original())
        _, relevance = LRPAttribution(EpsilonZBox(ours, epsilon=1e-11))(net, images, Original())
        scale = signal["input"].abs().max().item()
        torch.testing.assert_close(relevance["input"], signal["input"], rtol=1e-5, atol=1e-6 * scale)


def test_operations_without_a_rule_are_named() -> None:
    class Gated(Residual):
        def forward(self, images: Tensor) -> Tensor:
            first = self.relu(self.bn1(self.conv1(images)))
            return self.fc(self.pool(first * first.mean((2, 3), keepdim=True).sigmoid()).flatten(1))

    attribution = LRPAttribution(ZPlus())
    with pytest.raises(UncoveredOperationError, match=r"\(the model\) \(Gated\): .*mul"):
        attribution(Gated(), torch.rand(2, 3, 6, 6), Original())


def test_a_composite_explains_a_pass_once() -> None:
    composite = LRPFlex()
    with pytest.raises(InvalidValueError, match="distinct composites"):
        LRPAttribution((composite, composite))


def test_gradient_times_input_of_the_softmax_score(net: Residual, images: Tensor) -> None:
    net.eval()
    _, relevance = GradientTimesInput()(net, images, SoftmaxGradient())
    source = images.clone().requires_grad_()
    score = net(source).softmax(1).max(1).values.sum()
    expected = source * torch.autograd.grad(score, source)[0]
    torch.testing.assert_close(relevance["input"][:, 0], expected)
