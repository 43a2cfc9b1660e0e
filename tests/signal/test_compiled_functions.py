"""What a model compiles inside of its ``forward`` runs as it was written, and the compiler is given back as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from zennit_isnet import LRPAttribution, LRPFlex, Target
from zennit_isnet.lrp import checkpoint_contexts


def gated(features):
    return F.silu(features) * features.sigmoid()


def hidden_module():
    block = nn.Module()
    block.forward = gated
    block.compile(backend="eager")
    return block.__call__


def checkpointed(features):
    compiled = torch.compile(gated, backend="eager")
    return checkpoint(compiled, features, use_reentrant=False, context_fn=checkpoint_contexts)


WAYS = {
    "without a compiler": lambda: torch.compile(gated, backend="eager"),
    "autograd ahead of time": lambda: torch.compile(gated, backend="aot_eager"),
    "a module that is no child": hidden_module,
    "in a checkpoint": lambda: checkpointed,
}


class Compiling(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.stem, self.head, self.function = nn.Conv2d(3, 4, 3), nn.Linear(4, 3), [function]

    def forward(self, images):
        return self.head(self.function[0](self.stem(images)).mean((2, 3)))


@pytest.mark.parametrize("way", WAYS)
def test_relevance_and_gradients_are_those_of_the_function(way, generator):
    images = torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64)
    model, found = Compiling(gated).double(), []
    for model.function[0] in (gated, WAYS[way]()):
        _, relevance = LRPAttribution(LRPFlex(0.1))(model, images, Target(1))
        gradients = torch.autograd.grad(relevance["input"].pow(3).sum(), list(model.parameters()), allow_unused=True)
        found.append([relevance["input"], *gradients[:3]])
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_the_compiler_is_given_back(error):
    torch.compile(gated, backend="eager")(torch.rand(2))  # the compiler is there

    def interrupted(features):
        raise error

    if error is not None:
        with pytest.raises(error):
            LRPAttribution()(Compiling(interrupted), torch.rand(2, 3, 8, 8), Target(1))
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    def relu(t):  # compiled nowhere else, so that nothing is kept of it
        return t.relu()

    function = torch.compile(relu, backend=backend)
    LRPAttribution()(Compiling(function), torch.rand(2, 3, 8, 8), Target(1))
    assert graphs == []
    function(torch.rand(2))
    assert len(graphs) == 1
