"""
Use a Zennit composite
======================

Composites (sets of rules), rules and attributors on this page are Zennit's. What this package adds: you can train with
the relevance.
"""

# %%
# A trained classifier
# --------------------
# A small network, trained for one epoch on digits whose background is a photograph that names the class.

import torch
from torch import nn
from zennit.attribution import Gradient
from zennit.composites import (
    EpsilonPlus,
    LayerMapComposite,
    MixedComposite,
    NameMapComposite,
)
from zennit.rules import Epsilon, Gamma, Pass
from zennit.types import Activation, Convolution, Linear

from zennit_isnet import ISNetRegularizer, LRPFlex, Target, differentiable
from zennit_isnet.data import BackgroundBias
from zennit_isnet.lrp import FuseBatchNorm
from zennit_isnet.plotting import heatmap_panel

torch.manual_seed(0)
data = BackgroundBias(bias="texture")
model = nn.Sequential(
    *(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
    *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
    *(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU()),
    *(nn.Flatten(), nn.Linear(1024, 10)),
)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
for chosen in torch.randperm(len(data)).split(64):
    loss = nn.functional.cross_entropy(model(data.images[chosen]), data.labels[chosen])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
model.eval()

images, masks, labels = data.images[:6], data.masks[:6], data.labels[:6]
target = Target(labels)

# %%
# How do I make the relevance differentiable?
# -------------------------------------------
# There are two ways. :class:`~zennit_isnet.LRPFlex` is a composite like any other. It propagates the *signal*
# (relevance divided by activation), which starts from the one-hot vector of the class.
# :func:`~zennit_isnet.differentiable` turns any composite, Zennit's or your own, into one with the same relevance. It
# propagates *relevance*, which starts from the logit of the class, as usual in Zennit. ``composite.seed(formulation)``
# gives the ``attr_output`` for either.
#
# Relevance rules need a canonizer for BatchNorm. Zennit's canonizers write to the weights.
# :class:`~zennit_isnet.lrp.FuseBatchNorm` writes nothing, and fuses with the statistics of the forward pass. If a
# composite brings Zennit's merging canonizers, ``differentiable`` replaces them by this fusion.
#
# **ResNets and other models with branches** need
# ``canonizers=[FuseBatchNorm(), MakeFunctionsVisible()]``. They add their branches in ``forward``, where Zennit's rules
# see no module; :class:`~zennit_isnet.lrp.MakeFunctionsVisible` gives such calls the rules of the corresponding
# modules. Without it, relevance passes a sum as an ordinary gradient does, and nothing warns you.

gates = LRPFlex()
with Gradient(model, gates, attr_output=gates.seed(target)) as attributor:
    _, flex = attributor(images)

epsilon_plus = differentiable(EpsilonPlus(), canonizers=[FuseBatchNorm()])
with Gradient(model, epsilon_plus, attr_output=epsilon_plus.seed(target)) as attributor:
    _, plus = attributor(images)

# %%
# Your own composite: the γ rule in the convolutions, ε after them, and a different ε for one layer, by name.

layers = LayerMapComposite(
    [(Activation, Pass()), (Convolution, Gamma(0.25)), (Linear, Epsilon(1e-2))]
)
own = MixedComposite([NameMapComposite([(["0"], Epsilon(1e-1))]), layers])
own = differentiable(own, canonizers=[FuseBatchNorm()])
with Gradient(model, own, attr_output=own.seed(target)) as attributor:
    _, gamma = attributor(images)

heatmap_panel(
    images,
    masks,
    {"LRPFlex": flex, "EpsilonPlus": plus, "own: γ and ε": gamma},
    titles=[f"digit {label}" for label in labels.tolist()],
)

# %%
# How do I train with it?
# -----------------------
# Pass any of them to the regularizer.

regularizer = ISNetRegularizer(model, composite=epsilon_plus)
print(regularizer.calibrate(data.images[:256].split(64), progress=False)["input"])

model.train()
logits, penalty = regularizer(images, masks)
penalty.backward()
print(
    "penalty", round(penalty.item(), 3), "and every parameter has a gradient:", end=" "
)
print(all(parameter.grad is not None for parameter in model.parameters()))

# %%
# How do I use it without the regularizer?
# ----------------------------------------
# Ask the attributor for a graph, and call ``backward`` *after* leaving its context: inside it, every backward pass is a
# relevance pass.

model.zero_grad()
with Gradient(
    model, epsilon_plus, attr_output=epsilon_plus.seed(target), create_graph=True
) as attributor:
    _, relevance = attributor(images)
(relevance.abs() * ~masks).sum().backward()
print(model[0].weight.grad.norm())
