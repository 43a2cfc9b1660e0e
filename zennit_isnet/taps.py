"""Reads the outputs of inner layers during a forward pass."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.preservation import eval_mode, unwrapped

AUTO = "auto"
"""Choose one layer for each spatial resolution."""


def find_layers(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """Return modules by their names in ``named_modules()``.

    Raises
    ------
    InvalidTypeError
        If a name is no string.
    InvalidValueError
        If a name does not exist; the message lists close matches.
    """
    modules = dict(unwrapped(model).named_modules())
    for name in names:
        if not isinstance(name, str):
            raise InvalidTypeError(f"layer names must be strings, got {name!r}")
        if not name or name not in modules:
            close = difflib.get_close_matches(name, [m for m in modules if m], n=5, cutoff=0.4)
            raise InvalidValueError(f"the model has no layer {name!r}; close matches: {', '.join(close) or 'none'}")
    return {name: modules[name] for name in names}


class Taps:
    """Context in which the outputs of layers are kept, so that their relevance can be asked for.

    The model gets a copy of each output, so that in-place operations behind it do not change what is kept.

    Parameters
    ----------
    model : Module
        The model.
    layers : sequence of str
        Names of layers.
    on_copy : sequence of callable
        Called with each output and its copy.

    Attributes
    ----------
    outputs : dict of str to Tensor
        Filled by a forward pass.
    """

    def __init__(
        self, model: nn.Module, layers: Sequence[str], on_copy: Sequence[Callable[[Tensor, Tensor], None]] = ()
    ) -> None:
        self.layers = find_layers(model, layers)
        self.on_copy = on_copy
        self.outputs: dict[str, Tensor] = {}
        self._ran: set[str] = set()
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Taps:
        for name, module in self.layers.items():
            self._handles.append(self._watch(name, module))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def read(self) -> dict[str, Tensor]:
        """Return `outputs`, complete.

        Raises
        ------
        InvalidValueError
            If a layer did not run.
        """
        for name in self.layers:
            if name not in self._ran:
                raise InvalidValueError(f"layer {name!r} did not run in this forward pass; choose one that does")
        return self.outputs

    def _watch(self, name: str, module: nn.Module) -> RemovableHandle:
        return module.register_forward_hook(lambda module, args, output: self._keep(name, output))

    def _keep(self, name: str, output: Any) -> Any:
        """Keep an output and return its copy."""
        if not isinstance(output, Tensor) or output.ndim not in (4, 5):
            came = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise InvalidValueError(
                f"a layer whose relevance is asked for must have a spatial output (N, C, H, W); {name!r} returns {came}"
            )
        self._note_run(name)
        self.outputs[name] = output
        return self._copy(output)

    def _note_run(self, name: str) -> None:
        if name in self._ran:
            raise InvalidValueError(
                f"a layer whose relevance is asked for must run once in a forward pass; {name!r} runs again"
            )
        self._ran.add(name)

    def _copy(self, value: Tensor) -> Tensor:
        copy = value.clone()
        for noted in self.on_copy:
            noted(value, copy)
        return copy


def layer_per_resolution(model: nn.Module, images: Tensor) -> list[str]:
    """Return, for each spatial resolution below that of the images, the last module that runs at it once.

    Runs the model once, in eval mode and without gradients; nothing of it changes.
    """
    model = unwrapped(model)
    sizes: dict[str, tuple[int, ...] | None] = {}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            spatial = isinstance(output, Tensor) and output.ndim == images.ndim and name not in sizes
            # taken out and put back, so that the order is that of the last to finish
            sizes.pop(name, None)
            sizes[name] = tuple(output.shape[2:]) if spatial else None

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name]
    try:
        with eval_mode(model), torch.no_grad():
            model(images[:1])
    finally:
        for handle in handles:
            handle.remove()
    last = {size: name for name, size in sizes.items() if size is not None}
    whole = tuple(images.shape[2:])
    return [name for size, name in last.items() if size != whole and max(size) > 1]
