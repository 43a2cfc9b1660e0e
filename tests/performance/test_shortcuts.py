"""Every shortcut of the signal pass equals the plain computation it stands for."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import zennit_isnet.parts
from zennit_isnet import ISNetRegularizer, LRPFlex, Selective
from zennit_isnet.calibration import RelevanceRange
from zennit_isnet.errors import UnsupportedModelError
from zennit_isnet.lrp.signal.activation import SMOOTH, Epsilon, Gate, ReLUGate, SmoothGate, stabilize
from zennit_isnet.lrp.signal.convolution import Geometry, input_gradient, transposed_signal
from zennit_isnet.lrp.signal.linear import TransposedWeights
from zennit_isnet.lrp.signal.normalization import Centred, Scaled, channel_products
from zennit_isnet.parts import parts


def seeded(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("size", [(9, 9), (12, 10), (16, 7)])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [
        ((7, 7), (2, 2), (3, 3)),
        ((3, 3), (2, 2), (1, 1)),
        ((3, 3), (2, 2), (0, 0)),
        ((4, 4), (4, 4), (0, 0)),
        ((1, 1), (2, 2), (0, 0)),
        ((2, 3), (3, 2), (1, 2)),
        ((5, 3), (1, 2), (2, 0)),
        ((3, 2), (4, 3), (2, 1)),
        ((2, 2), (5, 5), (0, 0)),
    ],
)
def test_the_signal_of_a_strided_first_layer_by_phases(kernel, stride, padding, size):
    images, weight = seeded(2, 3, *size), seeded(5, 3, *kernel)
    geometry = Geometry(stride, padding, (1, 1), False, (0, 0), 1)
    output = F.conv2d(images, weight, None, stride, padding)
    signal = torch.randn_like(output)
    expected = torch.nn.grad.conv2d_input(images.shape, weight, signal, stride, padding)
    torch.testing.assert_close(input_gradient(signal, images, weight, geometry), expected)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
def test_the_signal_of_other_convolutions_is_pytorchs(groups, dilation):
    images, weight = seeded(2, 4, 9, 9), seeded(6, 4 // groups, 3, 3)
    geometry = Geometry((2, 2), (1, 1), (dilation, dilation), False, (0, 0), groups)
    output = F.conv2d(images, weight, None, 2, 1, dilation, groups)
    signal = torch.randn_like(output)
    expected = torch.nn.grad.conv2d_input(images.shape, weight, signal, 2, 1, dilation, groups)
    torch.testing.assert_close(input_gradient(signal, images, weight, geometry), expected)


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (2, 3, 5, 5), (2, 3, 2, 4, 4)])
def test_products_summed_for_each_channel(shape):
    first, second = seeded(*shape).requires_grad_(), seeded(*shape)
    expected = (first * second).sum([d for d in range(len(shape)) if d != 1])
    with torch.no_grad():
        torch.testing.assert_close(channel_products(first, second), expected)
    torch.testing.assert_close(channel_products(first, second), expected)
    assert torch.autograd.gradgradcheck(Scaled.apply, (first, seeded(3).requires_grad_()))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])  # the weights are smaller than the signal, and larger
def test_a_scaled_signal_has_the_same_derivatives_when_the_smaller_tensor_carries_the_scale(stride, groups):
    images, weight = seeded(2, 4, 5, 5), seeded(6, 4 // groups, 3, 3).requires_grad_()
    geometry = Geometry((stride, stride), (1, 1), (1, 1), False, (0, 0), groups)
    signal = torch.randn_like(F.conv2d(images, weight, None, stride, 1, 1, groups)).requires_grad_()
    scale = seeded(6)
    scale[0] = 0.0  # as γ of a block that starts as the identity
    scale.requires_grad_()
    operands = (signal, scale, weight)

    def plain(signal, scale, weight):
        return transposed_signal(signal * scale.view(1, -1, 1, 1), weight, images, geometry)

    def folded(signal, scale, weight):
        return transposed_signal(Scaled.apply(signal, scale), weight, images, geometry)

    result = folded(*operands)
    assert result.grad_fn.next_functions[0][0].variable is signal
    direction = seeded(2, 4, 5, 5)
    expected = torch.autograd.grad(plain(*operands), operands, direction)
    torch.testing.assert_close(torch.autograd.grad(folded(*operands), operands, direction), expected)
    assert torch.autograd.gradcheck(folded, operands)


def test_the_signal_between_convolution_and_batchnorm_can_still_be_asked_for():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)).double()
    images, seen = seeded(3, 3, 6, 6).requires_grad_(), []
    handles = [model[i].register_forward_hook(lambda *call: seen.append(call[-1])) for i in range(3)]
    with LRPFlex(epsilon=0.1).context(model):
        logits = model(images)
        found = torch.autograd.grad(logits[:, 0].sum(), [*seen, images], create_graph=True)
    for handle in handles:
        handle.remove()
    (convolved, _, activated), (at_convolved, at_normalised, at_activated, relevance) = seen, found
    scale = model[1].weight / (convolved.var((0, 2, 3), unbiased=False) + model[1].eps).sqrt()
    gate = activated / (activated + 0.1)
    torch.testing.assert_close(at_activated, model[4].weight[0].view(1, 4, 4, 4).expand(3, -1, -1, -1))
    torch.testing.assert_close(at_normalised, at_activated * gate)
    torch.testing.assert_close(at_convolved, at_normalised * scale.view(1, -1, 1, 1))
    expected = images * F.conv_transpose2d(at_convolved, model[0].weight)
    torch.testing.assert_close(relevance, expected)
    # and so can its derivatives
    parameters = list(model.parameters())[:3]
    for got, other in zip((at_convolved, relevance), (at_normalised * scale.view(1, -1, 1, 1), expected), strict=True):
        torch.testing.assert_close(
            torch.autograd.grad(got.square().sum(), parameters, retain_graph=True),
            torch.autograd.grad(other.square().sum(), parameters, retain_graph=True),
        )


def test_a_convolution_whose_output_two_operations_read_gets_both_signals():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(64, 2)

        def forward(self, x):
            z = self.conv(x)
            return self.head((self.norm(z) + 2 * z).flatten(1))

    model, images = Branching().double(), seeded(3, 3, 6, 6).requires_grad_()
    with LRPFlex().context(model):
        (relevance,) = torch.autograd.grad(model(images)[:, 0].sum(), images, create_graph=True)
    z = model.conv(images)
    scale = model.norm.weight / (z.var((0, 2, 3), unbiased=False) + model.norm.eps).sqrt()
    signal = model.head.weight[0].view(1, 4, 4, 4) * (scale.view(1, -1, 1, 1) + 2)
    expected = images * F.conv_transpose2d(signal.expand(3, -1, -1, -1), model.conv.weight)
    torch.testing.assert_close(relevance, expected)
    weights = (model.conv.weight, model.norm.weight)
    torch.testing.assert_close(
        torch.autograd.grad(relevance.square().sum(), weights, retain_graph=True),
        torch.autograd.grad(expected.square().sum(), weights),
    )


@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 3, 5)])
def test_the_signal_of_a_linear_layer_and_its_derivatives(shape):
    signal, weight = seeded(*shape).requires_grad_(), seeded(5, 3).requires_grad_()
    torch.testing.assert_close(TransposedWeights.apply(signal, weight), torch.einsum("...o,oi->...i", signal, weight))
    assert torch.autograd.gradcheck(TransposedWeights.apply, (signal, weight))
    assert torch.autograd.gradgradcheck(TransposedWeights.apply, (signal, weight))


def test_a_linear_layer_with_one_output_may_have_a_vector_of_weights():
    class Scoring(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.head = nn.Parameter(torch.rand(4).double()), nn.Linear(1, 3).double()

        def forward(self, x):
            return self.head(F.linear(x, self.weight)[:, None])

    model, images = Scoring(), seeded(4, 4).requires_grad_()
    with LRPFlex().context(model):
        (relevance,) = torch.autograd.grad(model(images)[:, 0].sum(), images)
    torch.testing.assert_close(relevance, images * model.weight * model.head.weight[0])


def test_a_frozen_linear_layer_does_not_keep_its_input():
    class Overwriting(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.frozen = nn.Linear(4, 4), nn.Linear(4, 4).requires_grad_(False)

        def forward(self, x):
            values = self.first(x)
            result = self.frozen(values)
            return result + values.mul_(2)

    model, images = Overwriting().double(), seeded(2, 4).requires_grad_()
    with LRPFlex().context(model):
        (relevance,) = torch.autograd.grad(model(images)[:, 0].sum(), images)
    signal = model.frozen.weight[0] + torch.tensor([2.0, 0, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(relevance, images * (signal @ model.first.weight))


def test_a_gradient_that_cannot_be_differentiated_again_says_so():
    model, images = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), torch.rand(2, 4, requires_grad=True)
    with LRPFlex().context(model):
        (relevance,) = torch.autograd.grad(model(images)[:, 0].sum(), images, create_graph=True)
    with pytest.raises(UnsupportedModelError, match="without create_graph=True"):
        torch.autograd.grad(relevance.square().sum(), list(model.parameters()), create_graph=True, allow_unused=True)


@pytest.mark.parametrize("dims", [1, 2])
def test_the_signal_of_a_layer_norm_and_its_derivatives(dims):
    signal, values = seeded(3, 4, 5).requires_grad_(), seeded(3, 4, 5).requires_grad_()
    over = tuple(range(-dims, 0))
    expected = (signal - signal.mean(over, keepdim=True)) / (values.var(over, correction=0, keepdim=True) + 0.1).sqrt()
    torch.testing.assert_close(Centred.apply(signal, values, dims, 0.1), expected)
    assert torch.autograd.gradcheck(lambda s, x: Centred.apply(s, x, dims, 0.1), (signal, values))
    assert torch.autograd.gradgradcheck(lambda s, x: Centred.apply(s, x, dims, 0.1), (signal, values))


@pytest.mark.parametrize("shape", [(5, 2, 3, 3), (5, 4), (1, 7)])
def test_parts_are_whole_images_and_cover_them_all(monkeypatch, shape):
    monkeypatch.setattr(zennit_isnet.parts, "PART", 1 + torch.Size(shape[1:]).numel())
    written, values = torch.zeros(shape), torch.randn(shape)
    for to, part in parts(written, values):
        assert to.shape[1:] == values.shape[1:]
        to.copy_(part)
    torch.testing.assert_close(written, values)


def test_working_on_few_images_at_a_time_changes_no_gradient(monkeypatch):
    model = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
    ).double()
    images, masks = seeded(5, 3, 8, 8), (torch.rand(5, 1, 8, 8) < 0.5).double()

    def gradients(size):
        monkeypatch.setattr(zennit_isnet.parts, "PART", size)
        ranges = {"input": RelevanceRange(0.1, 1.0)}
        regularizer = ISNetRegularizer(model, formulation=Selective(), layers=(), ranges=ranges)
        _, penalty = regularizer(images, masks)
        return torch.autograd.grad(penalty, list(model.parameters()), allow_unused=True, materialize_grads=True)

    torch.testing.assert_close(gradients(1), gradients(10**9))


@pytest.mark.parametrize("epsilon", [Epsilon(0.1), Epsilon(0.5, relative=True)], ids=["absolute", "relative"])
def test_gates_and_their_derivatives(epsilon):
    signal, values = seeded(4, 10), seeded(4, 10)
    values = (values + 0.3 * values.sign()).requires_grad_()  # away from the jump of sign(z)
    signal.requires_grad_()
    output, positive = (f(values.detach()).requires_grad_() for f in (torch.tanh, torch.abs))
    assert torch.autograd.gradcheck(lambda g, a, z: Gate.apply(g, a, z, epsilon), (signal, output, values))
    assert torch.autograd.gradgradcheck(lambda g, a, z: Gate.apply(g, a, z, epsilon), (signal, output, values))
    assert torch.autograd.gradcheck(lambda g, a: ReLUGate.apply(g, a, epsilon), (signal, positive))
    closed = ReLUGate.apply(signal, torch.zeros_like(values), epsilon)
    assert torch.equal(closed, torch.zeros_like(closed))


@pytest.mark.parametrize("epsilon", [Epsilon(0.1), Epsilon(0.5, relative=True), Epsilon(0.0)], ids=str)
@pytest.mark.parametrize("func", SMOOTH, ids=lambda func: func.__name__)
def test_gates_of_smooth_activations_and_their_derivatives(func, epsilon):
    signal, values = (seeded(4, 10).requires_grad_() for _ in range(2))

    def gated(signal, values):
        return SmoothGate.apply(signal, values, SMOOTH[func], {}, epsilon)

    assert torch.autograd.gradcheck(gated, (signal, values))


@pytest.mark.parametrize("func", SMOOTH, ids=lambda func: func.__name__)
def test_smooth_gates_have_no_notch_at_zero_and_are_exact_without_epsilon(func):
    values = torch.linspace(-6, 6, 2001, dtype=torch.float64)

    def gate(epsilon):
        return SmoothGate.apply(torch.ones_like(values), values, SMOOTH[func], {}, epsilon)

    torch.testing.assert_close(gate(Epsilon(0.0)) * values, func(values), rtol=1e-12, atol=1e-12)
    assert (gate(Epsilon(1.0)).diff() >= -1e-9).all()


def test_exact_gates_of_a_relu_are_open_or_closed():
    values = torch.tensor([-1.0, 0.0, 1e-30, 2.0], requires_grad=True)
    with LRPFlex(epsilon=0).context(model := nn.ReLU()):
        (relevance,) = torch.autograd.grad(model(values), values, torch.ones(4), create_graph=True)
    assert relevance.tolist() == pytest.approx([0.0, 0.0, 1e-30, 2.0])


def test_the_stabilizer_moves_away_from_zero():
    values = torch.tensor([-2.0, -0.0, 0.0, 3.0])
    torch.testing.assert_close(stabilize(values, 0.5), torch.tensor([-2.5, 0.5, 0.5, 3.5]))


def test_a_gate_that_multiplies_gets_no_signal_and_keeps_its_gradient():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.value, self.gate = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return self.value(x) * torch.sigmoid(self.gate(x))

    model, images = Gated().double(), seeded(5, 4).requires_grad_()
    with LRPFlex().context(model):
        (relevance,) = torch.autograd.grad(model(images)[:, 0].sum(), images, create_graph=True)
    expected = images * (torch.sigmoid(model.gate(images))[:, :1] * model.value.weight[0])
    torch.testing.assert_close(relevance, expected)
    weights = (model.value.weight, model.gate.weight)
    torch.testing.assert_close(
        torch.autograd.grad(relevance.square().sum(), weights, retain_graph=True),
        torch.autograd.grad(expected.square().sum(), weights),
    )
