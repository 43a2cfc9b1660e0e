"""LRP of whole networks by hand: a tape of dense matrices with BatchNorm folded in, and Zennit's rules as formulas."""

from __future__ import annotations

import torch
from rule_oracle import (
    alpha_beta_rule,
    dense,
    epsilon_rule,
    flat_rule,
    gamma_rule,
    spread_bias,
    stab,
    z_box_rule,
    z_plus_rule,
)
from torch import nn
from torch.nn import functional as F


def alpha2_beta1_rule(*args):
    return alpha_beta_rule(*args, 2, 1)


def box_rule(*args):
    return z_box_rule(*args, -3.0, 3.0)


def gradient_rule(x, w, b, relevance, e):
    return relevance @ w.T


RULES = {
    "EpsilonGammaBox": (box_rule, gamma_rule, epsilon_rule),
    "EpsilonPlus": (z_plus_rule, z_plus_rule, epsilon_rule),
    "EpsilonAlpha2Beta1": (alpha2_beta1_rule, alpha2_beta1_rule, epsilon_rule),
    "EpsilonPlusFlat": (flat_rule, z_plus_rule, epsilon_rule),
    "EpsilonAlpha2Beta1Flat": (flat_rule, alpha2_beta1_rule, epsilon_rule),
    "ExcitationBackprop": (z_plus_rule, z_plus_rule, z_plus_rule),
    "DeconvNet": (gradient_rule, gradient_rule, gradient_rule),
    "GuidedBackprop": (gradient_rule, gradient_rule, gradient_rule),
}
"""Rules of the first layer, of convolutions and of linear layers."""


class Oracle:
    """Runs a network and notes how relevance goes back through each step.

    Values are indices of the tape; ``epsilon`` is the stabilizer of all rules.
    """

    def __init__(self, composite, epsilon):
        self.composite, self.epsilon = composite, epsilon
        self.values, self.steps = [], []

    def relevance(self, output, seed):
        upper = {output: seed}
        for index in range(output, 0, -1):
            if index in upper:
                for source, part in self.steps[index](upper.pop(index)):
                    upper[source] = upper.get(source, 0) + part
        return upper[0]

    def add(self, value, step):
        self.values.append(value)
        self.steps.append(step)
        return len(self.values) - 1

    def images(self, images):
        return self.add(images, None)

    def layer(self, source, layer, norm=None):
        """A layer with a rule, followed by the BatchNorm that is folded into it."""
        x = self.values[source]
        y = output = layer(x)
        first, convolution, linear = RULES[self.composite]
        rule = first if source == 0 else convolution if isinstance(layer, nn.Conv2d) else linear
        weight, bias = layer.weight, spread_bias(layer, y.shape[1:]).view(y.shape[1:])
        if norm is not None:
            mean, var = self.statistics(norm, y)
            scale = norm.weight / (var + norm.eps).sqrt()
            output = (y - mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]
            weight = weight * scale.view(-1, 1, 1, 1)
            bias = bias * scale[:, None, None] + (norm.bias - mean * scale)[:, None, None]
        if rule is flat_rule:
            weight = torch.ones_like(weight)
        matrix, bias = dense(layer, weight, x.shape[1:]), bias.flatten()

        def step(upper):
            part = rule(x.flatten(1), matrix, bias, upper.flatten(1), self.epsilon)
            return [(source, part.view_as(x))]

        return self.add(output, step)

    def statistics(self, norm, x):
        if norm.training:
            return x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        return norm.running_mean, norm.running_var

    def norm(self, source, norm):
        """A BatchNorm that follows no layer: relevance passes, gradients are those of PyTorch."""
        x = self.values[source]
        stats = (None, None) if norm.training else (norm.running_mean, norm.running_var)

        def forward(x):
            return F.batch_norm(x, *stats, norm.weight, norm.bias, norm.training, eps=norm.eps)

        passes = self.composite.startswith("Epsilon")
        return self.add(forward(x), lambda upper: [(source, upper if passes else pulled_back(forward, x, upper))])

    def relu(self, source):
        x = self.values[source]

        def step(upper):
            if self.composite.startswith("Epsilon"):
                return [(source, upper)]
            if self.composite != "ExcitationBackprop":
                upper = upper.clamp(min=0)
            return [(source, upper if self.composite == "DeconvNet" else upper * (x > 0))]

        return self.add(x.relu(), step)

    def plain(self, source, forward):
        """An operation with the ordinary gradient."""
        x = self.values[source]
        return self.add(forward(x), lambda upper: [(source, pulled_back(forward, x, upper))])

    def average(self, source, forward):
        """Average pooling, with each share of the value."""
        x = self.values[source]
        if self.composite in ("DeconvNet", "GuidedBackprop"):
            return self.plain(source, forward)
        y = forward(x)
        return self.add(y, lambda upper: [(source, x * pulled_back(forward, x, upper / stab(y, self.epsilon)))])

    def concatenate(self, sources):
        sources = tuple(sources)
        sizes = [self.values[s].shape[1] for s in sources]
        value = torch.cat([self.values[s] for s in sources], 1)
        return self.add(value, lambda upper: list(zip(sources, upper.split(sizes, 1), strict=True)))

    def sum(self, left, right):
        a, b = self.values[left], self.values[right]

        def step(upper):
            if self.composite in ("DeconvNet", "GuidedBackprop"):
                return [(left, upper), (right, upper)]
            share = upper / stab(a + b, self.epsilon)
            return [(left, a * share), (right, b * share)]

        return self.add(a + b, step)


def pulled_back(forward, x, upper):
    return torch.autograd.grad(forward(x), x, upper, create_graph=True)[0]


def run_dense_net(oracle, model, images):
    """torchvision's DenseNet."""
    features = model.features
    x = oracle.relu(oracle.layer(oracle.images(images), features.conv0, features.norm0))
    x = oracle.plain(x, features.pool0)
    for name, block in features.named_children():
        if name.startswith("denseblock"):
            tensors = [x]
            for layer in block.children():
                y = oracle.relu(oracle.norm(oracle.concatenate(tensors), layer.norm1))
                y = oracle.relu(oracle.layer(y, layer.conv1, layer.norm2))
                tensors.append(oracle.layer(y, layer.conv2))
            x = oracle.concatenate(tensors)
        elif name.startswith("transition"):
            x = oracle.layer(oracle.relu(oracle.norm(x, block.norm)), block.conv)
            x = oracle.average(x, block.pool)
    x = oracle.relu(oracle.norm(x, features.norm5))
    # torchvision pools by a function, which stands for the module
    x = oracle.average(x, lambda x: F.adaptive_avg_pool2d(x, (1, 1)))
    return oracle.layer(oracle.plain(x, lambda x: x.flatten(1)), model.classifier)


def run_residual_net(oracle, model, images):
    """`nets.ResidualNet` without dropout."""
    x = oracle.relu(oracle.layer(oracle.images(images), model.stem, model.stem_norm))
    x = oracle.plain(x, model.pool)
    y = oracle.relu(oracle.layer(x, model.grouped, model.grouped_norm))
    y = oracle.layer(y, model.strided, model.strided_norm)
    x = oracle.relu(oracle.sum(y, oracle.layer(x, model.shortcut)))
    x = oracle.average(x, model.average)
    return oracle.layer(oracle.plain(x, lambda x: x.flatten(1)), model.head)
