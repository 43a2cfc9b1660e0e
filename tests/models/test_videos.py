"""Videos: heatmaps have frames, masks are given per frame or once for all frames."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from zennit_isnet import ISNetRegularizer, LRPAttribution, LRPFlex, Selective, Target, box_from_normalization
from zennit_isnet.errors import InvalidValueError

FRAMES, SIZE = 3, 6


@pytest.fixture
def model(generator):
    layers = [nn.Conv3d(3, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(inplace=True), nn.MaxPool3d(2)]
    layers += [nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3)]
    return nn.Sequential(*layers).double().eval()


@pytest.fixture
def videos(generator):
    return torch.rand(2, 3, FRAMES, SIZE, SIZE, generator=generator, dtype=torch.float64)


def mask():
    frame = torch.zeros(2, 1, SIZE, SIZE)
    frame[..., 1:4, 2:5] = 1
    return frame


@pytest.mark.filterwarnings("ignore::zennit_isnet.errors.RelevanceRangeWarning")
def test_one_mask_for_all_frames_is_that_mask_in_every_frame(model, videos):
    regularizer = ISNetRegularizer(model, formulation=Selective())
    per_frame = mask()[:, :, None].expand(-1, -1, FRAMES, -1, -1)
    expected = regularizer(videos, per_frame)[1]
    assert expected > 0
    for same in (mask(), mask()[:, 0], mask()[:, :, None], per_frame[:, 0]):
        assert torch.equal(regularizer(videos, same)[1], expected)
    other = per_frame.clone()
    other[:, :, 0] = 0
    assert not torch.equal(regularizer(videos, other)[1], expected)


@pytest.mark.filterwarnings("ignore::zennit_isnet.errors.RelevanceRangeWarning")
@pytest.mark.parametrize("frames", [2, FRAMES + 1])
def test_another_number_of_frames_is_refused_and_another_resolution_is_not(model, videos, frames):
    regularizer = ISNetRegularizer(model)
    for masks in (mask()[:, :, None].repeat(1, 1, frames, 1, 1), mask().repeat(1, frames, 1, 1)):
        with pytest.raises(InvalidValueError, match=rf"one frame or T = {FRAMES} .* got {frames} in \(2, "):
            regularizer(videos, masks)
    coarse = mask()[:, :, None, ::2, ::2].expand(-1, -1, FRAMES, -1, -1)
    assert regularizer(videos, coarse)[1].isfinite()


def test_heatmaps_have_frames(model, videos):
    assert ISNetRegularizer(model).heatmap(videos).shape == (2, 1, 3, FRAMES, SIZE, SIZE)


def test_the_box_has_bounds_for_channels_and_not_for_frames(model, videos):
    """With as many frames as channels a mix-up would go unnoticed: against videos with the axes kept apart."""
    low, high = box_from_normalization((0.1, 0.2, 0.3), (1.0, 0.8, 0.6))
    inside = low[:, None] + (high - low)[:, None] * videos
    _, relevance = LRPAttribution(LRPFlex(box=(low, high)))(model, inside, Target(0))
    explicit = (low[:, None].expand(3, FRAMES, 1, 1), high[:, None].expand(3, FRAMES, 1, 1))
    _, expected = LRPAttribution(LRPFlex(box=explicit))(model, inside, Target(0))
    assert relevance["input"].any()
    torch.testing.assert_close(relevance["input"], expected["input"])
    ISNetRegularizer(model, composite=LRPFlex(box=(low, high))).heatmap(inside)
