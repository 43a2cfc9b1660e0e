"""Gaps to find: a model with one block in it that no relevance rule covers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS = 4


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


class Block(nn.Module):
    """Gives an operation a module path."""

    def __init__(self, operation) -> None:
        super().__init__()
        self.operation = operation

    def forward(self, features: Tensor) -> Tensor:
        return self.operation(features)


class TwoBranches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(CHANNELS, CHANNELS, 1), nn.Conv2d(CHANNELS, CHANNELS, 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.left(features).mul_(self.right(features))


class Recurrent(nn.Module):
    def __init__(self, kind) -> None:
        super().__init__()
        self.cell = kind(CHANNELS, CHANNELS, batch_first=True)

    def forward(self, features: Tensor) -> Tensor:
        sequence, _ = self.cell(features.flatten(2).transpose(1, 2))
        return sequence.transpose(1, 2).reshape(features.shape)


GAPS = {
    "functional softplus": (lambda: Block(F.softplus), "softplus"),
    "product of two branches in place": (TwoBranches, "mul_"),
    "LSTM": (lambda: Recurrent(nn.LSTM), "lstm"),
    "GRU": (lambda: Recurrent(nn.GRU), "gru"),
    "custom autograd function": (lambda: Block(lambda x: Cube.apply(x) + 0), "add"),
    "sigmoid as an activation in a sum": (lambda: Block(lambda x: x + x.sigmoid()), "add"),
    "Fourier transform": (lambda: Block(lambda x: torch.fft.ifft2(torch.fft.fft2(x) * 2).real), "fft"),
    "division by a signal": (lambda: Block(lambda x: x / (x.abs().sum(1, keepdim=True) + 1)), "div"),
    "exp": (lambda: Block(torch.exp), "exp"),
    "inverse square": (lambda: Block(lambda x: (x + 1) ** -2), "pow"),
    "cumprod": (lambda: Block(lambda x: x.cumprod(1)), "cumprod"),
    "in-place exp": (lambda: Block(lambda x: x.clone().exp_()), "exp_"),
}


def model_with(block: nn.Module, *, end: nn.Module | None = None) -> nn.Sequential:
    layers = [nn.Conv2d(3, CHANNELS, 3), nn.BatchNorm2d(CHANNELS), nn.ReLU(), block, nn.Dropout(0.5)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 3)]
    return nn.Sequential(*layers, *([] if end is None else [end]))
