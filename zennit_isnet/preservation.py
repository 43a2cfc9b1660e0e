"""The user's model: what is inside of a wrapper, and contexts that give it back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside of `DistributedDataParallel`."""
    return model.module if isinstance(model, DistributedDataParallel) else model


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
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def buffers_restored_on_error(model: nn.Module) -> Iterator[None]:
    """Give buffers (running statistics) their values back if the block raises."""
    before = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        yield
    except BaseException:
        _restore(before)
        raise


@contextmanager
def buffers_restored(model: nn.Module) -> Iterator[None]:
    """Give buffers (running statistics) their values back after the block."""
    before = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        _restore(before)


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


def _restore(before: list[tuple[Tensor, Tensor]]) -> None:
    for buffer, value in before:
        # through `.data`, so that graphs which keep the buffer stay valid
        buffer.data.copy_(value)
