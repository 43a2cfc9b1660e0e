"""``addcmul(a, b, c)``: the signal flows into the sum, and into the one factor that carries it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from zennit_isnet import LRPAttribution, LRPFlex, Target
from zennit_isnet.errors import UncoveredOperationError


class Classifier(nn.Module):
    """Three classes from a function of images of 2 × 2 pixels and a learned vector."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.scale = nn.Parameter(torch.tensor([0.5, -2.0, 3.0, 1.5], dtype=torch.float64))
        self.head = nn.Linear(4, 3).double()

    def forward(self, images):
        return self.head(self.function(images.flatten(1), self.scale))


IMAGES = torch.linspace(-1, 2, 8, dtype=torch.float64).view(2, 1, 2, 2)
LINEAR = {
    "scaled images": (lambda x, scale: torch.addcmul(scale, scale, x), lambda scale: scale),
    "images in the sum": (lambda x, scale: torch.addcmul(x, scale, scale, value=7), torch.ones_like),
    "both": (lambda x, scale: x.addcmul(x, scale, value=0.1), lambda scale: 1 + 0.1 * scale),
    "in place": (lambda x, scale: x.clone().addcmul_(scale, x), lambda scale: 1 + scale),
    "a gate as a factor": (lambda x, scale: torch.addcmul(x, x, x.detach()), None),
}


@pytest.mark.parametrize("name", LINEAR)
def test_relevance_by_hand(name):
    function, slope = LINEAR[name]
    model = Classifier(function)
    logits, relevance = LRPAttribution(LRPFlex())(model, IMAGES, Target(1))
    assert torch.equal(logits, model(IMAGES))
    slope = 1 + IMAGES.flatten(1) if slope is None else slope(model.scale)
    expected = IMAGES.flatten(1) * slope * model.head.weight[1]
    torch.testing.assert_close(relevance["input"].view(2, 4), expected, rtol=1e-12, atol=1e-14)
    parameters = [model.head.weight, *([model.scale] if slope.requires_grad else [])]
    actual = torch.autograd.grad(relevance["input"].pow(3).sum(), parameters)
    torch.testing.assert_close(actual, torch.autograd.grad(expected.pow(3).sum(), parameters), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x, scale: torch.addcmul(scale, x, x), "both carry the signal"),
        (lambda x, scale: torch.addcmul(x.sigmoid(), x, scale), "constant in the signal pass"),
        (lambda x, scale: torch.addcmul(x, x.sigmoid(), scale), "constant in the signal pass"),
    ],
    ids=["two signals", "gate in the sum", "gate without a signal"],
)
def test_what_is_not_linear_is_named(function, reason):
    with pytest.raises(UncoveredOperationError, match=reason):
        LRPAttribution(LRPFlex())(Classifier(function), IMAGES, Target(1))
