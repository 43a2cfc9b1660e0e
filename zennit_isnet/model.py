"""The user's model: what is inside of a wrapper, and contexts that give it back as it was."""

from __future__ import annotations

import sys
from collections.abc import Iterator
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
    """Run as it was written what the model has compiled by `torch.compile`, since PyTorch 2.6.

    A compiled function has no second derivative, or a wrong one where our functions are in it.
    """
    if "torch._dynamo" not in sys.modules or not hasattr(torch.compiler, "set_stance"):
        return nullcontext()  # nothing is compiled without, and the import takes seconds
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


def detached(output: Any) -> Any:
    """Return a model's output, a tensor or a (named) tuple of them, without its graph."""
    if isinstance(output, Tensor):
        return output.detach()
    if isinstance(output, tuple):
        heads = [detached(head) for head in output]
        return type(output)(*heads) if hasattr(output, "_fields") else tuple(heads)
    return output


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Run a block in eval mode; afterwards every module has its own mode back, also after an exception."""
    with ExitStack() as restoring:
        for module in model.modules():
            restoring.callback(setattr, module, "training", module.training)
        model.eval()
        yield


def buffers_restored(model: nn.Module) -> ExitStack:
    """Give buffers (running statistics) their values back after the block."""
    restoring = ExitStack()
    for buffer in model.buffers():
        # through `.data`, so that graphs which keep the buffer stay valid
        restoring.callback(buffer.data.copy_, buffer.detach().clone())
    return restoring


@contextmanager
def buffers_restored_on_error(model: nn.Module) -> Iterator[None]:
    """Give buffers (running statistics) their values back if the block raises."""
    with buffers_restored(model) as restoring:
        yield
        restoring.pop_all()


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
    """Return the first, main head of a named tuple; any other output as it is."""
    return output[0] if isinstance(output, tuple) and hasattr(output, "_fields") and output else output


def main_logits(output: Any, count: int) -> Tensor:
    """Return the logits ``(N, C)`` of a model's output for N = `count` images.

    The output is a tensor, or a named tuple with the main head first.

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
            "the model must return logits (N, C), or a named tuple of the logits and auxiliary heads, "
            f"got {type(output).__name__}"
        )
    if logits.ndim != 2 or len(logits) != count or not logits.is_floating_point():
        raise InvalidValueError(
            f"the model must return floating logits of shape (N, C), one row for each of {count} images, got "
            f"{tuple(logits.shape)} of {logits.dtype}"
        )
    return logits
