"""The penalty's gradients are exact: parameters and images against finite differences, in float64."""

from __future__ import annotations

import nets
import pytest
import torch
from finite_differences import TOLERANCE, backward_gradients, worst_relative_error
from torch.nn import functional as F

from zennit_isnet import HeatmapLoss
from zennit_isnet.calibration import RelevanceRange
from zennit_isnet.formulations import Original, Selective, Stochastic, Target
from zennit_isnet.lrp.flex import LRPFlex
from zennit_isnet.lrp.propagation import LRPAttribution
from zennit_isnet.regularizer import ISNetRegularizer

FORMULATIONS = {
    "selective": Selective,
    "stochastic": Stochastic,
    "original": Original,
    "target": lambda: Target(torch.tensor([0, 2, 1, 1])),
}
BOX = (0.0, (1.0, 1.1, 1.2))

CASES = [
    # formulations are another axis: each net meets all of them, and each of them all modes and boxes
    (net, training, box, list(FORMULATIONS)[(n + t + 2 * b) % len(FORMULATIONS)])
    for n, net in enumerate(nets.NETS)
    for t, training in enumerate((False, True))
    for b, box in enumerate((None, BOX))
]


class Problem:
    """A regularizer on a tiny net whose penalty is a function of parameters and images, and of nothing else."""

    def __init__(self, net, formulation, box, training, generator, **options):
        self.model = nets.make(net, generator, training=training)
        self.images = nets.make_images(generator).requires_grad_(options.pop("images_require_grad", False))
        self.masks = torch.zeros(4, 1, nets.SIZE, nets.SIZE)
        self.masks[..., 2:6, 2:6] = 1
        composite = LRPFlex(epsilon=options.pop("epsilon", 1e-2), box=box, **options)
        self.regularizer = ISNetRegularizer(
            self.model,
            composite=composite,
            formulation=FORMULATIONS[formulation](),
            # a lenient loss has room for finite differences between its kinks
            loss=HeatmapLoss(background_scale=1.0),
            layers=(),
        )
        # below the range, so that the foreground term has a slope
        total = self.regularizer.heatmap(self.images).abs().sum().item()
        self.regularizer.ranges = {"input": RelevanceRange(total, 25 * total)}
        self.buffers = [buffer.clone() for buffer in self.model.buffers()]

    def penalty(self):
        torch.manual_seed(0)  # the same draws of Stochastic and of dropout every time
        with torch.no_grad():
            for buffer, value in zip(self.model.buffers(), self.buffers, strict=True):
                buffer.copy_(value)
        return self.regularizer(self.images, self.masks)[1]

    def evaluate(self):
        with torch.no_grad():
            return self.penalty().item()

    def worst_relative_error(self, leaves, generator):
        gradients = backward_gradients(self.penalty(), leaves)
        return worst_relative_error(self.evaluate, leaves, gradients, generator)


@pytest.mark.parametrize(("net", "training", "box", "formulation"), CASES)
def test_gradients_with_respect_to_the_parameters(net, training, box, formulation, generator):
    problem = Problem(net, formulation, box, training, generator)
    assert problem.worst_relative_error(list(problem.model.parameters()), generator) <= TOLERANCE


@pytest.mark.parametrize("box", [None, BOX], ids=["no box", "z^B"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("net", nets.NETS)
def test_gradients_with_respect_to_the_images(net, training, box, generator):
    problem = Problem(net, "selective", box, training, generator, images_require_grad=True)
    assert problem.worst_relative_error([problem.images], generator) <= TOLERANCE


def test_gradients_of_the_training_loss(generator):
    """The mixture with cross-entropy shares one graph, also with a large ε."""
    problem = Problem("residual", "selective", None, True, generator, epsilon=0.3)
    labels = torch.tensor([0, 1, 2, 0])

    def loss():
        torch.manual_seed(0)
        logits, penalty = problem.regularizer(problem.images, problem.masks)
        return 0.3 * F.cross_entropy(logits, labels) + 0.7 * penalty

    leaves = list(problem.model.parameters())
    gradients = backward_gradients(loss(), leaves)
    assert worst_relative_error(lambda: loss().item(), leaves, gradients, generator) <= TOLERANCE


@pytest.mark.parametrize("frozen", ["stem", "stem_norm", "head", "not head"])
def test_gradients_beside_frozen_parameters(frozen, generator):
    problem = Problem("residual", "selective", BOX, True, generator)
    leaves = []
    for name, parameter in problem.model.named_parameters():
        freeze = not name.startswith("head") if frozen == "not head" else name.startswith(f"{frozen}.")
        parameter.requires_grad_(not freeze)
        leaves += [] if freeze else [parameter]
    assert 0 < len(leaves) < len(list(problem.model.parameters()))
    assert problem.worst_relative_error(leaves, generator) <= TOLERANCE


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_gradients_of_gradients_of_linear_nets(training, generator):
    """A third derivative; convolutions and ReLUs refuse it."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.BatchNorm1d(5), torch.nn.Tanh(), torch.nn.Linear(5, 2))
    model = nets.randomise(model.double(), generator).train(training)
    inputs = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    leaves = list(model.parameters())

    def squared_gradients():
        _, relevance = LRPAttribution()(model, inputs, Target(0))
        value = relevance["input"].square().sum()
        return sum(
            g.square().sum() for g in torch.autograd.grad(value, leaves, create_graph=True, materialize_grads=True)
        )

    gradients = backward_gradients(squared_gradients(), leaves)
    assert worst_relative_error(lambda: squared_gradients().item(), leaves, gradients, generator) <= TOLERANCE


def test_a_wrong_gradient_is_seen(generator):
    problem = Problem("residual", "selective", None, True, generator)
    leaves = list(problem.model.parameters())
    gradients = backward_gradients(problem.penalty(), leaves)
    gradients[0] = gradients[0] * 1.001
    assert worst_relative_error(problem.evaluate, leaves, gradients, generator) > 10 * TOLERANCE


def test_images_that_need_no_gradient_get_none(generator):
    problem = Problem("residual", "selective", None, True, generator)
    problem.penalty().backward()
    assert problem.images.grad is None
    assert not problem.images.requires_grad


@pytest.mark.parametrize("detach", [False, True], ids=["alive", "detached"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_detached_statistics_are_constant_in_the_signal_only(training, detach, generator):
    """Against the frozen-gate network by hand: σ stays alive in the forward pass and, unless detached, in γ/σ."""
    model = torch.nn.Sequential(
        torch.nn.Conv2d(nets.CHANNELS, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten()
    )
    model.append(torch.nn.Linear(4 * nets.SIZE**2, nets.CLASSES))
    model = nets.randomise(model.double(), generator).train(training)
    convolution, norm, _, _, head = model
    images, epsilon = nets.make_images(generator), 1e-2
    parameters = list(model.parameters())

    z = F.conv2d(images, convolution.weight, convolution.bias, padding=1)
    mean = z.mean((0, 2, 3)) if training else norm.running_mean.clone()
    sigma = ((z.var((0, 2, 3), unbiased=False) if training else norm.running_var.clone()) + norm.eps).sqrt()
    channels = (slice(None), None, None)
    normalised = (z - mean[channels]) / sigma[channels]
    a = F.relu(normalised * norm.weight[channels] + norm.bias[channels])
    signal = head.weight[1].view(4, nets.SIZE, nets.SIZE) * a / (a + epsilon)
    signal = signal * (norm.weight / (sigma.detach() if detach else sigma))[channels]
    expected = images * F.conv_transpose2d(signal, convolution.weight, padding=1)
    expected_gradients = backward_gradients(expected.square().sum(), parameters)

    attribution = LRPAttribution(LRPFlex(epsilon, detach_statistics=detach))
    _, relevance = attribution(model, images, Target(1))
    torch.testing.assert_close(relevance["input"][:, 0], expected, rtol=1e-10, atol=1e-12)
    gradients = backward_gradients(relevance["input"].square().sum(), parameters)
    # a convolution's bias has no effect before a BatchNorm in train mode: rounding is all there is
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-9, atol=1e-10)


def test_the_weights_of_the_loss_reach_the_gradient(generator):
    """Without any weight there is no gradient; the checks above do not pass by comparing zeros."""
    problem = Problem("plain", "selective", None, False, generator)
    problem.regularizer.loss = HeatmapLoss(background_weight=0.0, foreground_weight=0.0)
    gradients = backward_gradients(problem.penalty(), list(problem.model.parameters()))
    assert all(gradient.count_nonzero() == 0 for gradient in gradients)


@pytest.mark.parametrize("net", ["residual", "plain"])
@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_frozen_parameters_leave_the_gradients_of_the_others_alone(net, frozen, generator):
    problem = Problem(net, "selective", None, True, generator)

    def gradients():
        live = {name: p for name, p in problem.model.named_parameters() if p.requires_grad}
        loss = problem.penalty() + problem.model(problem.images).square().sum()
        return dict(zip(live, backward_gradients(loss, list(live.values())), strict=True))

    expected = gradients()
    for name, parameter in problem.model.named_parameters():
        parameter.requires_grad_(not name.endswith(frozen))
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, expected[name], msg=name)
