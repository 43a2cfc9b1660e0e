"""Gradients are right whatever the memory layouts, where PyTorch's kernels on a CPU misread some."""

from __future__ import annotations

import pytest
import torch
from finite_differences import backward_gradients, worst_relative_error
from torch import nn

from zennit_isnet import LRPAttribution, LRPFlex, Target
from zennit_isnet.lrp.signal.normalization import channel_products
from zennit_isnet.model import buffers_restored

NORMS = {
    "instance": nn.InstanceNorm2d,
    "instance, tracked": lambda channels: nn.InstanceNorm2d(channels, track_running_stats=True),
    "batch": nn.BatchNorm2d,
    "group": lambda channels: nn.GroupNorm(3, channels),
}


class Mixing(nn.Module):
    """A norm whose input and gradient lie in memory as the case says."""

    def __init__(self, norm, before, attends) -> None:
        super().__init__()
        self.stem, self.norm, self.head = nn.Conv2d(3, 6, 1), norm(6), nn.Linear(6, 3)
        self.attention, self.mix = nn.MultiheadAttention(6, 2, batch_first=True), nn.Conv2d(6, 6, 1)
        self.before, self.attends = before, attends

    def forward(self, images):
        features = self.norm(self.before(self.stem(images)))
        if self.attends:
            tokens = features.flatten(2).transpose(1, 2)
            return self.head(self.attention(tokens, tokens, tokens)[0].mean(1))
        return self.head(self.mix(features.contiguous(memory_format=torch.channels_last)).tanh().mean((2, 3)))


BEFORE = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(2, 3),
    "tokens": lambda x: x.flatten(2).transpose(1, 2).contiguous().transpose(1, 2).unflatten(2, x.shape[2:]),
}


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("shape", [(2, 3, 3, 2), (1, 3, 4, 1)], ids=str)
@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("norm", NORMS)
def test_parameter_gradients_are_finite_differences(norm, before, shape, training, generator):
    for attends in (False, True):
        model = Mixing(NORMS[norm], BEFORE[before], attends).double().train(training)
        images = torch.randn(shape, generator=generator, dtype=torch.float64)
        weights = torch.randn(shape, generator=generator, dtype=torch.float64).unsqueeze(1)
        leaves = [*model.stem.parameters(), *model.norm.parameters()]

        def loss(model=model, images=images, weights=weights):
            with buffers_restored(model):
                logits, relevance = LRPAttribution(LRPFlex(0.1))(model, images, Target(1))
            return (relevance["input"] * weights).sum() + logits.sin().sum()

        gradients = backward_gradients(loss(), leaves)
        assert worst_relative_error(lambda loss=loss: loss().item(), leaves, gradients, generator) < 1e-5


@pytest.mark.parametrize("shape", [(1, 6, 5, 1), (2, 6, 5, 1), (2, 6, 1, 5), (1, 6, 5, 4), (1, 3, 2, 1, 2)], ids=str)
def test_channel_products_of_mixed_layouts(shape, generator):
    def drawn(axes):
        values = torch.randn([shape[axis] for axis in axes], generator=generator)
        return values.permute([axes.index(axis) for axis in range(len(shape))])

    orders = [[*range(len(shape))], [0, *range(2, len(shape)), 1], [*reversed(range(len(shape)))]]
    for first, second in [(drawn(a), drawn(b)) for a in orders for b in orders]:
        expected = (first * second).sum([axis for axis in range(len(shape)) if axis != 1])
        with torch.no_grad():
            torch.testing.assert_close(channel_products(first, second), expected)
