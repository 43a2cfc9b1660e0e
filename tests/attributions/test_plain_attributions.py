"""InputGradient, IntegratedGradients and GradCAM: Captum's values, true gradients, and a model as after one forward."""

from __future__ import annotations

import copy
import math

import captum.attr
import nets
import pytest
import torch
from finite_differences import TOLERANCE, backward_gradients, worst_relative_error
from regularizer_models import DenseNetLike, InPlaceFirst, ModelState, batch, tiny_net
from torch import nn

from zennit_isnet import ISNetRegularizer, Original, Selective, Target
from zennit_isnet.captum import CaptumAttribution
from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.gradients import GradCAM, GradientTimesInput, InputGradient, IntegratedGradients

LAYER = "strided_norm"
BASELINE = torch.tensor([0.1, 0.2, 0.3]).double().view(3, 1, 1)
ATTRIBUTIONS = {
    "input gradient": InputGradient(),
    "input times gradient": GradientTimesInput(),
    "integrated gradients": IntegratedGradients(steps=3, baseline=BASELINE),
    "Grad-CAM": GradCAM(LAYER),
}
CAPTUM = {
    "input gradient": lambda model, images, target: captum.attr.Saliency(model).attribute(images, target, abs=False),
    "input times gradient": lambda model, images, target: captum.attr.InputXGradient(model).attribute(images, target),
    "integrated gradients": lambda model, images, target: captum.attr.IntegratedGradients(model).attribute(
        images, BASELINE.expand_as(images), target, n_steps=3
    ),
    "Grad-CAM": lambda model, images, target: captum.attr.LayerGradCam(model, getattr(model, LAYER)).attribute(
        images, target, relu_attributions=True
    ),
}

LAYERS = {tiny_net: "5", InPlaceFirst: "net.5", DenseNetLike: "norms.1"}


@pytest.fixture
def model(generator):
    return nets.make("residual", generator)


@pytest.fixture
def images(generator):
    return nets.make_images(generator)


def only(relevance):
    """The heatmaps of an attribution with one layer."""
    ((_, heatmaps),) = relevance.items()
    return heatmaps


@pytest.mark.parametrize("name", ATTRIBUTIONS)
def test_equals_captum_for_every_class(name, model, images):
    output, relevance = ATTRIBUTIONS[name](model, images, Original(), create_graph=False)
    expected = torch.stack([CAPTUM[name](model, images.clone(), target) for target in range(nets.CLASSES)], 1)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(only(relevance), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(output, model(images))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", ATTRIBUTIONS)
def test_gradient_of_the_parameters_agrees_with_finite_differences(name, training, model, images, generator):
    model.train(training)
    leaves = list(model.parameters())

    def value():
        torch.manual_seed(0)  # dropout
        _, relevance = ATTRIBUTIONS[name](model, images, Selective())
        return only(relevance).square().sum()

    gradients = backward_gradients(value(), leaves)
    assert worst_relative_error(lambda: value().item(), leaves, gradients, generator) <= TOLERANCE


@pytest.mark.parametrize("name", ATTRIBUTIONS)
def test_gradient_of_the_images_agrees_with_finite_differences(name, model, images, generator):
    model.relu = nn.GELU()  # the gradient of a piecewise linear net does not depend on the images
    images.requires_grad_()

    def value():
        return only(ATTRIBUTIONS[name](model, images, Original())[1]).square().sum()

    gradients = backward_gradients(value(), [images])
    assert worst_relative_error(lambda: value().item(), [images], gradients, generator) <= TOLERANCE


@pytest.mark.parametrize("steps", [8, 16])
def test_integrated_gradients_are_complete(steps, generator):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(144, nets.CLASSES)).double()
    images = nets.make_images(generator)
    logits, relevance = IntegratedGradients(steps)(model, images, Original())
    torch.testing.assert_close(
        relevance["input"].flatten(2).sum(2), logits - model(torch.zeros_like(images)), rtol=1e-6, atol=1e-6
    )


@pytest.mark.filterwarnings("ignore::zennit_isnet.errors.RelevanceRangeWarning")
@pytest.mark.parametrize(
    ("build", "attribution"),
    [
        *((build, part) for build in LAYERS for part in (InputGradient(), IntegratedGradients(2))),
        *((build, GradCAM(layer)) for build, layer in LAYERS.items()),
    ],
)
def test_a_penalised_step_changes_what_a_plain_forward_changes(build, attribution):
    model, (images, masks) = build(), batch()
    twin, images_before, before = copy.deepcopy(model), images.clone(), ModelState(model)
    regularizer = ISNetRegularizer(model, attribution=attribution, formulation=Target(0), loss=penalise_background)
    logits, penalty = regularizer(images, masks)
    plain = twin(images_before.clone())

    after = ModelState(model)
    assert before.fact_differences(after) == []
    assert after.value_differences(ModelState(twin).values) == []
    assert torch.equal(images, images_before)
    torch.testing.assert_close(logits, plain, rtol=1e-5, atol=1e-6)
    (penalty + logits.square().sum()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def penalise_background(relevance, foreground, c1, c2):
    """Mean |R| on the background of each image."""
    size = relevance.shape[-2:]
    background = 1 - nn.functional.adaptive_max_pool2d(foreground, size)
    return (relevance.abs() * background.unsqueeze(1)).flatten(1).mean(1)


PLAIN = [InputGradient(), GradientTimesInput(), IntegratedGradients(2), GradCAM("5")]


@pytest.mark.parametrize("attribution", PLAIN)
def test_without_create_graph_there_is_no_graph(attribution):
    images, _ = batch()
    images.requires_grad_()
    for enabled in (False, True):
        with torch.set_grad_enabled(enabled):
            _, relevance = attribution(tiny_net().eval(), images, Original(), create_graph=False)
        assert not only(relevance).requires_grad


@pytest.mark.parametrize("attribution", PLAIN)
def test_a_graph_is_made_whether_or_not_gradients_are_enabled(attribution):
    with torch.no_grad():
        assert only(attribution(tiny_net(), batch()[0], Original())[1]).requires_grad


class Deaf(nn.Module):
    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.rand(3))

    def forward(self, images):
        return self.logits.expand(len(images), -1)


@pytest.mark.parametrize("attribution", PLAIN[:3])
def test_logits_that_do_not_depend_on_the_images_are_an_error(attribution):
    with pytest.raises(InvalidValueError, match="reaches input: it does not influence the logits"):
        attribution(Deaf(), torch.rand(2, 3, 8, 8), Original())


@pytest.mark.parametrize("attribution", [*PLAIN, CaptumAttribution(captum.attr.Saliency)])
@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ("image", InvalidTypeError, r"images must be a Tensor \(N, C, H, W\); got str"),
        (torch.ones(2, 3, 8, 8, dtype=torch.uint8), InvalidTypeError, "floating point.*got torch.uint8"),
    ],
)
def test_what_has_no_gradient_is_refused(images, error, message, attribution):
    with pytest.raises(error, match=message):
        attribution(tiny_net(), images, Original())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: IntegratedGradients(steps=2.0), InvalidTypeError, "steps .*int"),
        (lambda: IntegratedGradients(steps=0), InvalidValueError, "steps .*1.*0"),
        (lambda: IntegratedGradients(baseline="black"), InvalidTypeError, "baseline .*number"),
        (lambda: IntegratedGradients(baseline=torch.tensor([0.0, math.nan])), InvalidValueError, "finite; got 1 other"),
        (lambda: GradCAM(nn.ReLU()), InvalidTypeError, "layer .*ReLU"),
    ],
)
def test_wrong_arguments_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("attribution", "message"),
    [
        (IntegratedGradients(baseline=torch.zeros(3, 4, 4)), r"\(4, 3, 32, 32\); got \(3, 4, 4\)"),
        (GradCAM("layer4"), "no layer 'layer4'"),
        (GradCAM("7"), r"spatial output.*'7' returns \(4, 8\)"),
        (GradCAM("9"), "'9' did not run"),
    ],
)
def test_what_does_not_fit_the_model_or_the_images_is_refused(attribution, message):
    model = tiny_net()
    model.forward = nn.Sequential(*model).forward
    model.append(nn.Conv2d(3, 3, 1))
    images, _ = batch()
    before = ModelState(model.eval())
    with pytest.raises(InvalidValueError, match=message):
        attribution(model, images, Original())
    assert before.differences(ModelState(model)) == []
