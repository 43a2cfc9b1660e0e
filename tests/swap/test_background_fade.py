"""Backgrounds faded towards the darkest value of each image."""

from __future__ import annotations

import pytest
import torch

from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.swap import BackgroundFade


def batch(generator: torch.Generator, count: int = 6, dtype: torch.dtype = torch.float32):
    images = torch.randn(count, 3, 8, 8, generator=generator).to(dtype)
    masks = torch.zeros(count, 1, 8, 8)
    masks[:, :, 2:6, 3:7] = 1
    return images, masks


def test_a_faded_background_is_the_image_scaled_about_its_darkest_value(generator):
    images, masks = batch(generator, dtype=torch.float64)
    faded = BackgroundFade(1.0, torch.Generator().manual_seed(0))(images, masks)
    darkest = images.amin((2, 3), keepdim=True)
    foreground = masks.expand_as(images) == 1
    assert torch.equal(faded[foreground], images[foreground])
    share = ((faded - darkest) / (images - darkest)).masked_fill(foreground | (images == darkest), torch.nan)
    strengths = share.flatten(1).nanmean(1)
    assert (share - strengths.view(-1, 1, 1, 1)).nan_to_num(0).abs().max() < 1e-12
    assert (strengths >= 0).all()
    assert (strengths <= 1).all()
    assert len(strengths.unique()) == len(images)


def test_images_that_are_not_chosen_and_those_without_a_mask_stay(generator):
    images, masks = batch(generator)
    before = images.clone()
    assert torch.equal(BackgroundFade(0.0)(images, masks), images)
    has_mask = torch.tensor([True, False] * 3)
    faded = BackgroundFade(1.0)(images, masks, has_mask)
    assert (faded != images).flatten(1).any(1).tolist() == has_mask.tolist()
    assert torch.equal(images, before)


def test_half_of_the_images_are_faded_by_default_and_draws_go_on_from_a_state(generator):
    images, masks = batch(generator, 400)
    fade = BackgroundFade(generator=torch.Generator().manual_seed(0))
    assert 150 < (fade(images, masks) != images).flatten(1).any(1).sum() < 250
    state = fade.state_dict()
    expected = fade(images, masks)
    fade.load_state_dict(state)
    assert torch.equal(fade(images, masks), expected)


def test_videos_and_half_precision_keep_shape_and_dtype(generator):
    videos = torch.rand(2, 3, 4, 8, 8, generator=generator).bfloat16()
    faded = BackgroundFade(1.0)(videos, torch.eye(8).expand(2, 1, 8, 8))
    assert (faded.shape, faded.dtype) == (videos.shape, videos.dtype)


def test_every_image_is_faded_with_probability_1_in_half_precision(generator):
    images, masks = torch.ones(4000, 1, 1, 2, dtype=torch.bfloat16), torch.zeros(4000, 1, 1, 2)
    images[..., 1], masks[..., 1] = 0, 1
    draws = torch.rand(2, 4000, generator=torch.Generator().manual_seed(0))
    faded = BackgroundFade(1.0, generator=torch.Generator().manual_seed(0))(images, masks)[:, 0, 0, 0]
    assert torch.equal(faded, draws[1].bfloat16())


def test_bad_arguments_are_refused(generator):
    images, masks = batch(generator)
    with pytest.raises(InvalidTypeError, match=r"floating; got torch\.uint8"):
        BackgroundFade()(images.byte(), masks)
    with pytest.raises(InvalidValueError, match=r"probability must lie in \[0, 1\]"):
        BackgroundFade(1.5)
    with pytest.raises(InvalidValueError, match=r"masks must have the images' size"):
        BackgroundFade()(images, masks[..., :4])
