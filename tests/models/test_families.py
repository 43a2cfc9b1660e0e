"""The penalty's gradients are exact, and heatmaps do not depend on the batch, for a tiny model of each family."""

from __future__ import annotations

import families
import properties
import pytest
import torch
import zoo
from finite_differences import backward_gradients, worst_relative_error

from zennit_isnet.calibration import RelevanceRange
from zennit_isnet.formulations import Original, Selective
from zennit_isnet.lrp.flex import LRPFlex
from zennit_isnet.lrp.propagation import LRPAttribution
from zennit_isnet.regularizer import ISNetRegularizer

TOLERANCE = 1e-5

every_family = pytest.mark.parametrize("family", families.FAMILIES)


@pytest.mark.parametrize(
    ("family", "training"), [*((family, True) for family in families.FAMILIES), ("EfficientNet", False), ("ViT", False)]
)
def test_parameter_gradients_against_finite_differences(family, training, generator):
    """In train mode, with the same draws of dropout and stochastic depth, and the same running statistics."""
    model, images = families.make(family, generator, training=training), families.make_images(generator)
    masks = torch.zeros(len(images), 1, families.SIZE, families.SIZE)
    masks[..., 4:12, 4:12] = 1
    regularizer = ISNetRegularizer(model, formulation=Selective(), layers=())
    total = regularizer.heatmap(images).abs().sum().item()
    # below the range, so that the foreground term has a slope
    regularizer.ranges = {"input": RelevanceRange(total, 25 * total)}
    buffers = [buffer.clone() for buffer in model.buffers()]

    def penalty():
        torch.manual_seed(0)
        with torch.no_grad():
            for buffer, value in zip(model.buffers(), buffers, strict=True):
                buffer.copy_(value)
        return regularizer(images, masks)[1]

    def evaluate():
        with torch.no_grad():
            return penalty().item()

    leaves = list(model.parameters())
    gradients = backward_gradients(penalty(), leaves)
    assert worst_relative_error(evaluate, leaves, gradients, generator) <= TOLERANCE


@every_family
def test_a_heatmap_is_the_same_alone_and_in_a_batch(family, generator):
    model, images = families.make(family, generator), families.make_images(generator)

    def explain(images):
        return LRPAttribution()(model, images, Original(), create_graph=False)[1]["input"]

    together = explain(images)
    assert together.abs().max() > 1e-3
    for index, image in enumerate(images):
        torch.testing.assert_close(explain(image[None])[0], together[index], rtol=1e-8, atol=1e-11)


@every_family
def test_every_family_conserves_relevance(family, generator):
    model, images = families.make(family, generator), families.make_images(generator)
    error, share = properties.conservation_error_with_biases(model, images)
    assert share > 1e-4, "no bias takes part"
    assert error <= 1e-8
    assert properties.conservation_error(zoo.without_biases(model), images)[0] <= 1e-8


@every_family
def test_z_b_is_finite_and_leaves_the_model(family, generator):
    model, images = families.make(family, generator), families.make_images(generator)
    before = zoo.State(model)
    composite = LRPFlex(box=(images.min().item() - 0.1, images.max().item() + 0.1))
    _, relevance = LRPAttribution(composite)(model, images, Original())
    assert relevance["input"].isfinite().all()
    assert relevance["input"].any()
    assert before == zoo.State(model)
