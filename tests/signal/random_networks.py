"""Random programs of operations, run by PyTorch as they stand, and by an oracle that writes every gate out.

The oracle has no in-place operation, no view and no mode: memory is a list of cells, a tensor of the model is a part of
a cell, and each nonlinearity is its input times a detached gate. Its relevance is the plain gradient times the images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS, SIZE, CLASSES = 4, 4, 3
EPSILON = 0.1
PARTS = {"first": slice(0, 2), "last": slice(2, 4)}

ACTIVATIONS = {
    "relu": lambda z, inplace: F.relu(z, inplace=inplace),
    "silu": lambda z, inplace: F.silu(z, inplace=inplace),
    "gelu": lambda z, inplace: F.gelu(z),
    "hardswish": lambda z, inplace: F.hardswish(z, inplace=inplace),
    "leaky_relu": lambda z, inplace: F.leaky_relu(z, 0.1, inplace=inplace),
    "elu": lambda z, inplace: F.elu(z, inplace=inplace),
    "tanh": lambda z, inplace: z.tanh_() if inplace else z.tanh(),
    "clamp": lambda z, inplace: z.clamp_(-0.3, 0.4) if inplace else z.clamp(-0.3, 0.4),
    "square": lambda z, inplace: z.square_() if inplace else z**2,
}

LINEAR = {
    "double": lambda z: z * 2,
    "negative": lambda z: -z,
    "flip": lambda z: z.flip(-1),
    "transpose": lambda z: z.mT.clone(),  # `mT` is a view
    "average pooling": lambda z: F.avg_pool2d(z, 3, 1, 1),
    "maximum pooling": lambda z: F.max_pool2d(z, 3, 1, 1),
    "centred": lambda z: z - z.mean((2, 3), keepdim=True),
    "positive part by where": lambda z: torch.where(z > 0, z, torch.zeros_like(z)),
    "positive part by a mask": lambda z: z * (z > 0),
    "sorted": lambda z: z.sort(-1).values,
}

PAIRS = ("sum", "difference", "product", "gated", "maximum", "halves", "added in place", "multiplied in place")

WRONG = {
    "gate added": lambda z: z + z.sigmoid(),
    "decision added": lambda z: z + (z > 0),
    "divided by a signal": lambda z: z / (z.square() + 1),
    "exp": torch.exp,
    "clamped without a gradient": lambda z: (torch.no_grad()(Tensor.clamp_)(z, -0.2, 0.2), z)[1],
    "written through data": lambda z: (z.data.clamp_(-0.2, 0.2), z)[1],
}
"""What has no rule, if the signal passes there."""

UNRECORDED = ("clamped without a gradient", "written through data")
"""Those of which PyTorch records no gradient, behind a gate either."""


@dataclass(frozen=True)
class Step:
    """One operation: reads registers, and appends its result to them."""

    operation: tuple[str, str]
    first: int
    second: int
    inplace: bool

    @property
    def kind(self) -> str:
        return self.operation[0]

    @property
    def name(self) -> str:
        return self.operation[1]


def steps() -> st.SearchStrategy[Step]:
    names = {
        "activation": sorted(ACTIVATIONS),
        "linear": sorted(LINEAR),
        "pair": sorted(PAIRS),
        "layer": ["convolution 0", "convolution 1", "batch norm", "dropout"],
        "part": ["first", "last"],
        "wrong": sorted(WRONG),
    }
    operations = st.sampled_from([(kind, name) for kind, all_names in names.items() for name in all_names])
    return st.builds(Step, operations, st.integers(0, 3), st.integers(0, 3), st.booleans())


def programs() -> st.SearchStrategy[tuple[Step, ...]]:
    return st.lists(steps(), min_size=1, max_size=7).map(tuple)


class RandomNetwork(nn.Module):
    """Convolution, a program, mean, head; no biases but BatchNorm's."""

    def __init__(self, program: tuple[Step, ...]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 3, padding=1, bias=False)
        self.convolutions = nn.ModuleList(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False) for _ in range(2))
        self.norm = nn.BatchNorm2d(CHANNELS)
        self.head = nn.Linear(CHANNELS, CLASSES, bias=False)
        self.program = program

    def forward(self, images: Tensor) -> Tensor:
        registers = [self.stem(images)]
        for step in self.program:
            a, b = (registers[-1 - i % len(registers)] for i in (step.first, step.second))
            registers.append(self.result(step, a, b))
        return self.head(full(registers[-1]).mean((2, 3)))

    def result(self, step: Step, a: Tensor, b: Tensor) -> Tensor:
        if step.kind == "activation":
            return ACTIVATIONS[step.name](a, step.inplace)
        if step.kind == "linear":
            return LINEAR[step.name](a)
        if step.kind == "part":
            return a[:, PARTS[step.name]] if a.shape[1] == CHANNELS else a
        if step.kind == "wrong":
            return WRONG[step.name](a)
        if step.kind == "layer":
            a = full(a)
            if step.name == "batch norm":
                return self.norm(a)
            return (
                F.dropout(a, 0.0, True, step.inplace)
                if step.name == "dropout"
                else self.convolutions[int(step.name[-1])](a)
            )
        a, b = matched(a, b)
        return {
            "sum": lambda: a + b,
            "difference": lambda: torch.sub(a, b, alpha=0.5),
            "product": lambda: a * b,
            "gated": lambda: a * b.sigmoid(),
            "maximum": lambda: torch.maximum(a, b),
            "halves": lambda: torch.cat([a[:, :1], b[:, 1:]], 1),
            "added in place": lambda: a.add_(b),
            "multiplied in place": lambda: a.mul_(b.sigmoid()),
        }[step.name]()


def full(z: Tensor) -> Tensor:
    """A tensor of all channels."""
    return z if z.shape[1] == CHANNELS else torch.cat([z, z], 1)


def matched(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two tensors of the same channels: views of both where one has fewer."""
    count = min(a.shape[1], b.shape[1])
    return a[:, :count], b[:, :count]


def damped(z: Tensor, a: Tensor) -> Tensor:
    return a / (z + EPSILON * torch.where(z >= 0, 1.0, -1.0))


GATES = {
    "relu": lambda z: damped(z, F.relu(z)),
    "silu": lambda z: torch.sigmoid(z) * F.softplus(z) / (F.softplus(z) + EPSILON),
    "gelu": lambda z: (
        (phi := 0.5 * (1 + torch.erf(z / math.sqrt(2))))
        * (height := z * phi + torch.exp(-z * z / 2) / math.sqrt(2 * math.pi))
        / (height + EPSILON)
    ),
    "hardswish": lambda z: F.relu6(z + 3) / 6 * ramp(z) / (ramp(z) + EPSILON),
    "leaky_relu": lambda z: damped(z, torch.where(z > 0, z, 0.1 * z)),
    "elu": lambda z: damped(z, torch.where(z > 0, z, torch.expm1(z.clamp(max=0)))),
    "tanh": lambda z: damped(z, torch.tanh(z)),
    "clamp": lambda z: damped(z, z.clamp(-0.3, 0.4)),
    "square": lambda z: damped(z, z * z),
}

EXACT = {name: (lambda z, f=f: f(z, False)) for name, f in ACTIVATIONS.items()}


def ramp(z: Tensor) -> Tensor:
    """Integral of hardswish's gate."""
    return torch.where(z < -3, torch.zeros_like(z), torch.where(z < 3, (z + 3) ** 2 / 12, z))


class Gated(torch.autograd.Function):
    """A value with a gradient that is given: the gate times what arrives."""

    @staticmethod
    def forward(ctx, z, value, gate):
        ctx.save_for_backward(gate)
        return value.clone()

    @staticmethod
    def backward(ctx, grad):
        (gate,) = ctx.saved_tensors
        return grad * gate, None, None


class Cell:
    """A piece of memory: its values, and whether an operation without a rule made them."""

    def __init__(self, value: Tensor, wrong: bool) -> None:
        self.value, self.wrong = value, wrong


class View:
    """Some channels of a cell."""

    def __init__(self, cell: Cell, part: slice = slice(None)) -> None:
        self.cell, self.part = cell, part

    @property
    def value(self) -> Tensor:
        return self.cell.value[:, self.part]

    def write(self, value: Tensor, wrong: bool) -> View:
        before = self.cell.value
        start = self.part.indices(before.shape[1])[0]
        pieces = [before[:, :start], value, before[:, start + value.shape[1] :]]
        self.cell.value = torch.cat(pieces, 1)
        self.cell.wrong = self.cell.wrong or wrong
        return self

    def narrowed(self, start: int, count: int) -> View:
        first = self.part.indices(self.cell.value.shape[1])[0] + start
        return View(self.cell, slice(first, first + count))

    @property
    def channels(self) -> int:
        return self.value.shape[1]


class Oracle:
    """The same program, by explicit detached gates."""

    def __init__(self, net: RandomNetwork) -> None:
        self.net = net

    def relevance(self, images: Tensor, target: int) -> tuple[Tensor, bool]:
        """Relevance at the images, and whether something without a rule takes part in it."""
        images = images.detach().requires_grad_()
        registers = [View(Cell(self.net.stem(images), False))]
        for step in self.net.program:
            a, b = (registers[-1 - i % len(registers)] for i in (step.first, step.second))
            registers.append(self.result(step, a, b))
        last = registers[-1]
        logits = self.net.head(full(last.value).mean((2, 3)))
        (gradient,) = torch.autograd.grad(logits[:, target].sum(), images)
        return images.detach() * gradient, last.cell.wrong

    def result(self, step: Step, a: View, b: View) -> View:
        z = a.value
        if step.kind == "activation":
            with torch.no_grad():
                value, gate = EXACT[step.name](z), GATES[step.name](z)
            inplace = step.inplace and step.name != "gelu"
            made = Gated.apply(z, value, gate)
            return a.write(made, False) if inplace else View(Cell(made, a.cell.wrong))
        if step.kind == "linear":
            return View(Cell(LINEAR[step.name](z), a.cell.wrong))
        if step.kind == "part":
            return a.narrowed(2 * (step.name == "last"), 2) if a.channels == CHANNELS else a
        if step.kind == "wrong":
            value = WRONG[step.name](z * 1)
            return a.write(value, True) if step.name in UNRECORDED else View(Cell(value, True))
        if step.kind == "layer":
            return self.layer(step, a)
        count = min(a.channels, b.channels)
        a, b = a.narrowed(0, count), b.narrowed(0, count)
        x, y, wrong = a.value, b.value, a.cell.wrong or b.cell.wrong
        if step.name == "added in place":
            return a.write(x + y, wrong)
        if step.name == "multiplied in place":
            return a.write(x * y.sigmoid().detach(), a.cell.wrong)
        if step.name == "gated":
            return View(Cell(x * y.sigmoid().detach(), a.cell.wrong))
        value = {
            "sum": lambda: x + y,
            "difference": lambda: x - 0.5 * y,
            "product": lambda: (x * y.detach() + x.detach() * y) / 2,
            "maximum": lambda: torch.maximum(x, y),
            "halves": lambda: torch.cat([x[:, :1], y[:, 1:]], 1),
        }[step.name]()
        return View(Cell(value, wrong))

    def layer(self, step: Step, a: View) -> View:
        whole = a.channels == CHANNELS
        z = full(a.value)
        if step.name == "dropout":
            return a if whole else View(Cell(z, a.cell.wrong))
        if step.name.startswith("convolution"):
            return View(Cell(self.net.convolutions[int(step.name[-1])](z), a.cell.wrong))
        norm = self.net.norm
        if norm.training:
            mean, variance = z.mean((0, 2, 3)), z.var((0, 2, 3), unbiased=False)
        else:
            mean, variance = norm.running_mean, norm.running_var
        scale = (norm.weight * (variance + norm.eps).rsqrt()).detach().view(1, -1, 1, 1)
        shift = norm.bias.view(1, -1, 1, 1) - mean.detach().view(1, -1, 1, 1) * scale
        return View(Cell(z * scale + shift, a.cell.wrong))
