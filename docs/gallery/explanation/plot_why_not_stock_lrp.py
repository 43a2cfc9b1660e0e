r"""
Why can't I train with Zennit's or Captum's LRP?
================================================

Zennit and Captum explain trained models well. A heatmap *loss* needs more: the derivative of the relevance with respect
to the parameters. This page computes that derivative with Zennit, Captum and this package, and compares each with the
true one. All results are computed as the page is built.
"""

# %%
# How do we know the true gradient?
# ---------------------------------
# Take a small network in double precision, and a loss that depends on its relevance: the sum of squares. Central
# differences give the true gradient, one weight at a time, without automatic differentiation of the relevance.

import copy
from importlib.metadata import version

import matplotlib.pyplot as plt
import torch
from captum.attr import LRP
from torch import nn
from zennit.attribution import Gradient
from zennit.composites import LayerMapComposite
from zennit.rules import Epsilon, Pass
from zennit.types import Activation, Linear

from zennit_isnet import LRPFlex, differentiable

torch.manual_seed(0)
EPSILON = 1e-2
model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double()
inputs = torch.randn(4, 6, dtype=torch.float64)


def epsilon_rules():
    return LayerMapComposite([(Activation, Pass()), (Linear, Epsilon(EPSILON))])


def second_logit(logits):
    """Relevance at the logits, not detached: a constant would remove the gradient of the last layer."""
    return logits * torch.eye(3, dtype=logits.dtype)[1]


def relevance_by(composite):
    def explain(network):
        with Gradient(
            network, composite(), attr_output=second_logit, create_graph=True
        ) as attributor:
            return attributor(inputs.clone())[1]

    return explain


def flex(network):
    seed = torch.eye(3, dtype=torch.float64)[1].expand(4, 3)
    with Gradient(
        network, LRPFlex(EPSILON), attr_output=seed, create_graph=True
    ) as attributor:
        return attributor(inputs.clone())[1]


def true_gradient(explain, step=1e-6):
    gradient = []
    for index, parameter in enumerate(model.parameters()):
        for position in range(parameter.numel()):
            values = []
            for sign in (1, -1):
                moved = copy.deepcopy(model)
                list(moved.parameters())[index].data.view(-1)[position] += sign * step
                values.append(explain(moved).square().sum().item())
            gradient.append((values[0] - values[1]) / (2 * step))
    return torch.tensor(gradient, dtype=torch.float64)


def computed_gradient(explain):
    network = copy.deepcopy(model)
    parameters = list(network.parameters())
    gradients = torch.autograd.grad(
        explain(network).square().sum(), parameters, allow_unused=True
    )
    flat = [
        torch.zeros_like(p) if g is None else g
        for p, g in zip(parameters, gradients, strict=True)
    ]
    return torch.cat([g.flatten() for g in flat]).detach()


# %%
# Zennit: right relevance, wrong gradient
# ---------------------------------------
# Zennit's rules read ``param.data``, so the weights are missing from the graph behind the relevance. There is no error
# and no warning: you get a gradient, but of a different function.

ways = {
    f"Zennit {version('zennit')}": relevance_by(epsilon_rules),
    "differentiable(the same rules)": relevance_by(
        lambda: differentiable(epsilon_rules())
    ),
    "LRPFlex": flex,
}
truth = {name: true_gradient(explain) for name, explain in ways.items()}
computed = {name: computed_gradient(explain) for name, explain in ways.items()}
for name in ways:
    error = (computed[name] - truth[name]).norm() / truth[name].norm()
    print(f"{name:32} relative error of the parameter gradient: {error:.1e}")

# %%
# One point per parameter. On the diagonal the gradient is right.

figure, axes = plt.subplots(1, len(ways), figsize=(9, 3.2), layout="constrained")
for axis, name in zip(axes, ways, strict=True):
    axis.axline((0, 0), slope=1, color="0.7", linewidth=1)
    axis.scatter(truth[name], computed[name], s=10)
    axis.set(title=name, xlabel="central difference", ylabel="backward()")
    axis.title.set_fontsize(9)

# %%
# What happens when you train with it?
# ------------------------------------
# Gradient descent on the sum of squared relevance, with the same step size for all. With the true gradient the loss
# falls.


def descend(explain, steps=60, rate=2e-2):
    network, losses = copy.deepcopy(model), []
    for _ in range(steps):
        parameters = list(network.parameters())
        loss = explain(network).square().sum()
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(
                network.parameters(), gradients, strict=True
            ):
                if gradient is not None:
                    parameter -= rate * gradient / (1 + gradient.norm())
        losses.append(loss.item())
    return losses


figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
for name, explain in ways.items():
    axis.plot(descend(explain), label=name)
axis.set(xlabel="step", ylabel="sum of squared relevance")
axis.legend()

# %%
# Captum: no second derivative
# ----------------------------
# Captum's ``LRP`` writes to the weights while it computes. Its relevance is right, and differentiating it raises an
# error. That is the better way to fail.

explained = copy.deepcopy(model)
attribution = LRP(explained).attribute(inputs.clone().requires_grad_(), target=1)
try:
    attribution.square().sum().backward()
except RuntimeError as error:
    print("RuntimeError:", str(error)[:99], "...")

# %%
# BatchNorm: the wrong statistics in training
# -------------------------------------------
# A second error is silent too. Zennit's canonizer merges a BatchNorm into the preceding layer with the *running*
# statistics. While a model trains, its forward pass uses the statistics of the *batch*. Zennit then explains logits
# that are not the model's.

from zennit.canonizers import SequentialMergeBatchNorm

with_norm = (
    nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    .double()
    .train()
)
# as in a network that has been trained for a while
nn.init.uniform_(with_norm[1].weight, 0.5, 2)
nn.init.normal_(with_norm[1].bias)
own = copy.deepcopy(with_norm)(inputs)
composite = LayerMapComposite(
    [(Linear, Epsilon(EPSILON))], canonizers=[SequentialMergeBatchNorm()]
)
with Gradient(copy.deepcopy(with_norm), composite) as attributor:
    merged, _ = attributor(inputs.clone(), torch.ones(4, 3, dtype=torch.float64))
with Gradient(copy.deepcopy(with_norm), differentiable(composite)) as attributor:
    fused, _ = attributor(inputs.clone(), torch.ones(4, 3, dtype=torch.float64))

for name, logits in (("Zennit", merged), ("differentiable", fused)):
    difference = (logits - own).abs().max() / own.abs().max()
    print(
        f"{name:15} largest difference of the logits, in units of the largest logit: {difference:.2g}"
    )

# %%
# The tests of this repository make the first and the last comparison for more networks, with Zennit 0.5.1 and 1.0.0,
# and require that Zennit fails them. If a future version passes, our tests will say so.
