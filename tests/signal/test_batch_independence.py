"""The forward pass is the user's own: one sample does not see its batch, logits and statistics are the plain ones."""

from __future__ import annotations

import copy

import nets
import pytest
import torch

from zennit_isnet.formulations import Original
from zennit_isnet.lrp.flex import LRPFlex
from zennit_isnet.lrp.propagation import LRPAttribution

boxes = pytest.mark.parametrize("box", [None, (0.0, 1.0)], ids=["no box", "z^B"])
modes = pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])


def state_after(model, run):
    """What `run` returns for a copy of the model, and the copy's state after it."""
    model = copy.deepcopy(model)
    torch.manual_seed(0)
    output = run(model)
    return output.detach(), model.state_dict()


def assert_same_forward(model, images, box):
    def explained(model):
        return LRPAttribution(LRPFlex(box=box))(model, images, Original())[0]

    expected_logits, expected_state = state_after(model, lambda model: model(images))
    logits, state = state_after(model, explained)
    assert torch.equal(logits, expected_logits)
    assert list(state) == list(expected_state)
    assert [key for key in state if not torch.equal(state[key], expected_state[key])] == []
    return state


@boxes
@pytest.mark.parametrize("net", nets.NETS)
def test_a_heatmap_does_not_depend_on_the_rest_of_the_batch_in_eval_mode(net, box, generator):
    model, images = nets.make(net, generator), nets.make_images(generator)
    attribution = LRPAttribution(LRPFlex(box=box))

    def explain(images):
        return attribution(model, images, Original())[1]["input"].detach()

    together = explain(images)
    assert together.abs().max() > 1e-3
    for index, image in enumerate(images):
        torch.testing.assert_close(explain(image[None])[0], together[index], rtol=1e-9, atol=1e-13)


@modes
def test_a_heatmap_does_not_depend_on_the_seeds_of_others(training, generator):
    """In train mode the statistics are shared, and yet no signal passes from sample to sample."""
    model, images = nets.make("residual", generator, training=training), nets.make_images(generator)
    images.requires_grad_()
    composite = LRPFlex()
    with composite.context(model):
        logits = model(images)
        (relevance,) = torch.autograd.grad(logits[0, 1], images)
    assert relevance[0].abs().max() > 0
    assert relevance[1:].count_nonzero() == 0


@boxes
@modes
@pytest.mark.parametrize("net", nets.NETS)
def test_logits_and_statistics_are_those_of_one_plain_forward(net, training, box, generator):
    # the dtype is an axis of its own: each net, mode and box meets both
    dtype = torch.float32 if (list(nets.NETS).index(net) + training + (box is None)) % 2 else torch.float64
    model, images = nets.make(net, generator, training=training).to(dtype), nets.make_images(generator).to(dtype)
    state = assert_same_forward(model, images, box)
    tracked = [value for key, value in state.items() if key.endswith("num_batches_tracked")]
    assert tracked
    assert all(value == int(training) for value in tracked)


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_logits_and_statistics_of_torchvision_models_in_train_mode(name, generator):
    """In eval mode `tests/models` has all families."""
    model = nets.torchvision_net(name, generator).float().train()
    assert_same_forward(model, nets.make_images(generator, 2, 32).float(), box=None)


@modes
def test_momentum_none_and_untracked_statistics(training, generator):
    model = nets.make("residual", generator, training=training)
    model.stem_norm.momentum = None
    model.grouped_norm = torch.nn.BatchNorm2d(4, track_running_stats=False).double().train(training)
    state = assert_same_forward(model, nets.make_images(generator), box=None)
    assert not any(key.startswith("grouped_norm.running") for key in state)


def test_statistics_that_move_after_a_pass_do_not_reach_it(generator):
    """A pass in train mode between the forward and the backward of one in eval mode, as with a shared backbone."""
    model, images = nets.make("residual", generator), nets.make_images(generator).requires_grad_()

    def gradients(disturb):
        with LRPFlex().context(model):
            logits = model(images)
            disturb()
            (relevance,) = torch.autograd.grad(logits[:, 1].sum(), images, create_graph=True)
        return torch.autograd.grad(relevance.square().sum(), [images, model.stem.weight, model.grouped_norm.weight])

    def train_once():
        with torch.no_grad():
            model.train()(2 * images)
        model.eval()

    expected = gradients(lambda: None)
    torch.testing.assert_close(gradients(train_once), expected, rtol=1e-12, atol=1e-12)
