"""Images of two classes whose corner and whose object both name the class, and models that read one of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

SIZE = 6
CORNER, OBJECT = (0, 0), (2, 3)


class Cued(Dataset):
    """Class 0 has red in its cues, class 1 green; the object is a square of 2×2 pixels in the middle.

    Everything else is grey noise, so that no two images are equal.
    """

    def __init__(self, count: int = 60) -> None:
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.arange(count) % 2
        self.images = 0.1 * torch.rand(count, 1, SIZE, SIZE, generator=generator).expand(-1, 3, -1, -1).clone()
        self.masks = torch.zeros(count, 1, SIZE, SIZE, dtype=torch.bool)
        self.masks[:, :, 2:4, 2:4] = True
        for row, column in (CORNER, OBJECT):
            self.images[:, :, row, column] = torch.eye(3)[self.labels]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        return self.images[index], self.masks[index], int(self.labels[index])


class Listed(Dataset):
    """Items as they are given, with names and classes."""

    classes = ("cat", "dog")

    def __init__(self, items: list, names: list[str]) -> None:
        self.items, self.names = items, names

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple:
        return self.items[index]

    def name(self, index: int) -> str:
        return self.names[index]


def reader(row: int, column: int) -> nn.Sequential:
    """A linear model whose logits are the red and the green value of one pixel."""
    linear = nn.Linear(3 * SIZE * SIZE, 2)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    with torch.no_grad():
        for channel in range(2):
            linear.weight.view(2, 3, SIZE, SIZE)[channel, channel, row, column] = 1
    return nn.Sequential(nn.Flatten(), linear)


def reader_through_gates() -> nn.Sequential:
    """A model that says what the object says, but only where the corner says the same: the corner opens its gates.

    With object and corner o and c, both 0 or 1, a logit is relu(o + 2c − 1.5) − relu(2c − 1.75). Where c is 1, the
    gates of both units are open, and the signals of the corner, 2 and −2, cancel: with exact gates its relevance is 0.
    """
    units = nn.Linear(3 * SIZE * SIZE, 4)
    logits = nn.Linear(4, 2)
    for parameter in (*units.parameters(), *logits.parameters()):
        nn.init.zeros_(parameter)
    with torch.no_grad():
        units.bias[:] = torch.tensor([-1.5, -1.5, -1.75, -1.75])
        weight = units.weight.view(4, 3, SIZE, SIZE)
        for channel in range(2):
            weight[channel, channel][OBJECT] = 1
            weight[channel, channel][CORNER] = 2
            weight[2 + channel, channel][CORNER] = 2
            logits.weight[channel, channel], logits.weight[channel, 2 + channel] = 1, -1
    return nn.Sequential(nn.Flatten(), units, nn.ReLU(), logits)


def one_logit(model: nn.Sequential) -> nn.Sequential:
    """The same model with a single logit: that of class 1 minus that of class 0."""
    difference = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        difference.weight[:] = torch.tensor([[-1.0, 1.0]])
    return nn.Sequential(*model, difference)
