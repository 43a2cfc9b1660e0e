"""The peers in the regularizer: the penalty of each paper, its gradient, and a model that stays as it was."""

import warnings

import pytest
import torch
from finite_differences import TOLERANCE, backward_gradients, worst_relative_error
from regularizer_models import ModelState, batch, tiny_net
from torch import nn
from torch.nn import functional as F

from zennit_isnet import ISNetRegularizer, peers
from zennit_isnet.errors import InvalidTypeError, InvalidValueError, RelevanceRangeWarning, UnsupportedModelError
from zennit_isnet.formulations import Predicted
from zennit_isnet.gradients import InputGradient

LABELS = torch.tensor([2, 0, 1, 1])
PEERS = {
    "rrr": peers.rrr,
    "gradmask": peers.gradmask,
    "energy": lambda model, **options: peers.energy(model, Predicted(), **options),
    "gradcam_guided": lambda model, **options: peers.gradcam_guided(model, "5", Predicted(), **options),
}
each_peer = pytest.mark.parametrize("peer", PEERS.values(), ids=PEERS)


def smooth_net():
    """Tanh for ReLU: finite differences meet no kink in the gradient."""
    net = tiny_net().double()
    net[2], net[5] = nn.Tanh(), nn.Tanh()
    return net


def loud_net():
    """Its attributions lie far above the heatmap loss's default range."""
    net = tiny_net()
    net[-1].weight.data *= 1e6
    return net


def data():
    images, masks = batch(4, size=8)
    return images.double(), masks


def input_gradient(model, images, quantity):
    images = images.clone().requires_grad_()
    return torch.autograd.grad(quantity(model(images)).sum(), images, create_graph=True)[0]


def rrr_by_hand(model, images, masks):
    gradient = input_gradient(model, images, lambda logits: F.log_softmax(logits, dim=1))
    return ((1 - masks) * gradient).square().sum() / len(images)


def gradmask_by_hand(model, images, masks):
    def contrast(logits):
        first, second = logits.sort(dim=1, descending=True).values[:, :2].unbind(1)
        return first - second

    background = (1 - masks) * input_gradient(model, images, contrast)
    return sum(image.square().sum().sqrt() for image in background) / len(images)


def energy_by_hand(model, images, masks):
    gradient = input_gradient(model, images, lambda logits: logits[torch.arange(len(logits)), LABELS])
    positive = (images * gradient).sum(dim=1, keepdim=True).relu()
    return -sum((m * p).sum() / p.sum() for m, p in zip(masks, positive, strict=True)) / len(images)


def gradcam_by_hand(model, images, masks):
    activations = model[:6](images)
    label_logits = model[6:](activations)[torch.arange(len(images)), LABELS]
    gradient = torch.autograd.grad(label_logits.sum(), activations, create_graph=True)[0]
    cam = (gradient.mean(dim=(2, 3), keepdim=True) * activations).sum(dim=1, keepdim=True).relu()
    cam = F.interpolate(cam, scale_factor=2, mode="bilinear")
    return -sum((m * p).sum() / p.sum() for m, p in zip(masks, cam, strict=True)) / len(images)


@pytest.mark.parametrize(
    ("peer", "by_hand"),
    [
        (peers.rrr, rrr_by_hand),
        (peers.gradmask, gradmask_by_hand),
        (peers.energy, energy_by_hand),
        (lambda model: peers.gradcam_guided(model, "5"), gradcam_by_hand),
    ],
    ids=PEERS,
)
def test_penalty_and_gradient_are_those_of_the_paper(peer, by_hand):
    model, (images, masks) = tiny_net().double(), data()
    parameters = list(model.parameters())
    expected = by_hand(model, images, masks)
    expected_gradients = torch.autograd.grad(expected, parameters, allow_unused=True, materialize_grads=True)
    regularizer = peer(model)
    _, penalty = regularizer(images, masks, labels=LABELS)
    torch.testing.assert_close(penalty, expected)
    torch.testing.assert_close(backward_gradients(penalty, parameters), list(expected_gradients))
    assert any(gradient.any() for gradient in expected_gradients)


@each_peer
def test_gradients_agree_with_finite_differences(peer, generator):
    model, (images, masks) = smooth_net(), data()
    regularizer = peer(model)
    parameters = list(model.parameters())
    gradients = backward_gradients(regularizer(images, masks)[1], parameters)
    error = worst_relative_error(lambda: regularizer(images, masks)[1].item(), parameters, gradients, generator)
    assert error <= TOLERANCE


@each_peer
@pytest.mark.parametrize("has_mask", [None, [True, False, True, True]])
def test_a_training_step_needs_no_calibration_and_leaves_the_model_alone(peer, has_mask):
    model, (images, masks) = loud_net().eval(), batch(4, size=8)
    before = ModelState(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RelevanceRangeWarning)
        logits, penalty = peer(model)(images, masks, has_mask)
    assert before.differences(ModelState(model)) == []
    torch.testing.assert_close(logits, model(images))
    assert penalty.isfinite()


def test_a_loss_with_a_range_still_warns():
    images, masks = batch(4, size=8)
    regularizer = ISNetRegularizer(loud_net(), attribution=InputGradient())
    with pytest.warns(RelevanceRangeWarning, match="far outside the default range"):
        regularizer(images, masks)


@each_peer
def test_options_reach_the_regularizer(peer):
    regularizer = peer(tiny_net(), every=2, validate=True)
    assert regularizer.schedule.every == 2
    assert regularizer.validate


@each_peer
def test_heatmaps_can_be_looked_at(peer):
    images, _ = batch(2, size=8)
    heatmap = peer(tiny_net()).heatmap(images)
    size = 4 if peer is PEERS["gradcam_guided"] else 8
    assert heatmap.shape[-2:] == (size, size)
    assert not heatmap.requires_grad


@pytest.mark.parametrize("peer", [peers.energy, lambda model: peers.gradcam_guided(model, "5")])
def test_the_label_is_explained_by_default_and_must_be_given(peer):
    model, (images, masks) = tiny_net(), batch(4, size=8)
    before = ModelState(model)
    with pytest.raises(InvalidValueError, match="got no labels"):
        peer(model)(images, masks)
    assert before.differences(ModelState(model)) == []


def test_bad_models_layers_and_options_are_refused():
    for peer in PEERS.values():
        with pytest.raises(InvalidTypeError, match=r"model .*Module"):
            peer("resnet18")
        with pytest.raises(InvalidValueError, match=r"every .*1"):
            peer(tiny_net(), every=0)
        with pytest.raises(TypeError, match="layers"):
            peer(tiny_net(), layers=["2"])
        with pytest.raises(UnsupportedModelError, match="DistributedDataParallel"):
            peer(nn.DataParallel(tiny_net()))
    with pytest.raises(InvalidValueError, match="layer9"):
        peers.gradcam_guided(tiny_net(), "layer9")
    with pytest.raises(InvalidTypeError, match=r"layer .*int"):
        peers.gradcam_guided(tiny_net(), 5)
