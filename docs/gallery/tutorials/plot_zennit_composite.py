"""
Use a Zennit composite
======================

Everything here is Zennit: composites, rules, attributors. What is new is that the relevance can be trained with.
"""

# %%
# A trained classifier
# --------------------

import torch
from torch import nn
from zennit.attribution import Gradient
from zennit.composites import EpsilonPlus, LayerMapComposite, MixedComposite, NameMapComposite
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
# Two ways to explain
# -------------------
# :class:`~zennit_isnet.LRPFlex` is a composite like any other. It propagates the *signal*, which
# starts with the one-hot vector of the class. :func:`~zennit_isnet.differentiable` turns any composite of Zennit, or of
# your own, into one with the same relevance. It propagates *relevance*, which starts with the logit of the class, as
# usual in Zennit. ``composite.seed(formulation)`` is the ``attr_output`` for either.
#
# Relevance rules need a canonizer for BatchNorm. Those of Zennit write to the weights;
# :class:`~zennit_isnet.lrp.FuseBatchNorm` writes nothing, and fuses by the statistics of the forward pass. (Where a
# composite brings Zennit's merging canonizers along, ``differentiable`` replaces them by the same fusion.)

gates = LRPFlex()
with Gradient(model, gates, attr_output=gates.seed(target)) as attributor:
    _, flex = attributor(images)

epsilon_plus = differentiable(EpsilonPlus(), canonizers=[FuseBatchNorm()])
with Gradient(model, epsilon_plus, attr_output=epsilon_plus.seed(target)) as attributor:
    _, plus = attributor(images)

# %%
# A composite of your own: γ rule in the convolutions, ε behind them, and another ε for one layer by its name.

layers = LayerMapComposite([(Activation, Pass()), (Convolution, Gamma(0.25)), (Linear, Epsilon(1e-2))])
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
# Train with it
# -------------
# Any of them can be the regularizer's composite.

regularizer = ISNetRegularizer(model, composite=epsilon_plus)
print(regularizer.calibrate(data.images[:256].split(64), progress=False)["input"])

model.train()
logits, penalty = regularizer(images, masks)
penalty.backward()
print("penalty", round(penalty.item(), 3), "and every parameter has a gradient:", end=" ")
print(all(parameter.grad is not None for parameter in model.parameters()))

# %%
# By hand
# -------
# Outside of a regularizer, ask the attributor for a graph, and call ``backward`` *after* leaving its context: inside of
# it every backward pass is one of relevance.

model.zero_grad()
with Gradient(model, gates, attr_output=gates.seed(target), create_graph=True) as attributor:
    _, relevance = attributor(images)
(relevance.abs() * ~masks).sum().backward()
print(model[0].weight.grad.norm())
