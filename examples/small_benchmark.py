"""A small classifier and the background-bias benchmark, for the examples of other training loops."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from zennit_isnet.data import BackgroundBias, load_digits
from zennit_isnet.data.background_bias import Background, Split

Digits = tuple[Tensor, Tensor]


def small_net() -> nn.Module:
    """Return a classifier of digits that trains in seconds on a CPU."""
    blocks: list[nn.Module] = []
    for channels, out in ((3, 16), (16, 32), (32, 64)):
        blocks += [nn.Conv2d(channels, out, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(64 * 4 * 4, 10))


def loader(split: Split, background: Background, digits: Digits | None = None, batch_size: int = 64) -> DataLoader[Any]:
    """Return batches of images, masks and labels, shuffled for training."""
    data = BackgroundBias(split=split, background=background, source=load_digits() if digits is None else digits)
    training = split == "train"
    generator = torch.Generator().manual_seed(0)
    return DataLoader(data, batch_size, shuffle=training, generator=generator, drop_last=training)
