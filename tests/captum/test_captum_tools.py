"""Captum's own tools take `CompositeAttribution` like any attribution of Captum."""

from __future__ import annotations

import nets
import pytest
import torch
from captum.attr import NoiseTunnel
from captum.attr import visualization as viz
from captum.metrics import infidelity, sensitivity_max
from explained_nets import COUNT, EXACT, TwoInputs, WithHead, make, two_inputs
from matplotlib import pyplot as plt

from zennit_isnet import LRPFlex
from zennit_isnet.captum import CompositeAttribution, LayerCompositeAttribution
from zennit_isnet.errors import InvalidValueError

TARGETS = torch.tensor([0, 4, 1, 1])


@pytest.fixture
def images(generator):
    return nets.make_images(generator, COUNT)


@pytest.fixture
def attribution(generator):
    return CompositeAttribution(make(WithHead, generator), EXACT)


@pytest.mark.parametrize("batch", [None, 1, 2])
@pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_sq", "vargrad"])
def test_a_noise_tunnel_without_noise_is_the_attribution(kind, batch, attribution, images):
    found, delta = NoiseTunnel(attribution).attribute(
        images, kind, 3, batch, stdevs=0.0, target=TARGETS, return_convergence_delta=True
    )
    plain, plain_delta = attribution.attribute(images, TARGETS, return_convergence_delta=True)
    expected = {"smoothgrad": plain, "smoothgrad_sq": plain**2, "vargrad": torch.zeros_like(plain)}[kind]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    # in which order Captum puts the deltas depends on its batches
    torch.testing.assert_close(delta.sort()[0], plain_delta.repeat(3).sort()[0], rtol=1e-6, atol=1e-9)


def test_a_noise_tunnel_averages_over_noise(attribution, images):
    found = NoiseTunnel(attribution).attribute(images, nt_samples=4, stdevs=0.1, target=TARGETS)
    assert found.shape == images.shape
    assert not torch.allclose(found, attribution.attribute(images, TARGETS))


def test_a_noise_tunnel_takes_several_inputs(generator):
    inputs = two_inputs(generator)
    attribution = CompositeAttribution(make(TwoInputs, generator), EXACT)
    found = NoiseTunnel(attribution).attribute(
        inputs, nt_samples=2, stdevs=0.0, target=1, additional_forward_args=(0.5, torch.ones(COUNT, 1))
    )
    for part, plain in zip(found, attribution.attribute(inputs, 1, 0.5), strict=True):
        torch.testing.assert_close(part, plain)


def test_a_noise_tunnel_takes_layers(generator, images):
    model = make(WithHead, generator)
    attribution = LayerCompositeAttribution(model, model.inner, EXACT)
    found = NoiseTunnel(attribution).attribute(images, nt_samples=2, stdevs=0.0, target=TARGETS)
    torch.testing.assert_close(found, attribution.attribute(images, TARGETS))


def test_noise_that_leaves_the_box_is_an_error(generator, images):
    attribution = CompositeAttribution(make(WithHead, generator), LRPFlex(box=(0.0, 1.0)))
    with pytest.raises(InvalidValueError, match="must lie in the box"):
        NoiseTunnel(attribution).attribute(images, stdevs=0.5, target=1)


def test_relevance_of_a_linear_region_is_faithful_to_small_changes(attribution, images):
    """Infidelity compares ``Δx · gradient``, which is R / x here, with the change of the output."""

    def perturb(inputs, baselines=None):
        noise = 1e-9 * torch.randn_like(inputs)
        return noise, inputs - noise

    gradient = attribution.attribute(images, TARGETS) / images
    of_relevance = infidelity(attribution.forward_func, perturb, images, gradient, target=TARGETS, n_perturb_samples=4)
    of_nothing = infidelity(
        attribution.forward_func, perturb, images, torch.zeros_like(images), target=TARGETS, n_perturb_samples=4
    )
    assert (of_relevance <= 1e-6 * of_nothing).all()


def test_sensitivity_is_that_of_the_largest_change(attribution, images):
    explain = attribution.attribute
    found = sensitivity_max(explain, images, lambda inputs: inputs + 0.02, n_perturb_samples=1, target=TARGETS)
    plain, moved = (explain(where, TARGETS).flatten(1) for where in (images, images + 0.02))
    torch.testing.assert_close(found, (moved - plain).norm(dim=1) / plain.norm(dim=1))


def test_relevance_can_be_drawn(attribution, images):
    relevance = attribution.attribute(images, TARGETS)
    heatmap, image = (value[0].permute(1, 2, 0).numpy() for value in (relevance, images))
    figure, axis = viz.visualize_image_attr(heatmap, image, method="blended_heat_map", sign="all", use_pyplot=False)
    drawn = axis.images[-1].get_array()
    assert drawn.shape == (nets.SIZE, nets.SIZE)
    assert abs(drawn).max() > 0
    plt.close(figure)
