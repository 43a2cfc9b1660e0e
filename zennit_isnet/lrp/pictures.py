"""Which module outputs are maps of the images, and which axis holds their channels."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

CHANNELS_FIRST = (
    *(nn.GroupNorm, nn.LocalResponseNorm),
    *(
        kind
        for kind in vars(nn).values()
        if getattr(kind, "__module__", "").split(".")[-1]
        in ("conv", "batchnorm", "instancenorm", "pooling", "padding", "upsampling", "pixelshuffle", "channelshuffle")
    ),
)
"""Modules that return ``(N, C, …)``, like their subclasses."""

CHANNELS_LAST = tuple(getattr(nn, name) for name in ("Linear", "LayerNorm", "RMSNorm") if hasattr(nn, name))
"""Modules that work on the last axis. A subclass with its own forward method may permute axes first."""


class Layout(enum.Enum):
    """Channel position of an output, from its shape and the module's type."""

    FIRST = enum.auto()
    """``(N, C, *spatial)``."""
    LAST = enum.auto()
    """``(N, *spatial, C)``."""
    EITHER = enum.auto()
    """Ambiguous: both layouts would be maps of the images."""
    NEITHER = enum.auto()
    """Neither layout matches the image proportions: attention weights, or different strides in H and W."""


class Reading(NamedTuple):
    """How an output was read when its module ran.

    Attributes
    ----------
    shape : tuple of int
        Shape of the output.
    layout : Layout
        Position of its channels.
    declared : bool
        Whether the module's type implies channels first.
    """

    shape: tuple[int, ...]
    layout: Layout
    declared: bool = False

    @property
    def size(self) -> tuple[int, ...]:
        """Sizes of the spatial axes."""
        return self.shape[1:-1] if self.layout is Layout.LAST else self.shape[2:]


def works_on_last_axis(module: nn.Module) -> bool:
    """Whether a module's spatial outputs always have channels last."""
    return any(type(module).forward is kind.forward for kind in CHANNELS_LAST)


class Pictures:
    """Reads the outputs of one forward pass.

    If an output's shape is ambiguous, the other outputs decide: if no module works on the last axis, the network is an
    ordinary CNN with channels first.

    Parameters
    ----------
    images : sequence of int
        Shape of the images, ``(N, C, H, W)`` or ``(N, C, T, H, W)``.
    """

    def __init__(self, images: Sequence[int]) -> None:
        self.images = tuple(images)
        self._channels_last: set[tuple[int, ...]] = set()

    def see(self, module: nn.Module, args: Any, output: Any) -> None:
        """Forward hook: count an output as evidence for channels last."""
        if isinstance(output, Tensor) and output.ndim >= 3 and works_on_last_axis(module):
            self._channels_last.add(tuple(output.shape))

    def read(self, module: nn.Module, output: Any) -> Reading | None:
        """Read an output; None if its batch or number of axes differs from the images."""
        if not isinstance(output, Tensor) or output.ndim != len(self.images) or output.shape[0] != self.images[0]:
            return None
        shape = tuple(output.shape)
        if isinstance(module, CHANNELS_FIRST):
            return Reading(shape, Layout.FIRST, declared=True)
        first, last = self.fits(shape[2:]), self.fits(shape[1:-1])
        if works_on_last_axis(module):
            return Reading(shape, Layout.LAST if last else Layout.NEITHER)
        if first and last:
            return Reading(shape, Layout.EITHER)
        return Reading(shape, Layout.FIRST if first else Layout.LAST if last else Layout.NEITHER)

    def settle(self, reading: Reading) -> Layout:
        """Return FIRST or LAST after the forward pass, EITHER if ambiguous, NEITHER if it is not a map."""
        if reading.declared:
            return Layout.FIRST
        tokens = {shape[1] for shape in self._channels_last if len(shape) == 3 and shape[0] == self.images[0]}
        if len(reading.shape) == 4 and reading.shape[2] in tokens:
            return Layout.NEITHER  # queries (N, heads, L, d) or attention weights (N, heads, L, L)
        if reading.layout is Layout.EITHER and reading.shape not in self._channels_last:
            return Layout.FIRST
        if reading.layout is Layout.NEITHER and not self._channels_last:
            return Layout.FIRST
        if reading.layout is Layout.LAST and all(len(shape) == 3 for shape in self._channels_last):
            return Layout.EITHER  # C may equal the height by chance, in a CNN with different strides in H and W
        return reading.layout

    def level(self, size: Sequence[int]) -> int:
        """Return how often the images are halved to this size, ignoring padding."""
        return round(math.log2(math.prod(self.images[-2:]) / math.prod(size[-2:])) / 2)

    def fits(self, size: Sequence[int]) -> bool:
        """Whether a size has the proportions of the images, within a pixel, and is not larger."""
        height, width = self.images[-2:]
        off = abs(size[-2] * width - size[-1] * height)
        return min(size) > 0 and off <= max(height, width) and self.level(size) >= 0
