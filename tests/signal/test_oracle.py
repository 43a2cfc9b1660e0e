"""Values against plain matrix algebra: each linear layer as a dense matrix, relevance passed back rule by rule.

Index letters: N images, i inputs and k outputs of a layer, all flattened.
"""

from __future__ import annotations

import nets
import pytest
import torch
from torch import nn

from zennit_isnet.errors import UncoveredOperationError
from zennit_isnet.formulations import Original
from zennit_isnet.lrp.flex import LRPFlex, box_from_normalization
from zennit_isnet.lrp.propagation import LRPAttribution

EPSILON = 1e-2
STEMS = {
    "plain": {},
    "padding": {"padding": 1},
    "stride and padding": {"stride": 2, "padding": 1},
    "dilation": {"dilation": 2, "padding": 2},
    "groups": {"groups": 3, "padding": 1},
    "no bias": {"padding": 1, "bias": False},
    "one-sided kernel": {"kernel_size": (2, 3), "padding": (1, 0), "stride": (1, 2)},
    "same padding": {"padding": "same"},
}
UNEVEN = {"padding": "same", "kernel_size": 2}
TAILS = {
    "ReLU": lambda: [nn.ReLU()],
    "ReLU in place": lambda: [nn.ReLU(inplace=True)],
    "BatchNorm, ReLU": lambda: [nn.BatchNorm2d(6), nn.ReLU(inplace=True)],
    "no activation": lambda: [],
    "BatchNorm, no activation": lambda: [nn.BatchNorm2d(6)],
    "BatchNorm without parameters": lambda: [nn.BatchNorm2d(6, affine=False), nn.ReLU()],
}
BOXES = {
    "no box": None,
    "z^B": (0.0, 1.0),
    "z^B per channel": box_from_normalization(mean=(0.5, 0.4, 0.3), std=(0.25, 0.3, 0.2)),
}


def make(stem, tail, generator, training):
    options = {"kernel_size": 3, **stem}
    model = nn.Sequential(nn.Conv2d(3, 6, **options), *TAILS[tail](), nn.Conv2d(6, 4, 2), nn.ReLU(), nn.Flatten())
    size = model(torch.zeros(2, 3, 6, 6)).shape[1]
    model.append(nn.Linear(size, nets.CLASSES))
    return nets.randomise(model.double(), generator).train(training)


def dense(layer, shape):
    """Matrix (i, k) and bias (k) of a convolution or linear layer that reads inputs of a shape (C, H, W)."""
    count = torch.Size(shape).numel()
    zero = layer(torch.zeros(1, *shape, dtype=torch.float64))
    basis = torch.eye(count, dtype=torch.float64).view(count, *shape)
    return (layer(basis) - zero).flatten(1), zero.flatten(), zero.shape[1:]


def fused(layer, norm, inputs):
    """Matrix and bias of a layer with the BatchNorm that follows it, by the statistics of this pass."""
    matrix, bias, shape = dense(layer, inputs.shape[1:])
    if norm is None:
        return matrix, bias, shape
    z = (inputs.flatten(1) @ matrix + bias).view(-1, *shape)
    mean, variance = norm.running_mean, norm.running_var
    if norm.training:
        mean, variance = z.mean((0, 2, 3)), z.var((0, 2, 3), unbiased=False)
    scale = (variance + norm.eps).rsqrt() * (norm.weight if norm.affine else 1)
    shift = (norm.bias if norm.affine else 0) - mean * scale
    scale, shift = (vector.repeat_interleave(shape[1] * shape[2]) for vector in (scale, shift))
    return matrix * scale, bias * scale + shift, shape


def stabilized(z):
    return torch.where(z < 0, z - EPSILON, z + EPSILON)


@torch.no_grad()
def oracle(model, images, box):
    """Relevance (N, K, C, H, W) of every class."""
    layers = list(model)
    stem, hidden, head = layers[0], next(m for m in layers[1:] if isinstance(m, nn.Conv2d)), layers[-1]
    norm = next((m for m in layers if isinstance(m, nn.BatchNorm2d)), None)
    gated = isinstance(layers[layers.index(hidden) - 1], nn.ReLU)
    x = images.flatten(1)

    w1, b1, shape = fused(stem, norm, images)
    z1 = x @ w1 + b1
    a1 = z1.relu() if gated else z1
    w2, b2, _ = dense(hidden, shape)
    z2 = a1 @ w2 + b2
    a2 = z2.relu()

    heatmaps = []
    for weights in head.weight:
        r2 = a2 * weights
        r1 = a1 * ((r2 / stabilized(z2)) @ w2.T)
        if box is not None:
            low, high = (bound.expand(3, 6, 6).flatten() for bound in box)
            # contributions (N, i, k)
            z = x[:, :, None] * w1 - low[:, None] * w1.clamp(min=0) - high[:, None] * w1.clamp(max=0)
            relevance = torch.einsum("nik,nk->ni", z, r1 / stabilized(z.sum(1)))
        elif gated:
            relevance = x * ((r1 / stabilized(z1)) @ w1.T)
        else:
            relevance = x * ((r1 / z1) @ w1.T)
        heatmaps.append(relevance.view_as(images))
    return torch.stack(heatmaps, 1)


CASES = [
    # each stem with each tail; each of both with each box in each mode
    (stem, tail, (i + j // len(BOXES)) % 2 == 1, list(BOXES)[(i + j) % len(BOXES)])
    for i, stem in enumerate(STEMS)
    for j, tail in enumerate(TAILS)
]


@pytest.mark.parametrize(("stem", "tail", "training", "box"), CASES)
def test_equals_dense_matrix_algebra(stem, tail, training, box, generator):
    check_against_oracle(make(STEMS[stem], tail, generator, training), box, generator)


# PyTorch warns that its own kernel copies the input for this padding
uneven = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")


@uneven
@pytest.mark.parametrize("tail", TAILS)
def test_padding_on_one_side(tail, generator):
    check_against_oracle(make(UNEVEN, tail, generator, False), "no box", generator)


@uneven
def test_padding_on_one_side_has_no_zbox(generator):
    model = make(UNEVEN, "ReLU", generator, False)
    with pytest.raises(UncoveredOperationError, match=r"z\^B: no convolution with equal padding on both sides"):
        LRPAttribution(LRPFlex(box=(0.0, 1.0)))(model, nets.make_images(generator, size=6), Original())


def check_against_oracle(model, box, generator):
    composite = LRPFlex(EPSILON, BOXES[box])
    images = torch.rand(4, 3, 6, 6, generator=generator, dtype=torch.float64)
    if composite.box is not None:
        low, high = composite.box
        images = low + (high - low) * images
    expected = oracle(model, images, composite.box)
    _, relevance = LRPAttribution(composite)(model, images, Original())
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(relevance["input"].detach(), expected, rtol=1e-8, atol=1e-10)
