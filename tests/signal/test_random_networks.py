"""Random networks: the relevance is that of explicit detached gates, or the network is refused; nothing else.

``make fuzz`` runs 10,000 of them; the seed that a failure prints makes it again.
"""

from __future__ import annotations

import os

import finite_differences
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from random_networks import EPSILON, UNRECORDED, Oracle, RandomNetwork, programs
from torch import Tensor

from zennit_isnet import LRPAttribution, LRPFlex, Target
from zennit_isnet.errors import ISNetError

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "300"))


def is_simple(network: RandomNetwork) -> bool:
    """Whether no step writes in place and each has a rule, so that there is no reason to refuse the network."""
    return all(not step.inplace and step.kind != "wrong" and "in place" not in step.name for step in network.program)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES == 300,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(program=programs(), training=st.booleans(), seed=st.integers(0, 9))
def test_the_relevance_is_that_of_explicit_gates_or_the_network_is_refused(program, training, seed):
    torch.manual_seed(seed)
    network = RandomNetwork(program).double().train(training)
    images = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    weights = torch.randn(2, 1, 3, 4, 4, dtype=torch.float64)
    leaves = [network.stem.weight, network.convolutions[0].weight, network.head.weight]
    try:
        plain = network(images)
        torch.autograd.grad(plain.sum(), leaves, allow_unused=True)
    except RuntimeError:
        assume(False)  # PyTorch itself cannot differentiate it
    oracle = Oracle(network)
    expected, wrong = oracle.relevance(images, 1)
    try:
        logits, relevance = LRPAttribution(LRPFlex(EPSILON))(network, images, Target(1))
    except ISNetError:
        assert not is_simple(network)
        return
    assert not wrong
    torch.testing.assert_close(logits, plain, rtol=1e-10, atol=1e-12)
    # a BatchNorm over almost equal values magnifies the rounding
    torch.testing.assert_close(
        relevance["input"][:, 0], expected, rtol=1e-8, atol=1e-8 * float(1 + expected.abs().max())
    )

    if any(step.name in UNRECORDED for step in program):
        return

    def loss(relevance: Tensor) -> Tensor:
        return (relevance * weights).sum()

    found = torch.autograd.grad(loss(relevance["input"]), leaves, allow_unused=True)
    gradients = [torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(leaves, found, strict=True)]
    direction = finite_differences.normalised([torch.randn_like(leaf) for leaf in leaves])
    if abs(finite_differences.dot(gradients, direction)) > 1e-3:
        error = finite_differences.smallest_relative_error(
            lambda: loss(oracle.relevance(images, 1)[0][:, None]).item(), leaves, gradients, direction
        )
        assert error < 1e-5
