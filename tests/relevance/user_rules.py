"""Rules of a user's own, and models to put them on."""

from __future__ import annotations

import copy

import torch
from zennit.core import BasicHook, Hook


class Unchanged(Hook):
    """Returns nothing: the ordinary gradient."""


class OwnBackward(BasicHook):
    """Calls Zennit's own computation, which reads ``param.data``."""

    def backward(self, module, grad_input, grad_output):
        return tuple(2 * r for r in super().backward(module, grad_input, grad_output))


def make(model, generator, shape=(4,), count=4):
    model = copy.deepcopy(model).double()
    for parameter in model.parameters():
        parameter.data.normal_(generator=generator)
    return model, torch.randn(count, *shape, generator=generator, dtype=torch.float64)
