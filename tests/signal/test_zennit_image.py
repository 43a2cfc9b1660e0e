"""Zennit's image functions render our heatmaps, and formulations are seeds for its attributors."""

from __future__ import annotations

import nets
import numpy as np
import pytest
import torch
from zennit.attribution import Gradient, IntegratedGradients, SmoothGrad
from zennit.image import imgify

from zennit_isnet import EpsilonZBox, ISNetRegularizer, LRPFlex, Original, Selective, Stochastic, Target
from zennit_isnet.errors import InvalidValueError
from zennit_isnet.formulations import AllLogits, SoftmaxGradient


@pytest.fixture
def net(generator: torch.Generator) -> torch.nn.Module:
    return nets.make("residual", generator, training=False)


def test_heatmaps_become_images(net: torch.nn.Module, generator: torch.Generator) -> None:
    heatmap = ISNetRegularizer(net).heatmap(nets.make_images(generator), target=1)[:, 0].sum(1)
    picture = imgify(heatmap, symmetric=True, cmap="coldnhot", grid=(2, 2))
    assert picture.size == (2 * heatmap.shape[2], 2 * heatmap.shape[1])
    # indices into the palette, zero in the middle
    indices = np.asarray(picture).astype(float)
    rows = [torch.cat([heatmap[2 * row], heatmap[2 * row + 1]], dim=1) for row in range(2)]
    signs = torch.cat(rows).sign().numpy()
    large = torch.cat(rows).abs().numpy() > 0.02 * heatmap.abs().max().item()
    assert (np.sign(indices - 127.5)[large] == signs[large]).all()


@pytest.mark.parametrize("composite", [LRPFlex(), EpsilonZBox()], ids=["signal", "relevance"])
@pytest.mark.parametrize(
    "formulation", [Selective(), Stochastic(torch.Generator()), Target(2), SoftmaxGradient()], ids=repr
)
def test_formulations_are_seeds_of_attributors(composite, formulation, net, generator) -> None:
    images = nets.make_images(generator)
    for attributor in (
        Gradient(net, composite, attr_output=composite.seed(formulation)),
        SmoothGrad(net, composite, attr_output=composite.seed(formulation), n_iter=2),
        IntegratedGradients(net, composite, attr_output=composite.seed(formulation), n_iter=2),
    ):
        with attributor:
            logits, relevance = attributor(images)
        assert relevance.shape == images.shape
        assert torch.isfinite(relevance).all()
        assert relevance.abs().sum() > 0
        assert logits.shape == (len(images), nets.CLASSES)


def test_gradient_gives_the_regularizers_heatmap(net: torch.nn.Module, generator: torch.Generator) -> None:
    images = nets.make_images(generator)
    with Gradient(net, (composite := LRPFlex()), attr_output=composite.seed(Selective())) as attributor:
        _, relevance = attributor(images)
    torch.testing.assert_close(
        relevance, ISNetRegularizer(net, composite=LRPFlex(), formulation=Selective()).heatmap(images)[:, 0]
    )


def test_the_sum_of_all_logits_is_one_heatmap(net: torch.nn.Module, generator: torch.Generator) -> None:
    images = nets.make_images(generator)
    with Gradient(net, (composite := LRPFlex()), attr_output=composite.seed(AllLogits())) as attributor:
        _, relevance = attributor(images)
    torch.testing.assert_close(relevance, ISNetRegularizer(net, composite=LRPFlex()).heatmap(images, Original()).sum(1))


def test_a_relevance_composite_gets_relevance_for_the_same_formulation(generator: torch.Generator) -> None:
    net = nets.without_biases(nets.torchvision_net("resnet18", generator))
    images, heatmaps = nets.make_images(generator), []
    for composite in (LRPFlex(1e-12), EpsilonZBox(epsilon=1e-12)):
        with Gradient(net, composite, attr_output=composite.seed(Selective())) as attributor:
            heatmaps.append(attributor(images)[1])
    torch.testing.assert_close(*heatmaps, rtol=1e-5, atol=1e-9)


def test_several_heatmaps_do_not_fit_an_attributor(net: torch.nn.Module, generator: torch.Generator) -> None:
    with (
        Gradient(net, (composite := LRPFlex()), attr_output=composite.seed(Original())) as attributor,
        pytest.raises(InvalidValueError, match="3"),
    ):
        attributor(nets.make_images(generator))
