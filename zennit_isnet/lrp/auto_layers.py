"""Chooses one layer per spatial resolution, during the explained forward pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import count, groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zennit_isnet.lrp.pictures import Layout, Pictures, Reading
from zennit_isnet.lrp.taps import Place, Taps
from zennit_isnet.model import unwrapped

AUTO = "auto"
"""Choose one layer per spatial resolution."""

LISTS = (nn.ModuleList, nn.ModuleDict)
"""Containers without a forward pass: their modules count as children of the parent. Subclasses may have one."""


def is_chain(module: nn.Module | None) -> bool:
    """Whether a module is a chain of its children, which then count as being at its own depth."""
    is_sequence = isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
    return is_sequence or type(module) in LISTS


class Candidate(NamedTuple):
    """A candidate output for its resolution; the smallest is the best: the last one of the outermost modules.

    Attributes
    ----------
    level, depth : int
        How often the image size is halved, and the number of modules around it.
    countdown : int
        A unique number for each candidate, decreasing in execution order.
    name, reading, output, version
        The module's name, and its output.
    """

    level: int
    depth: int
    countdown: int
    name: str
    reading: Reading
    output: Tensor
    version: int

    @property
    def is_intact(self) -> bool:
        """Whether the output is unchanged since the module returned it."""
        return bool(self.output._version == self.version)


class AutoTaps(Taps):
    """Taps on one layer for each halving of the resolution below the images.

    It is the last of the outermost modules (and of modules chained in them) to run: the output of a stage, not part of
    a block. Left out are maps with a single cell, maps finer than earlier ones (upsampled), outputs overwritten by an
    in-place operation, modules that run more than once, and outputs without relevance. Outputs are kept without
    copying.

    Parameters
    ----------
    model : Module
        The model.
    images : sequence of int
        Shape of the images.
    """

    def __init__(self, model: nn.Module, images: Sequence[int]) -> None:
        super().__init__(model)
        self.pictures = Pictures(images)
        self._modules = {name: module for name, module in unwrapped(model).named_modules() if name}
        self._depths = {name: self._depth(name) for name in self._modules}
        self._countdown = count(0, -1)
        # depth and level of each module's output by its name
        self._marks: dict[str, tuple[int, int]] = {}
        self._kept: dict[tuple[int, str, Layout], list[Candidate]] = {}

    def __enter__(self) -> AutoTaps:
        for name, module in self._modules.items():
            self._handles.append(module.register_forward_hook(partial(self._hook, name)))
        return self

    def read(self) -> dict[Place, Tensor]:
        """Return the outputs of all candidates; `choices` groups them by resolution, best first."""
        super().read()
        kept = [candidate for group in self._kept.values() for candidate in group if candidate.is_intact]
        self._kept.clear()
        layouts = {candidate.name: self.pictures.settle(candidate.reading) for candidate in kept}
        self.channels_last = {Place(name) for name, layout in layouts.items() if layout is Layout.LAST}
        found = sorted(candidate for candidate in kept if layouts[candidate.name] in (Layout.FIRST, Layout.LAST))
        self.outputs = {Place(candidate.name): candidate.output for candidate in found}
        self.choices = [[Place(c.name) for c in group] for _, group in groupby(found, key=lambda c: c.level)]
        return self.outputs

    def _hook(self, name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not self._over:
            # a composite would mistake reading a shape for an operation on the signal
            with torch._C.DisableTorchFunction():
                self._look(name, module, args, output)

    def _look(self, name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.pictures.see(module, args, output)
        again = name in self._ran
        self._ran.add(name)
        if again:
            # its name would be ambiguous
            for part, group in self._kept.items():
                self._kept[part] = [candidate for candidate in group if candidate.name != name]
        # once a module has returned, its inside no longer matters, as in squeeze-and-excitation
        self._marks = {inner: mark for inner, mark in self._marks.items() if not inner.startswith(f"{name}.")}
        reading = self.pictures.read(module, output)
        if reading is None or max(reading.size) <= 1 or min(reading.size) < 1:
            return
        level, depth = self.pictures.level(reading.size), self._depths[name]
        coarsest = max((before for around, before in self._marks.values() if around <= depth), default=-math.inf)
        if coarsest > level or self._upsamples(reading, args):
            return
        if coarsest < level:
            self._marks[name] = depth, level
        if level > 0 and not again:
            self._keep_best(Candidate(level, depth, next(self._countdown), name, reading, output, output._version))

    def _depth(self, name: str) -> int:
        """Return the number of modules around a module, without chains, module lists and the model itself."""
        parts = name.split(".")
        around = (self._modules.get(".".join(parts[:end])) for end in range(1, len(parts)))
        return sum(not is_chain(module) for module in around)

    def _upsamples(self, reading: Reading, args: tuple[Any, ...]) -> bool:
        """Whether the module's input is coarser than its output, as in VGG's average pooling on small images."""
        if reading.layout is not Layout.FIRST or not args or not isinstance(args[0], Tensor):
            return False
        before = tuple(args[0].shape)
        is_map = len(before) == len(reading.shape) and self.pictures.fits(before[2:])
        return is_map and self.pictures.level(before[2:]) > self.pictures.level(reading.size)

    def _keep_best(self, new: Candidate) -> None:
        """Keep the best candidate for its resolution and part of the model, and one substitute.

        Nothing more, because a checkpointed model would free it. At this point it is unknown which part (main network
        or auxiliary heads) gets relevance, and whether an ambiguous layout can be resolved.
        """
        part = new.level, new.name.split(".")[0], new.reading.layout
        group = sorted([new, *(c for c in self._kept.get(part, []) if c.is_intact)])
        others = [c for c in group[1:] if c.output is not group[0].output]
        self._kept[part] = [group[0], *others[:1]]
