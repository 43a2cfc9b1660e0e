"""LayerNorm and its relatives: PyTorch's values, a signal that centres and scales with a constant σ."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models.convnext import LayerNorm2d

from zennit_isnet.formulations import Target
from zennit_isnet.lrp.flex import LRPFlex
from zennit_isnet.lrp.propagation import LRPAttribution

SHAPE = (2, 4, 3, 3)
NORMS = {
    "LayerNorm": (lambda: nn.LayerNorm((4, 3, 3)), (1, 2, 3), True),
    "LayerNorm without parameters": (lambda: nn.LayerNorm((3, 3), elementwise_affine=False), (2, 3), True),
    "LayerNorm2d": (lambda: LayerNorm2d(4), (1,), True),
    "GroupNorm": (lambda: nn.GroupNorm(1, 4), (1, 2, 3), True),
    "GroupNorm of each channel": (lambda: nn.GroupNorm(4, 4), (2, 3), True),
    "InstanceNorm": (lambda: nn.InstanceNorm2d(4, affine=True), (2, 3), True),
    "RMSNorm": (lambda: nn.RMSNorm((4, 3, 3)), (1, 2, 3), False),
}


def problem(name, generator):
    norm = NORMS[name][0]()
    model = nn.Sequential(norm, nn.Flatten(), nn.Linear(36, 3)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 1, generator=generator)
    return model, 1 + torch.randn(SHAPE, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", NORMS)
def test_relevance_by_hand(name, generator):
    model, images = problem(name, generator)
    _, dims, centres = NORMS[name]
    logits, relevance = LRPAttribution(LRPFlex())(model, images, Target(1))
    assert torch.equal(logits, model(images))

    signal = model[2].weight[1].view(SHAPE[1:]).expand(SHAPE)
    weight = getattr(model[0], "weight", None)
    if weight is not None:
        signal = signal * (weight if weight.ndim == 3 else weight.view(-1, 1, 1))
    shift = model[0].eps if model[0].eps is not None else torch.finfo(torch.float64).eps
    if centres:
        sigma = (images.var(dims, unbiased=False, keepdim=True) + shift).sqrt()
        expected = images * (signal - signal.mean(dims, keepdim=True)) / sigma
    else:
        expected = images * signal / (images.square().mean(dims, keepdim=True) + shift).sqrt()
    torch.testing.assert_close(relevance["input"][:, 0], expected, rtol=1e-10, atol=1e-12)
    parameters = [p for p in (weight, model[2].weight) if p is not None]
    actual = torch.autograd.grad(relevance["input"].pow(3).sum(), parameters)
    torch.testing.assert_close(actual, torch.autograd.grad(expected.pow(3).sum(), parameters), rtol=1e-9, atol=1e-11)


def test_instance_norm_with_running_statistics(generator):
    model, images = problem("InstanceNorm", generator)
    norm = model[0] = nn.InstanceNorm2d(4, affine=True, track_running_stats=True).double().eval()
    norm.running_mean.fill_(0.3)
    norm.running_var.fill_(2.0)
    logits, relevance = LRPAttribution(LRPFlex())(model, images, Target(1))
    torch.testing.assert_close(logits, model(images), rtol=1e-12, atol=1e-13)
    expected = images * model[2].weight[1].view(SHAPE[1:]) / (2.0 + norm.eps) ** 0.5
    torch.testing.assert_close(relevance["input"][:, 0], expected, rtol=1e-10, atol=1e-12)
