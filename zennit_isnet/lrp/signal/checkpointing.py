"""Activation checkpointing: what is computed again in a backward pass follows the rules again."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack

from zennit_isnet.lrp.signal.hook import FrozenGates
from zennit_isnet.lrp.signal.mode import FrozenGateMode, Rule, Settings
from zennit_isnet.lrp.signal.provenance import Kind, Provenance
from zennit_isnet.model import buffers_restored


class _Inherited(Provenance):
    """Kinds in a part of a pass that starts from tensors whose kinds were known in the first forward pass."""

    def __getitem__(self, tensor: Tensor) -> Kind:
        kind = super().__getitem__(tensor)
        return Kind.SIGNAL if kind is Kind.UNKNOWN else kind


def checkpoint_contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Let a checkpointed part of a model be computed again by the rules it was computed by first.

    For the ``context_fn`` of `torch.utils.checkpoint.checkpoint`, which needs ``use_reentrant=False``. A checkpointed
    part keeps its inputs only and is computed again in the signal pass and in ``loss.backward()``: less memory for two
    more forward passes of that part. Relevance and gradients are the same, and BatchNorm counts the batch once. Where
    no rules are attached nothing changes but that.

    With z^B (``box=…``) the first convolution, its BatchNorm and activation have to stay outside of the checkpoint.

    Returns
    -------
    first, again : context managers
        For the forward pass, and for each time that it is repeated.

    Examples
    --------
    >>> import torch
    >>> from torch.utils.checkpoint import checkpoint
    >>> from zennit_isnet import ISNetRegularizer
    >>> from zennit_isnet.lrp import checkpoint_contexts
    >>> class Checkpointed(torch.nn.Sequential):
    ...     def forward(self, x):
    ...         return checkpoint(super().forward, x, use_reentrant=False, context_fn=checkpoint_contexts)
    >>> block = Checkpointed(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU())
    >>> model = torch.nn.Sequential(block, torch.nn.Flatten(), torch.nn.Linear(4 * 6 * 6, 2))
    >>> regularizer = ISNetRegularizer(model)
    >>> calibration = regularizer.calibrate([torch.rand(4, 3, 8, 8)], progress=False)
    >>> logits, penalty = regularizer(torch.rand(4, 3, 8, 8), torch.ones(4, 1, 8, 8))
    >>> penalty.backward()
    """
    modes = [mode for mode in _get_current_function_mode_stack() if isinstance(mode, FrozenGateMode)]
    return nullcontext(), _Again([(mode.root, mode.settings, mode.rules) for mode in modes])


class _Again(AbstractContextManager[None]):
    """Context that can be entered any number of times, one after the other; keeps no tensor of the first pass."""

    def __init__(self, passes: list[tuple[nn.Module, Settings, Mapping[Any, Rule]]]) -> None:
        self.passes = passes
        self.stack = ExitStack()

    def __enter__(self) -> None:
        for root, settings, rules in self.passes:
            self.stack.enter_context(buffers_restored(root))
            repeated = FrozenGateMode(root, settings, rules)
            repeated.kinds = _Inherited()
            self.stack.enter_context(repeated)
            if isinstance(settings, FrozenGates):
                # those of the first pass look at that pass only, and are gone once the composite has left the model
                for handle in settings.hide_modules(root, lambda mode=repeated: mode):  # type: ignore[misc]
                    self.stack.callback(handle.remove)

    def __exit__(self, *error: Any) -> None:
        self.stack.close()
