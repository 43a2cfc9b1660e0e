"""The user's model: what is inside of a wrapper, and contexts that give it back as it was."""

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
    """Return the model inside of `DistributedDataParallel`."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def uncompiled() -> AbstractContextManager[Any]:
    """Run as it was written what the model has compiled by `torch.compile`.

    A compiled function has no second derivative, or a wrong one where our functions are in it.
    """
    # without it nothing is compiled, and the import takes seconds
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    # after an interruption hooks end later than what is around them, and would leave the stance of theirs behind
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
    """Run a block in eval mode; afterwards modules have their modes and buffers back, also after an exception."""
    with buffers_restored(model), ExitStack() as restoring:
        for module in model.modules():
            restoring.callback(setattr, module, "training", module.training)
        model.eval()
        yield


@contextmanager
def buffers_restored(model: nn.Module, *, on_error_only: bool = False) -> Iterator[None]:
    """Give modules their buffers (running statistics, counters) back after the block: the same tensors and values.

    Whether the model writes to them, replaces them or adds some.
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
    """Return each buffer with a copy; one kernel makes many: few are ever needed."""
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
    """Give a buffer its value back, through `.data`, so that graphs which keep the buffer stay valid."""
    if (buffer.shape, buffer.dtype, buffer.device) != (copy.shape, copy.dtype, copy.device):
        buffer.data = copy
    elif buffer.layout is not torch.strided or 0 not in buffer.stride() or buffer.numel() == 0:
        buffer.data.copy_(copy)
    # an expanded tensor cannot be written to, by the block neither


@contextmanager
def attributes_restored(model: nn.Module) -> Iterator[None]:
    """Take off again what the block adds to modules as attributes, also after an exception."""
    before = [(module, set(vars(module))) for module in model.modules()]
    try:
        yield
    finally:
        for module, names in before:
            for name in set(vars(module)) - names:
                del vars(module)[name]


def main_head(output: Any) -> Any:
    """Return the logits among a model's outputs; any other output as it is.

    They are the first of a named tuple, what is called ``logits`` in a mapping or an object, or a mapping's only entry.
    """
    if isinstance(output, tuple):
        return output[0] if hasattr(output, "_fields") and output else output
    if isinstance(output, Mapping):
        return output.get("logits", next(iter(output.values())) if len(output) == 1 else output)
    return output if isinstance(output, Tensor) else getattr(output, "logits", output)


def main_logits(output: Any, count: int) -> Tensor:
    """Return the logits ``(N, C)`` of a model's output for N = `count` images.

    The output is a tensor, a named tuple with the main head first, or has an entry or attribute ``logits``.

    Raises
    ------
    InvalidTypeError
        If it is neither.
    InvalidValueError
        If the logits have another shape.
    """
    logits = main_head(output)
    if not isinstance(logits, Tensor):
        raise InvalidTypeError(
            "the model must return logits (N, C), a named tuple of the logits and auxiliary heads, or something with "
            f"an entry or attribute 'logits'; got {type(output).__name__}"
            + (f" with {', '.join(map(str, output))}" if isinstance(output, Mapping) else "")
        )
    if logits.ndim != 2 or len(logits) != count or not logits.is_floating_point():
        raise InvalidValueError(
            f"the model must return floating logits of shape (N, C), one row for each of {count} images, got "
            f"{tuple(logits.shape)} of {logits.dtype}"
        )
    return logits
