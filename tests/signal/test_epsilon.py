"""ε relative to the activations of a layer: what it leaves alone, and that its gradient is exact."""

from __future__ import annotations

import nets
import pytest
import torch
from finite_differences import TOLERANCE, backward_gradients, worst_relative_error
from torch import nn
from torch.nn import functional as F

from zennit_isnet import LRPAttribution, LRPFlex, Original, Target
from zennit_isnet.errors import UncoveredOperationError

ACTIVATIONS = [nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish, nn.Mish, nn.Tanh, nn.ELU, nn.LeakyReLU]


def relevance_of(model, images, formulation=None, **options):
    formulation = Original() if formulation is None else formulation
    return LRPAttribution(LRPFlex(**options))(model, images, formulation)[1]["input"]


def small_net(activation, generator, norm=nn.BatchNorm2d):
    model = nn.Sequential(
        nn.Conv2d(nets.CHANNELS, 6, 3, padding=1),
        norm(6) if norm is nn.BatchNorm2d else norm(2, 6),
        activation(),
        nn.Conv2d(6, 6, 3, padding=1),
        activation(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, nets.CLASSES),
    )
    return nets.randomise(model.double(), generator)


def test_the_scale_of_a_layer_makes_no_difference(generator):
    """Activations times s, the next weights by s: the same function, and the same relevance."""
    model, images = small_net(nn.ReLU, generator).eval(), nets.make_images(generator)
    before, before_absolute = relevance_of(model, images), relevance_of(model, images, epsilon=0.3)
    with torch.no_grad():
        model[1].weight *= 50
        model[1].bias *= 50
        model[3].weight /= 50
    torch.testing.assert_close(relevance_of(model, images), before, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(relevance_of(model, images, epsilon=0.3), before_absolute, rtol=0.1)


def test_one_images_relevance_does_not_depend_on_the_others(generator):
    model, images = small_net(nn.ReLU, generator).eval(), nets.make_images(generator)
    alone = torch.cat([relevance_of(model, image.unsqueeze(0)) for image in images])
    torch.testing.assert_close(relevance_of(model, images), alone, rtol=1e-9, atol=1e-12)


def test_it_is_the_root_mean_square_of_an_images_activations(generator):
    images = torch.randn(3, 4, 5, 5, generator=generator, dtype=torch.float64).requires_grad_()
    with LRPFlex(epsilon_ratio=0.7).context(model := nn.ReLU()):
        output = model(images)
        (relevance,) = torch.autograd.grad(output, images, torch.ones_like(output))
    epsilon = 0.7 * output.square().mean((1, 2, 3), keepdim=True).sqrt()
    torch.testing.assert_close(relevance, images * output / (output + epsilon))


def test_a_layer_that_is_silent_throughout_gives_no_relevance_and_no_nan(generator):
    model, images = small_net(nn.ReLU, generator).eval(), nets.make_images(generator)
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.fill_(-1)
    relevance = relevance_of(model, images)
    assert not relevance.any()
    found = torch.autograd.grad(relevance.sum(), list(model.parameters()), materialize_grads=True, allow_unused=True)
    assert all(gradient.isfinite().all() for gradient in found)


RELATIVE_AND_EXACT = [
    # each activation with a relative ε and without any; modes and ratios change from one to the next
    (activation, options, training)
    for i, activation in enumerate(ACTIVATIONS)
    for options, training in (({"epsilon_ratio": (0.3, 2.0)[i % 2]}, i % 4 < 2), ({"epsilon": 0.0}, i % 4 > 1))
]


@pytest.mark.parametrize(("activation", "options", "training"), RELATIVE_AND_EXACT)
def test_the_gradient_of_the_relevance_is_that_of_finite_differences(activation, options, training, generator):
    model, images = small_net(activation, generator).train(training), nets.make_images(generator)
    leaves, statistics = list(model.parameters()), [buffer.clone() for buffer in model.buffers()]

    def value():
        with torch.no_grad():
            for buffer, kept in zip(model.buffers(), statistics, strict=True):
                buffer.copy_(kept)
        return relevance_of(model, images, Target(1), **options).square().sum()

    gradients = backward_gradients(value(), leaves)
    assert worst_relative_error(lambda: value().item(), leaves, gradients, generator) <= TOLERANCE


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.GroupNorm])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("options", [{"epsilon_ratio": 1e-30}, {"epsilon": 0.0}], ids=str)
def test_relevance_is_conserved_without_damping(activation, options, norm, generator):
    model, images = nets.without_biases(small_net(activation, generator, norm)).eval(), nets.make_images(generator)
    relevance = relevance_of(model, images, Target(1), **options)
    torch.testing.assert_close(relevance.sum((1, 2, 3, 4)), model(images)[:, 1], rtol=1e-8, atol=1e-12)


def test_with_half_precision_the_relevance_is_that_of_single_precision(generator):
    model, images = small_net(nn.ReLU, generator).eval().float(), nets.make_images(generator).float()
    expected = relevance_of(model, images)
    with torch.autocast("cpu", torch.bfloat16):
        found = relevance_of(model, images)
    assert torch.cosine_similarity(found.flatten().float(), expected.flatten(), dim=0) > 0.999


class TokensFirst(nn.Module):
    """A transformer's encoder without normalisation, on tokens ``(L, N, E)``, PyTorch's default."""

    def __init__(self, activation):
        super().__init__()
        self.patches, self.head = nn.Conv2d(nets.CHANNELS, 6, 4, 4), nn.Linear(6, nets.CLASSES)
        self.hidden, self.activation = nn.Linear(6, 6), activation()

    def forward(self, images):
        tokens = self.patches(images).flatten(2).permute(2, 0, 1)
        return self.head(self.activation(self.hidden(tokens)).mean(0))


class Declared(nn.Module):
    """Has a rule only if one is declared for it."""

    def forward(self, z):
        return z * torch.softmax(torch.stack([z, torch.zeros_like(z)]), 0)[0]


class Folded(nn.Module):
    """Four parts of each image, as rows of their own."""

    def __init__(self, activation):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(nets.CHANNELS, 3, 3), activation(), nn.AdaptiveAvgPool2d(1))
        self.head = nn.Linear(3, nets.CLASSES)

    def forward(self, images):
        count, _, height, width = images.shape
        parts = images.unfold(2, height // 2, height // 2).unfold(3, width // 2, width // 2).permute(0, 2, 3, 1, 4, 5)
        return self.head(self.features(parts.flatten(0, 2)).flatten(1)).unflatten(0, (count, 4)).mean(1)


@pytest.mark.parametrize(
    ("net", "activation"),
    [*((TokensFirst, one) for one in (nn.ReLU, nn.ReLU6, nn.GELU, nn.Tanh, Declared)), (Folded, nn.ReLU)],
)
def test_images_along_any_axis_have_their_own_epsilon(net, activation, generator):
    model = nets.randomise(net(activation).double(), generator)
    images = nets.make_images(generator, 3) * torch.tensor([1.0, 5.0, 20.0]).double().view(-1, 1, 1, 1)
    options = {"modules": {Declared: "activation"}}
    alone = torch.cat([relevance_of(model, image.unsqueeze(0), **options) for image in images])
    torch.testing.assert_close(relevance_of(model, images, **options), alone, rtol=1e-9, atol=1e-12)

    def value():
        return relevance_of(model, images, **options).square().sum()

    leaves = list(model.parameters())
    gradients = backward_gradients(value(), leaves)
    assert worst_relative_error(lambda: value().item(), leaves, gradients, generator) <= TOLERANCE


def test_activations_whose_images_are_unknown_are_refused(generator):
    class Mixed(TokensFirst):
        def forward(self, images):
            return super().forward(images) + F.relu(images.flatten()[None]).sum()

    model = nets.randomise(Mixed(nn.ReLU).double(), generator)
    with pytest.raises(UncoveredOperationError, match=r"relu: returns \(1, \d+\) for 3 images, so that ε cannot"):
        relevance_of(model, nets.make_images(generator, 3))
    relevance_of(model, nets.make_images(generator, 3), epsilon=0.1)
