"""ReLU networks whose relevance is the gradient times the input as ε → 0, with the outputs that Captum allows."""

from __future__ import annotations

import nets
import torch
from torch import Tensor, nn

from zennit_isnet import LRPFlex

COUNT, CLASSES = 4, 5

EXACT = LRPFlex(epsilon=1e-12)
"""Equals input times gradient on these networks, to rounding in float64."""


class WithHead(nn.Module):
    """Two convolutions, and as output the function of ``(N, 5)`` logits that the test wants."""

    def __init__(self, head=lambda logits: logits):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.relu = nn.ReLU(inplace=True)
        self.inner = nn.Conv2d(4, 4, 3)
        self.last = nn.ReLU()
        self.linear = nn.Linear(64, CLASSES)
        self.head = head

    def forward(self, images):
        features = self.last(self.inner(self.relu(self.conv(images))))
        return self.head(self.linear(features.flatten(1)))


class TwoInputs(nn.Module):
    """An image and a vector, a factor and a shift; the shift is a tensor with one row for each example."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 2, 3), nn.ReLU()
        self.of_vector, self.linear = nn.Linear(6, 8), nn.Linear(80, CLASSES)

    def forward(self, images, vectors, factor=1.0, shift=None):
        branches = [self.relu(self.conv(images)).flatten(1), self.relu(self.of_vector(vectors))]
        logits = factor * self.linear(torch.cat(branches, 1))
        return logits if shift is None else logits + shift


class Pair(nn.Module):
    """A layer of two tensors and a number."""

    def forward(self, left, right, factor):
        return left.relu(), None, factor * right.relu()


class TwoBranches(nn.Module):
    """Its layer `pair` takes two tensors, one of them by its name, and returns two."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.pair = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), Pair()
        self.linear = nn.Linear(144, CLASSES)

    def forward(self, images):
        left, _, right = self.pair(self.left(images), right=self.right(images), factor=2)
        return self.linear((left + right).flatten(1))


def make(build, generator: torch.Generator, *arguments) -> nn.Module:
    """A network in float64 and eval mode."""
    return nets.randomise(build(*arguments).double(), generator).eval()


def two_inputs(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    vectors = torch.randn(COUNT, 6, generator=generator, dtype=torch.float64)
    return nets.make_images(generator, COUNT), vectors
