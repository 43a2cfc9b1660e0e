"""`CaptumAttribution` makes Captum's gradients differentiable, and says where they cannot be."""

from __future__ import annotations

import copy

import captum.attr
import nets
import numpy as np
import pytest
import torch
from finite_differences import TOLERANCE, backward_gradients, worst_relative_error
from regularizer_models import ModelState, batch, tiny_net
from torch import nn

from zennit_isnet import ISNetRegularizer, Original, Selective, Target
from zennit_isnet.captum import CaptumAttribution
from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.gradients import GradCAM, GradientTimesInput, InputGradient, IntegratedGradients

LAYER = "strided_norm"
OWN = {
    "Saliency": (CaptumAttribution(captum.attr.Saliency, abs=False), InputGradient()),
    "InputXGradient": (CaptumAttribution(captum.attr.InputXGradient), GradientTimesInput()),
    "IntegratedGradients": (CaptumAttribution(captum.attr.IntegratedGradients, n_steps=3), IntegratedGradients(3)),
    "LayerGradCam": (
        CaptumAttribution(captum.attr.LayerGradCam, layer=LAYER, relu_attributions=True),
        GradCAM(LAYER),
    ),
}


@pytest.fixture
def model(generator):
    return nets.make("residual", generator)


@pytest.fixture
def images(generator):
    return nets.make_images(generator)


def gradients_of(relevance, model):
    ((_, heatmaps),) = relevance.items()
    return backward_gradients(heatmaps.square().sum(), list(model.parameters()))


@pytest.mark.parametrize("name", OWN)
def test_equals_the_packages_own_attribution_in_value_and_gradient(name, model, images):
    (output, relevance), (own_output, own) = (part(model, images, Selective()) for part in OWN[name])
    torch.testing.assert_close(output, own_output)
    assert list(relevance) == list(own)
    torch.testing.assert_close(relevance, own, rtol=1e-6, atol=1e-8)
    for found, expected in zip(gradients_of(relevance, model), gradients_of(own, model), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "attribution",
    [
        CaptumAttribution(captum.attr.LayerGradientXActivation, layer=LAYER, verify=False),
        CaptumAttribution(lambda forward: captum.attr.GuidedGradCam(forward, forward.model.strided_norm), verify=False),
    ],
    ids=["layer", "function"],
)
@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU")
def test_other_attributions_have_the_gradient_of_finite_differences(attribution, model, images, generator):
    model.relu.inplace = False  # Captum's hooks forbid it
    leaves = list(model.parameters())

    def value():
        ((_, heatmaps),) = attribution(model, images, Target(1))[1].items()
        return heatmaps.square().sum()

    gradients = backward_gradients(value(), leaves)
    assert worst_relative_error(lambda: value().item(), leaves, gradients, generator) <= TOLERANCE


@pytest.mark.filterwarnings("ignore::zennit_isnet.errors.RelevanceRangeWarning")
def test_it_is_penalised_in_one_line():
    model, (images, masks) = tiny_net(), batch()
    twin, before = copy.deepcopy(model), ModelState(model)
    regularizer = ISNetRegularizer(model, attribution=CaptumAttribution(captum.attr.InputXGradient))
    logits, penalty = regularizer(images, masks)
    plain = twin(images)
    after = ModelState(model)
    torch.testing.assert_close(logits, plain)
    assert before.fact_differences(after) == []
    assert after.value_differences(ModelState(twin).values) == []  # running statistics moved once
    penalty.backward()
    assert model[0].weight.grad.abs().max() > 0
    assert regularizer.heatmap(images).shape == (4, 1, 3, 32, 32)


def test_each_explained_quantity_has_its_heatmap(model, images):
    _, relevance = CaptumAttribution(captum.attr.InputXGradient)(model, images, Original(), create_graph=False)
    for target in range(nets.CLASSES):
        expected = captum.attr.InputXGradient(model).attribute(images.clone(), target).detach()
        torch.testing.assert_close(relevance["input"][:, target], expected)
    assert not relevance["input"].requires_grad


class Wrong:
    """Has Captum's `attribute`, and returns what the test wants."""

    def __init__(self, result):
        self.attribute = lambda images, additional_forward_args: result(images)


WRONG = "gradient with respect to the parameters is wrong"
NONE = "not a differentiable function of the model's parameters"


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        (captum.attr.LayerIntegratedGradients, {"layer": "2", "n_steps": 3}, WRONG),
        (captum.attr.LayerIntegratedGradients, {"layer": "2", "n_steps": 3, "verify": False}, None),
        (captum.attr.LayerActivation, {"layer": "2"}, NONE),
        (captum.attr.FeatureAblation, {}, NONE),
        (lambda forward: Wrong(torch.zeros_like), {}, NONE),
        (lambda forward: captum.attr.NoiseTunnel(captum.attr.Saliency(forward)), {}, NONE),
        (captum.attr.DeepLift, {}, NONE),
        (captum.attr.IntegratedGradients, {"n_steps": 3}, None),
    ],
)
@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")
def test_what_cuts_the_graph_is_found_out(method, arguments, message, generator):
    model = nets.randomise(nn.Sequential(*tiny_net()[:2], nn.ReLU(), *tiny_net()[3:]), generator).eval()
    attribution, images = CaptumAttribution(method, **arguments), torch.rand(2, 3, 4, 4)
    before = ModelState(model)
    if message is None:
        assert attribution(model, images, Target(1))[1].popitem()[1].requires_grad
    else:
        with pytest.raises(InvalidValueError, match=message):
            attribution(model, images, Target(1))
    assert before.differences(ModelState(model)) == []
    assert not attribution(model, images, Target(1), create_graph=False)[1].popitem()[1].requires_grad


def test_the_check_waits_for_a_heatmap_that_is_not_zero():
    model, images = tiny_net().eval(), torch.rand(2, 3, 4, 4)
    attribution = CaptumAttribution(captum.attr.LayerIntegratedGradients, layer="2", n_steps=3)
    model[2].inplace = False
    with torch.no_grad():
        head = model[8].weight.clone()
        model[8].weight.zero_()
    attribution(model, images, Target(1))
    with torch.no_grad():
        model[8].weight.copy_(head)
    with pytest.raises(InvalidValueError, match=WRONG):
        attribution(model, images, Target(1))


def test_the_check_leaves_random_states_alone(generator):
    model, images = tiny_net(), torch.rand(2, 3, 8, 8)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    CaptumAttribution(captum.attr.Saliency)(model, images, Target(1))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()


@pytest.mark.parametrize(
    ("result", "layer", "error", "message"),
    [
        (lambda images: images[..., :4, :4], None, InvalidValueError, r"the images' size.*got \(2, 3, 4, 4\)"),
        (lambda images: images[:1], None, InvalidValueError, r"got \(1, 3, 8, 8\)"),
        (lambda images: images.sum(1), "2", InvalidValueError, r"got \(2, 8, 8\)"),
        (lambda images: (images,), None, InvalidTypeError, "must return one tensor; got tuple"),
    ],
)
def test_maps_of_another_shape_are_refused(result, layer, error, message):
    attribution = CaptumAttribution(lambda *place: Wrong(result), layer=layer)
    with pytest.raises(error, match=message):
        attribution(tiny_net(), torch.rand(2, 3, 8, 8), Target(1))


@pytest.mark.parametrize(("method", "layer"), [(captum.attr.LRP, None), (captum.attr.LayerLRP, "2")])
def test_captums_lrp_is_refused(method, layer):
    with pytest.raises(InvalidTypeError, match=rf"captum.attr.{method.__name__} cut the graph.*use LRPAttribution"):
        CaptumAttribution(method, layer=layer)(tiny_net(), torch.rand(2, 3, 8, 8), Target(1))


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        (captum.attr.Saliency(tiny_net()), {}, r"method must be a class of captum\.attr.*got Saliency"),
        (captum.attr.Saliency, {"layer": "2"}, "Saliency: too many positional arguments; leave layer out"),
        (captum.attr.LayerGradCam, {}, "LayerGradCam: missing a required argument: 'layer'; pass the layer's name"),
        (captum.attr.LayerGradCam, {"layer": nn.ReLU()}, r"layer must be a name as in model.named_modules.*got ReLU"),
        (captum.attr.Saliency, {"target": 1}, r"^target: leave it out.* its formulation the target"),
    ],
)
def test_what_does_not_fit_captum_is_refused_with_the_remedy(method, arguments, message):
    with pytest.raises(InvalidTypeError, match=message):
        CaptumAttribution(method, **arguments)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (lambda forward: captum.attr.LRP(forward), r"captum.attr.LRP cut the graph.*use LRPAttribution"),
        (lambda forward: forward, r"must make an object with Captum's attribute\(\); got ExplainedQuantity"),
    ],
)
def test_functions_that_make_no_attribution_are_refused(method, message):
    with pytest.raises(InvalidTypeError, match=message):
        CaptumAttribution(method)(tiny_net(), torch.rand(2, 3, 8, 8), Target(1))


def test_baselines_may_have_one_row_for_each_image(model, images):
    baselines = 0.1 * images.flip(0)
    _, relevance = CaptumAttribution(captum.attr.IntegratedGradients, baselines=baselines, n_steps=3)(
        model, images, Target(1)
    )
    _, own = IntegratedGradients(3, baselines)(model, images, Target(1))
    torch.testing.assert_close(relevance, own)


def test_baselines_may_be_a_tuple_like_captums(model, images):
    baselines = (0.1 * images.repeat(2, 1, 1, 1),)
    attribution = CaptumAttribution(captum.attr.IntegratedGradients, baselines=baselines, n_steps=3)
    _, relevance = attribution(model, images.repeat(2, 1, 1, 1), Target(1))
    _, own = IntegratedGradients(3, baselines[0])(model, images.repeat(2, 1, 1, 1), Target(1))
    torch.testing.assert_close(relevance, own)


class ChannelsLast(nn.Module):
    """A network like Swin, whose blocks work on ``(N, H, W, C)``."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.mix = nn.Conv2d(3, 5, 1), nn.LayerNorm(5), nn.Linear(5, 6)
        self.relu, self.head = nn.ReLU(), nn.Linear(6, 4)

    def forward(self, images):
        return self.head(self.relu(self.mix(self.norm(self.stem(images).permute(0, 2, 3, 1)))).mean((1, 2)))


@pytest.mark.parametrize(
    ("layer", "arguments", "of_inputs"),
    [("relu", {}, False), ("mix", {"attribute_to_layer_input": True}, True)],
)
def test_channels_of_a_layer_come_first(layer, arguments, of_inputs, images):
    model = ChannelsLast().double()
    attribution = CaptumAttribution(captum.attr.LayerGradientXActivation, layer=layer, **arguments)
    _, relevance = attribution(model, images, Target(1))
    maps = captum.attr.LayerGradientXActivation(model, getattr(model, layer))
    expected = maps.attribute(images.clone(), 1, attribute_to_layer_input=of_inputs)
    torch.testing.assert_close(relevance[layer][:, 0], expected.permute(0, 3, 1, 2))


def test_layers_may_run_again_and_captum_explains_the_last_run():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.relu = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.ReLU()

        def forward(self, images):
            return self.relu(self.second(self.relu(self.first(images)))).mean((2, 3))

    model, images = Twice(), torch.rand(2, 3, 8, 8)
    _, relevance = CaptumAttribution(captum.attr.LayerGradientXActivation, layer="relu")(model, images, Target(1))
    expected = model.relu(model.second(model.relu(model.first(images)))) / 64 * torch.eye(4)[1].view(-1, 1, 1)
    torch.testing.assert_close(relevance["relu"][:, 0], expected)


def test_sums_over_the_wrong_axes_are_refused(images):
    attribution = CaptumAttribution(captum.attr.LayerGradCam, layer="relu")
    with pytest.raises(InvalidValueError, match=r"channels are last: \(4, 8, 8, 6\); got .*zennit_isnet\.gradients"):
        attribution(ChannelsLast().double(), images, Target(1))


@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU")
def test_guided_backpropagation_passes_the_check(model, images):
    model.relu.inplace = False  # Captum's hooks forbid it
    _, relevance = CaptumAttribution(captum.attr.GuidedBackprop)(model, images, Target(1))
    expected = captum.attr.GuidedBackprop(model).attribute(images.clone(), 1)
    torch.testing.assert_close(relevance["input"][:, 0], expected)


def test_the_check_works_without_an_outer_graph(model, images):
    with torch.no_grad():
        _, relevance = CaptumAttribution(captum.attr.Saliency)(model, images, Target(1))
    assert relevance["input"].requires_grad


class Keeps(nn.Module):
    """Keeps its features, which `copy.deepcopy` refuses; or needs float32."""

    def __init__(self, single):
        super().__init__()
        self.layer, self.single = nn.Conv2d(3, 4, 8), single

    def forward(self, images):
        self.features = self.layer(images.float() if self.single else images)
        return self.features.flatten(1)


def test_models_that_keep_features_are_checked_and_those_without_float64_named():
    images = torch.rand(2, 3, 8, 8)
    assert CaptumAttribution(captum.attr.Saliency)(Keeps(False), images, Target(1))[1]["input"].requires_grad
    with pytest.raises(InvalidValueError, match=r"a float64 copy of the model fails .*; verify=False"):
        CaptumAttribution(captum.attr.Saliency)(Keeps(True), images, Target(1))


def test_what_captum_leaves_on_modules_after_an_exception_is_taken_off():
    class Broken(nn.Module):
        def forward(self, features):
            if len(features) == 2 * len(images):  # DeepLift runs images and baselines together
                raise ZeroDivisionError
            return features

    images = torch.rand(2, 3, 8, 8)
    model = nn.Sequential(*tiny_net()[:2], nn.ReLU(), Broken(), *tiny_net()[3:]).eval()
    model[6] = nn.ReLU()
    before = ModelState(model)
    with pytest.raises(ZeroDivisionError), pytest.warns(UserWarning, match="hooks"):
        CaptumAttribution(captum.attr.DeepLift)(model, images, Target(1))
    assert before.differences(ModelState(model)) == []


def test_a_layer_that_does_not_exist_is_refused():
    with pytest.raises(InvalidValueError, match="no layer 'layer4'"):
        CaptumAttribution(captum.attr.LayerGradCam, layer="layer4")(tiny_net(), torch.rand(2, 3, 8, 8), Target(1))
