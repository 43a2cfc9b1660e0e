"""A model may start with an in-place operation: the user's images stay, and the relevance is that of the model."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from zennit.composites import EpsilonPlus

from zennit_isnet import LRPAttribution, LRPFlex, Target, differentiable
from zennit_isnet.gradients import GradientTimesInput, InputGradient

ATTRIBUTIONS = {
    "LRP-Flex": LRPAttribution(LRPFlex()),
    "a composite of Zennit's": LRPAttribution(differentiable(EpsilonPlus())),
    "gradient times input": GradientTimesInput(),
    "input gradient": InputGradient(),
}


@pytest.mark.parametrize("name", ATTRIBUTIONS)
def test_images_stay_and_relevance_is_the_same_as_out_of_place(name, generator):
    out_of_place = nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)).double()
    in_place = copy.deepcopy(out_of_place)
    in_place[0].inplace = True
    images = torch.randn(2, 3, 6, 6, generator=generator, dtype=torch.float64)
    before = images.clone()
    logits, relevance = ATTRIBUTIONS[name](in_place, images, Target(1))
    assert torch.equal(images, before)
    expected_logits, expected = ATTRIBUTIONS[name](out_of_place, images, Target(1))
    assert torch.equal(logits, expected_logits)
    assert torch.equal(relevance["input"], expected["input"])
