"""Functions may be called by keywords, as PyTorch names them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from zennit_isnet import LRPAttribution, LRPFlex, Target, ZPlus

WEIGHT = torch.linspace(0.5, 1.5, 36).view(6, 6).double()

CALLS = {
    "add": (lambda x: torch.add(x, x), lambda x: torch.add(input=x, other=x)),
    "Tensor.add_": (lambda x: x.clone().add_(x), lambda x: x.clone().add_(other=x)),
    "div": (lambda x: torch.div(x, 2), lambda x: torch.div(other=2, input=x)),
    "Tensor.div": (lambda x: x.div(WEIGHT), lambda x: x.div(other=WEIGHT)),
    "mul": (lambda x: x * x.sigmoid(), lambda x: torch.mul(other=torch.sigmoid(input=x), input=x)),
    "matmul": (lambda x: x @ WEIGHT, lambda x: torch.matmul(input=x, other=WEIGHT)),
    "addcmul": (
        lambda x: torch.addcmul(x, x, WEIGHT, value=2),
        lambda x: torch.addcmul(input=x, tensor1=x, tensor2=WEIGHT, value=2),
    ),
    "cat": (lambda x: torch.cat([x, x], 2), lambda x: torch.cat(tensors=[x, x], dim=2)),
    "conv_transpose2d": (
        lambda x: F.conv_transpose2d(x, WEIGHT[:4, :4, None, None], None, 2),
        lambda x: F.conv_transpose2d(input=x, weight=WEIGHT[:4, :4, None, None], stride=2),
    ),
    "conv2d": (
        lambda x: F.conv2d(x, WEIGHT[:4, :4, None, None], None, 2),
        lambda x: F.conv2d(stride=2, weight=WEIGHT[:4, :4, None, None], input=x),
    ),
    "elu": (lambda x: F.elu(x, 0.5), lambda x: F.elu(input=x, alpha=0.5, inplace=False)),
    "relu": (lambda x: F.relu(x), lambda x: F.relu(input=x.clone(), inplace=True)),
    "hardtanh": (lambda x: F.hardtanh(x, -0.1, 0.1), lambda x: F.hardtanh(input=x, min_val=-0.1, max_val=0.1)),
    "group_norm": (lambda x: F.group_norm(x, 2), lambda x: F.group_norm(input=x, num_groups=2)),
    "dropout": (lambda x: F.dropout(x, 0.5, False), lambda x: F.dropout(training=False, p=0.5, input=x)),
}


class Calling(nn.Module):
    def __init__(self, call) -> None:
        super().__init__()
        self.call = call
        self.stem, self.head = nn.Conv2d(3, 4, 3), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))

    def forward(self, images):
        return self.head(self.call(self.stem(images)))


@pytest.mark.parametrize(
    ("name", "composite"),
    [*((name, LRPFlex) for name in CALLS), *((name, ZPlus) for name in ("add", "Tensor.add_", "relu"))],
)
def test_the_same_call_by_keywords_has_the_same_relevance(name, composite, generator):
    images = torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64)
    model = Calling(None).double()
    found = []
    for model.call in CALLS[name]:
        found.append(LRPAttribution(composite())(model, images, Target(1))[1]["input"])
    torch.testing.assert_close(found[1], found[0])
