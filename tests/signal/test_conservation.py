"""Relevance is conserved: it sums to the explained logit, and what is missing sits in the biases."""

from __future__ import annotations

import nets
import pytest
import torch
from torch import nn

from zennit_isnet.formulations import Original, Target
from zennit_isnet.lrp.flex import LRPFlex
from zennit_isnet.lrp.propagation import LRPAttribution

EPSILON = 1e-30
MODELS = {"alexnet": 64, "vgg11_bn": 32}
"""Narrowed models and the sizes of their images; `tests/models` has all other families."""


@pytest.mark.parametrize("name", MODELS)
def test_torchvision_models_without_biases(name, generator):
    size, model = MODELS[name], nets.without_biases(nets.torchvision_net(name, generator))
    images = torch.randn(2, 3, size, size, generator=generator, dtype=torch.float64)
    classes = model(images).abs().argmax(1)
    logits, relevance = LRPAttribution(LRPFlex(EPSILON))(model, images, Target(classes), create_graph=False)
    explained, total = logits.detach().gather(1, classes[:, None])[:, 0], relevance["input"][:, 0].sum((1, 2, 3))
    assert explained.abs().min() > 1e-3
    torch.testing.assert_close(total, explained, rtol=1e-8, atol=0)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("net", nets.NETS)
def test_biases_take_what_the_images_do_not(net, training, generator):
    """ΣR + Σ b·G_b = logit, with G_b the signal at a zero that is added to each layer's output."""
    model, images = nets.make(net, generator, training=training), nets.make_images(generator).requires_grad_()
    offsets, biases = [], []

    def add_offset(module, args, output):
        offsets.append(torch.zeros_like(output, requires_grad=True))
        biases.append(bias_of(module, args[0].detach()))
        return output + offsets[-1]

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.modules.batchnorm._BatchNorm)):
            module.register_forward_hook(add_offset)
    with LRPFlex(EPSILON).context(model):
        logits = model(images)
        for index in range(nets.CLASSES):
            seed = torch.zeros_like(logits)
            seed[:, index] = 1
            relevance, *signals = torch.autograd.grad(logits, [images, *offsets], seed, retain_graph=True)
            through_biases = sum((b * g).flatten(1).sum(1) for b, g in zip(biases, signals, strict=True))
            explained = logits[:, index].detach()
            assert (through_biases / explained).abs().max() > 1e-3, "no bias takes part"
            torch.testing.assert_close(relevance.sum((1, 2, 3)) + through_biases, explained, rtol=1e-8, atol=1e-12)


@torch.no_grad()
def bias_of(module, inputs):
    """Bias of a layer, or of a BatchNorm by the statistics of this pass: β − γμ/σ; broadcastable to its output."""
    channels = inputs.shape[1] if isinstance(module, nn.modules.batchnorm._BatchNorm) else module.weight.shape[0]
    bias = inputs.new_zeros(channels) if module.bias is None else module.bias
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        mean, variance = module.running_mean, module.running_var
        if module.training:
            rows = inputs.transpose(0, 1).flatten(1)
            mean, variance = rows.mean(1), rows.var(1, unbiased=False)
        bias = bias - mean / (variance + module.eps).sqrt() * (module.weight if module.affine else 1)
    return bias.view(-1, 1, 1) if inputs.ndim == 4 else bias


@pytest.mark.parametrize("net", nets.NETS)
def test_every_class_of_tiny_nets_without_biases(net, generator):
    model, images = nets.without_biases(nets.make(net, generator)), nets.make_images(generator)
    logits, relevance = LRPAttribution(LRPFlex(EPSILON))(model, images, Original())
    torch.testing.assert_close(relevance["input"].sum((2, 3, 4)), logits, rtol=1e-8, atol=1e-12)
