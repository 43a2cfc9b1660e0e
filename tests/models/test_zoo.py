"""All image classifiers of torchvision: conservation, logits, gradients for every parameter, an untouched model."""

from __future__ import annotations

import properties
import pytest
import torch
import zoo
from torchvision import models

TOLERANCE = 1e-8


def names(*lists, marks=()):
    return [pytest.param(name, marks=marks) for group in lists for name in group]


without_a_tiny_instance = pytest.mark.parametrize(
    "name", ["googlenet", "mobilenet_v2", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1"]
)
"""Kinds of networks that `families` lacks; `test_families` asks the same and more of those that it has."""
every = pytest.mark.parametrize(
    "name",
    [
        *names(zoo.SMALL),
        *names(zoo.LARGE, zoo.VIDEO, marks=pytest.mark.slow),
        *names(zoo.HUGE, marks=[pytest.mark.slow, pytest.mark.huge]),
    ],
)


def test_no_classifier_is_left_out():
    images, videos = set(zoo.NAMES), set(models.list_models(module=models.video)) - {"swin3d_s", "swin3d_b"}
    assert sorted((*zoo.SMALL, *zoo.LARGE, *zoo.HUGE, *zoo.VIDEO)) == sorted(images | videos)


@every
def test_relevance_sums_to_the_plain_models_logit_and_the_model_is_untouched(name, generator):
    """Without biases, so that the relevance has nowhere to go but to the images."""
    model, images = zoo.without_biases(zoo.make(name, generator)), zoo.make_images(name, generator)
    before = zoo.State(model)
    error, difference = properties.conservation_error(model, images)
    assert error <= TOLERANCE
    assert difference <= (1e-5 if name.startswith(zoo.FUSED_ATTENTION) else 0.0)
    assert zoo.State(model) == before


@without_a_tiny_instance
def test_biases_take_what_the_images_do_not(name, generator):
    model = zoo.make(name, generator)
    error, share = properties.conservation_error_with_biases(model, zoo.make_images(name, generator))
    assert share > 1e-4, "no bias takes part"
    assert error <= TOLERANCE


@pytest.mark.filterwarnings("ignore::zennit_isnet.errors.RelevanceRangeWarning")
@without_a_tiny_instance
def test_every_parameter_that_influences_the_logits_gets_a_gradient(name, generator):
    model, images = zoo.make(name, generator), zoo.make_images(name, generator)
    assert properties.parameters_without_gradient(model, images) == []
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["r3d_18", "swin3d_t"])
def test_heatmaps_of_videos_have_frames(name, generator):
    images = zoo.make_images(name, generator, 1)
    _, relevance = properties.LRPAttribution()(zoo.make(name, generator), images, properties.Selective())
    assert relevance["input"].shape == (1, 1, *images.shape[1:])
    assert torch.isfinite(relevance["input"]).all()
