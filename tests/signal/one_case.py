"""A small network with one case in it, and what must hold of its relevance."""

from __future__ import annotations

import finite_differences
import torch
from torch import Tensor, nn

from zennit_isnet import LRPAttribution, LRPFlex, Target

WIDTH = 8


class Net(nn.Module):
    """Convolution, what a case does, mean, head; no biases."""

    def __init__(self, case) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, WIDTH, 3, padding=1, bias=False)
        self.second = nn.Conv2d(3, WIDTH, 3, padding=1, bias=False)
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH))
        self.head = nn.Linear(WIDTH, 3, bias=False)
        self.case = case

    def forward(self, images: Tensor) -> Tensor:
        h = self.case(self, self.first(images), images)
        return self.head(h.flatten(2).mean(2) if h.ndim > 2 else h)


def attributed(case, *, train: bool = False) -> tuple[Net, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    net = Net(case).double().train(train)
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    torch.manual_seed(2)
    plain = net(images)
    torch.manual_seed(2)
    logits, relevance = LRPAttribution(LRPFlex(1e-30))(net, images, Target(1))
    return net, plain, logits, relevance["input"]


def error_of_parameter_gradients(case, generator: torch.Generator) -> float:
    """Largest relative error of the relevance's gradient against finite differences."""
    torch.manual_seed(0)
    net = Net(case).double()
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=generator)
    weights = torch.randn(2, 1, 3, 8, 8, dtype=torch.float64, generator=generator)
    leaves = list(net.parameters())

    def loss() -> Tensor:
        _, relevance = LRPAttribution(LRPFlex(epsilon=0.1))(net, images, Target(1))
        return (relevance["input"] * weights).sum()

    found = torch.autograd.grad(loss(), leaves, allow_unused=True)
    used = [(leaf, grad) for leaf, grad in zip(leaves, found, strict=True) if grad is not None]
    leaves, gradients = [list(part) for part in zip(*used, strict=True)]
    return finite_differences.worst_relative_error(lambda: loss().item(), leaves, gradients, generator)
