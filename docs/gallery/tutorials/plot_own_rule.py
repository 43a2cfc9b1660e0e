"""
A rule for your own layer
=========================

A model that runs an operation without a rule is refused. This page takes such a model, reads the message, and gives the
layer a rule: first with one word, then as a formula, and checks that the formula is right.
"""

# %%
# What happens to an unknown layer?
# ---------------------------------
# ``SoftThreshold`` is an activation function without a rule.

import matplotlib.pyplot as plt
import torch
from torch import nn

from zennit_isnet import LRPAttribution, LRPFlex, Original, check
from zennit_isnet.errors import UncoveredOperationError


class SoftThreshold(nn.Module):
    """Shrink each value smoothly towards zero, with a learned threshold."""

    def __init__(self, channels):
        super().__init__()
        self.threshold = nn.Parameter(torch.full((channels, 1, 1), 0.3))

    def forward(self, features):
        return features * torch.exp(-self.threshold / (features.square() + 1e-3))


torch.manual_seed(0)
model = nn.Sequential(
    *(nn.Conv2d(3, 8, 3, bias=False), SoftThreshold(8)),
    *(
        nn.Conv2d(8, 8, 3, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 4, bias=False),
    ),
).double()
images = torch.randn(5, 3, 8, 8, dtype=torch.float64)

try:
    LRPAttribution()(model, images, Original())
except UncoveredOperationError as error:
    print(error)

# %%
# ``check`` shows the same as a table, before you train anything:

print(check(model, images))

# %%
# How do I give it a rule with one word?
# --------------------------------------
# The layer is an elementwise activation with a(0) = 0. The rule for these is known: multiply the signal by the gate
# a / (z + ε·sign z).

in_a_word = LRPFlex(modules={SoftThreshold: "activation"})
print("covered:", check(model, images, in_a_word).ok)

# %%
# The other words are ``"linear"`` (the plain gradient is right) and ``"gate"`` (the output is held constant, and may
# only multiply something that carries the signal, as a sigmoid does).
#
# How do I write a rule as a formula?
# -----------------------------------
# Write a function of the module, its input, its output and the signal at the output. It returns the signal at the
# input. Use differentiable operations only: this makes the relevance a function of the parameters. Here the gate is
# known in closed form and needs no ε.


def soft_threshold_rule(module, features, output, signal):
    gate = torch.exp(-module.threshold / (features.square() + 1e-3))
    return signal * gate


composite = LRPFlex(modules={SoftThreshold: soft_threshold_rule})

values = torch.linspace(-2, 2, 400)
gate = torch.exp(-0.3 / (values.square() + 1e-3))
figure, axis = plt.subplots(figsize=(5, 3), layout="constrained")
axis.plot(values, values * gate, label="the activation, a(z)")
axis.plot(values, gate, "--", label="its gate, a(z) / z")
axis.set_xlabel("z")
axis.legend()

# %%
# Is it right?
# ------------
# Make three checks.
#
# *Conservation*: without biases and with a tiny ε, the relevance of the pixels sums to the logit.

exact = LRPFlex(1e-12, modules={SoftThreshold: soft_threshold_rule})
logits, conserved = LRPAttribution(exact)(model, images, Original())
difference = conserved["input"].flatten(2).sum(2) - logits
print(
    f"conservation, largest difference from the logit: {difference.abs().max():.1e} of {logits.abs().max():.2f}"
)

# %%
# *A second way to the same value*: here the word, with an ε too small to matter.

_, by_word = LRPAttribution(LRPFlex(1e-12, modules={SoftThreshold: "activation"}))(
    model, images, Original()
)
difference = (conserved["input"] - by_word["input"]).abs().max() / conserved[
    "input"
].abs().max()
print(f"formula against word: {difference:.1e}")

# %%
# *The parameter gradient*, along one direction, against a central difference. This finds a ``detach`` or ``.data`` in
# the formula.


def loss():
    return (
        LRPAttribution(composite)(model, images, Original())[1]["input"].square().sum()
    )


parameters = list(model.parameters())
gradient = torch.autograd.grad(loss(), parameters)
direction = [torch.randn_like(parameter) for parameter in parameters]
analytic = sum((g * d).sum() for g, d in zip(gradient, direction, strict=True)).item()


def moved(distance):
    with torch.no_grad():
        for parameter, part in zip(parameters, direction, strict=True):
            parameter += distance * part
    value = loss().item()
    with torch.no_grad():
        for parameter, part in zip(parameters, direction, strict=True):
            parameter -= distance * part
    return value


step = 1e-7
numeric = (moved(step) - moved(-step)) / (2 * step)
print(f"gradient {analytic:.6g}, central difference {numeric:.6g}")

# %%
# What if my model calls a function instead of a module?
# ------------------------------------------------------
# Pass its rule in ``rules``, with the same words. ``LRPFlex`` then applies it to every call of the function.


class Sine(nn.Module):
    def forward(self, features):
        return torch.sin(features)


functional = nn.Sequential(
    nn.Conv2d(3, 8, 3), Sine(), nn.Flatten(), nn.Linear(288, 4)
).double()
print(check(functional, images, LRPFlex(rules={torch.sin: "activation"})))

# %%
# If the rule would be useful to others, :doc:`/contributing` shows how to add it to the package, with its test.
