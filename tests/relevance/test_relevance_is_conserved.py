"""The sum of the relevance is what was explained, but for the share of biases, which is counted."""

from __future__ import annotations

import nets
import pytest
import torch
from explanations import itself, relevance_of
from torch import nn
from torch.nn import functional as F
from zennit.composites import LayerMapComposite
from zennit.layer import Sum
from zennit.rules import Epsilon, Norm, Pass, ZPlus
from zennit.types import Activation, AvgPool, BatchNorm, Linear

from zennit_isnet.lrp.relevance.composite import FuseBatchNorm, MakeFunctionsVisible, differentiable

E = 1e-12
TOLERANCE = 1e-10
RULES = {"epsilon": Epsilon(epsilon=E), "z+": ZPlus(stabilizer=E)}


def composite(rule):
    layer_map = [
        ((Activation, BatchNorm), Pass()),
        ((Sum, AvgPool), Norm(stabilizer=E)),
        (Linear, RULES[rule]),
    ]
    return differentiable(LayerMapComposite(layer_map), canonizers=[FuseBatchNorm(), MakeFunctionsVisible()])


def explained(logits):
    """The largest logit of each image, which is positive in these nets, as relevance."""
    return F.one_hot(logits.argmax(1), logits.shape[1]) * logits


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("net", ["residual", "concatenating", "plain"])
def test_without_biases_the_relevance_of_each_image_is_its_logit(net, rule, generator):
    model, images = nets.without_biases(nets.make(net, generator)), nets.make_images(generator)
    logits = model(images).detach()
    # z+ loses relevance at outputs without any positive part; weights that are not negative have none
    if rule == "z+":
        for module in model.modules():
            if isinstance(module, Linear):
                module.weight.data.abs_()
        logits = model(images).detach()
    total = relevance_of(composite(rule), model, images, explained).flatten(1).sum(1)
    expected = explained(logits).sum(1)
    assert expected.abs().min() > 0
    torch.testing.assert_close(total.detach(), expected, rtol=0, atol=TOLERANCE * expected.max().item())


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_the_share_of_the_fused_bias_is_what_is_missing(training, generator):
    """Each layer keeps ``Σ_k b_k R_k / z_k``, with ``b = β − γμ/σ`` of the batch in train mode."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3)
    )
    model, images = nets.randomise(model.double(), generator).train(training), nets.make_images(generator)
    convolution, norm, _, _, head = model
    z = convolution(images)
    mean, var = (
        (z.mean((0, 2, 3)), z.var((0, 2, 3), correction=0)) if training else (norm.running_mean, norm.running_var)
    )
    scale = norm.weight / (var + norm.eps).sqrt()
    bias = (norm.bias - mean * scale)[:, None, None]
    fused = z * scale[:, None, None] + bias
    a = fused.relu().flatten(1)
    y = head(a)
    # relevance of the activation, and what the biases of both layers take of it
    at_activation = (a * head.weight.sum(0)).view_as(z)
    taken = head.bias.sum() + (bias * at_activation / fused).flatten(1).sum(1)
    total = relevance_of(composite("epsilon"), model, images, itself).flatten(1).sum(1)
    torch.testing.assert_close((total + taken).detach(), y.sum(1).detach(), rtol=TOLERANCE, atol=1e-9)
    assert taken.abs().min() > 1e-3
