"""A small classifier and the background-bias benchmark, for the examples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.models.resnet import BasicBlock

from zennit_isnet.data import BackgroundBias, load_digits
from zennit_isnet.data.background_bias import Background, Split

Digits = tuple[Tensor, Tensor]


def small_net() -> nn.Module:
    """Return a ResNet of three torchvision blocks; an epoch takes seconds on a CPU."""

    def block(before: int, after: int) -> nn.Module:
        shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride=2, bias=False), nn.BatchNorm2d(after))
        return BasicBlock(before, after, stride=2, downsample=shortcut)

    stem = nn.Conv2d(3, 16, 5, stride=4, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)
    return nn.Sequential(*stem, BasicBlock(16, 16), block(16, 32), block(32, 64), *head)


def batches(data: BackgroundBias, size: int, generator: torch.Generator | None = None) -> DataLoader[Any]:
    """Return batches of images, masks and labels; with a generator, shuffled and all of the same size."""
    return DataLoader(data, size, shuffle=generator is not None, generator=generator, drop_last=generator is not None)


def loader(split: Split, background: Background, digits: Digits | None = None) -> DataLoader[Any]:
    """Return batches of 64 digits of a split; training batches are shuffled."""
    data = BackgroundBias(split=split, background=background, source=load_digits() if digits is None else digits)
    return batches(data, 64, torch.Generator().manual_seed(0) if split == "train" else None)
