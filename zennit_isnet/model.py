"""The user's model: unwrapping it, and contexts that restore its state."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from zennit_isnet.errors import InvalidTypeError, InvalidValueError


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model that `DistributedDataParallel` wraps, or the model itself."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def uncompiled() -> AbstractContextManager[Any]:
    """Run the parts of a model that `torch.compile` has compiled in eager mode.

    A compiled function has no second derivative, or a wrong one if it contains our autograd functions.
    """
    # if it is not imported, nothing is compiled; importing it takes seconds
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    # after an interruption, hooks end later than the code around them and would leave their own stance behind
    is_on = getattr(getattr(dynamo, "_stance", None), "stance", None) == "force_eager"
    return nullcontext() if dynamo is None or is_on else torch.compiler.set_stance("force_eager")


def detached(output: Any) -> Any:
    """Return a model's output, a tensor or a tuple, mapping or object of them, without its graph."""
    if isinstance(output, Tensor):
        return output.detach()
    if isinstance(output, tuple):
        heads = [detached(head) for head in output]
        return type(output)(*heads) if hasattr(output, "_fields") else tuple(heads)
    if main_head(output) is output:
        return output
    copied = copy.copy(output)
    for name, value in list(output.items() if isinstance(output, Mapping) else vars(output).items()):
        if isinstance(output, Mapping):
            copied[name] = detached(value)
        else:
            object.__setattr__(copied, name, detached(value))  # a frozen dataclass too
    return copied


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Run a block in eval mode, then restore the modules' modes and buffers, also after an exception."""
    with buffers_restored(model), ExitStack() as restoring:
        for module in model.modules():
            restoring.callback(setattr, module, "training", module.training)
        model.eval()
        yield


@contextmanager
def buffers_restored(model: nn.Module, *, on_error_only: bool = False) -> Iterator[None]:
    """Restore the modules' buffers (running statistics, counters) after the block: the same tensors and values.

    Buffers that the model wrote to, replaced or added are all undone.
    """
    before = [(module._buffers, dict(module._buffers)) for module in model.modules()]
    buffers = {id(b): b for _, held in before for b in held.values() if b is not None}
    leaves = [buffer for buffer in buffers.values() if buffer.is_leaf]
    copies = _copies(buffers.values())
    try:
        yield
    except BaseException:
        on_error_only = False
        raise
    finally:
        if not on_error_only:
            for current, held in before:
                current.clear()
                current.update(held)
            for buffer in leaves:
                if not buffer.is_leaf and buffer._base is None:
                    buffer.detach_()  # the block wrote something with a graph to it
            for buffer, copy in copies:
                _give_back(buffer, copy)


def _copies(buffers: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return each buffer with a copy; buffers of one device and dtype are copied together."""
    groups: dict[Any, list[Tensor]] = {}
    copies = []
    with torch.no_grad():
        for buffer in buffers:
            if type(buffer) is Tensor and buffer.layout is torch.strided:
                groups.setdefault((buffer.device, buffer.dtype), []).append(buffer)
            else:
                copies.append((buffer, buffer.clone()))
        for group in groups.values():
            empty = [torch.empty_like(buffer) for buffer in group]
            torch._foreach_copy_(empty, group)
            copies += zip(group, empty, strict=True)
    return copies


def _give_back(buffer: Tensor, copy: Tensor) -> None:
    """Restore a buffer's value through `.data`, so that graphs that keep the buffer stay valid."""
    if (buffer.shape, buffer.dtype, buffer.device) != (copy.shape, copy.dtype, copy.device):
        buffer.data = copy
    elif buffer.layout is not torch.strided or 0 not in buffer.stride() or buffer.numel() == 0:
        buffer.data.copy_(copy)
    # an expanded tensor cannot be written to, not even by the block


@contextmanager
def attributes_restored(model: nn.Module) -> Iterator[None]:
    """Remove the attributes that the block adds to modules, also after an exception."""
    before = [(module, set(vars(module))) for module in model.modules()]
    try:
        yield
    finally:
        for module, names in before:
            for name in set(vars(module)) - names:
                del vars(module)[name]


def main_head(output: Any) -> Any:
    """Return the logits among a model's outputs; other outputs are returned unchanged.

    They are the first entry of a named tuple, the ``logits`` of a mapping or object, or a mapping's only entry.
    """
    if isinstance(output, tuple):
        return output[0] if hasattr(output, "_fields") and output else output
    if isinstance(output, Mapping):
        return output.get("logits", next(iter(output.values())) if len(output) == 1 else output)
    return output if isinstance(output, Tensor) else getattr(output, "logits", output)


def main_logits(output: Any, count: int) -> Tensor:
    """Return the logits ``(N, C)`` in a model's output for N = `count` images.

    The output is a tensor, a named tuple with the main head first, or has an entry or attribute ``logits``.

    Raises
    ------
    InvalidTypeError
        If it is none of these.
    InvalidValueError
        If the logits have another shape.
    """
    logits = main_head(output)
    if not isinstance(logits, Tensor):
        raise InvalidTypeError(
            "the model must return logits (N, C), a named tuple of the logits and auxiliary heads, or an object with "
            f"an entry or attribute 'logits'; got {type(output).__name__}"
            + (f" with {', '.join(map(str, output))}" if isinstance(output, Mapping) else "")
        )
    if logits.ndim != 2 or len(logits) != count or not logits.is_floating_point():
        raise InvalidValueError(
            f"the model must return floating logits of shape (N, C), one row for each of {count} images; got "
            f"{tuple(logits.shape)} of {logits.dtype}"
        )
    return logits
