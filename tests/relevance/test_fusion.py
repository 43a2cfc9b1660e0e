"""BatchNorm folded into the layer before or after it: the relevance of the merged layer, by tensors that flow."""

from __future__ import annotations

import copy
import itertools

import nets
import pytest
import torch
from explanations import (
    assert_exact_gradients,
    assert_same,
    changed_values,
    itself,
    relevance_of,
    values_of,
    weighted_square,
)
from torch import nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d
from zennit.canonizers import NamedMergeBatchNorm, SequentialMergeBatchNorm
from zennit.composites import LayerMapComposite
from zennit.rules import AlphaBeta, Epsilon, Flat, Gamma, Pass, WSquare, ZBox, ZPlus
from zennit.types import Activation, BatchNorm, Linear

from zennit_isnet.lrp.relevance.composite import FuseBatchNorm, differentiable

E = 1e-2
RULES = {
    "Epsilon": Epsilon(epsilon=E),
    "Gamma": Gamma(stabilizer=E),
    "ZPlus": ZPlus(stabilizer=E),
    "AlphaBeta": AlphaBeta(stabilizer=E),
    "ZBox": ZBox(-4.0, 4.0, stabilizer=E),
    "WSquare": WSquare(stabilizer=E),
    "Flat": Flat(stabilizer=E),
}
AFTER = {
    "Linear": (nn.Linear(4, 3), nn.BatchNorm1d(3), (4,)),
    "Conv1d": (nn.Conv1d(2, 3, 2), nn.BatchNorm1d(3), (2, 5)),
    "Conv2d": (nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), (2, 4, 3)),
    "Conv3d": (nn.Conv3d(1, 2, 2), nn.BatchNorm3d(2), (1, 3, 3, 2)),
    "grouped": (nn.Conv2d(4, 6, 2, groups=2), nn.BatchNorm2d(6), (4, 3, 3)),
    "transposed": (nn.ConvTranspose2d(2, 3, 2, stride=2), nn.BatchNorm2d(3), (2, 2, 3)),
    "grouped transposed": (nn.ConvTranspose2d(4, 6, 2, groups=2, bias=False), nn.BatchNorm2d(6), (4, 2, 3)),
    "without affine": (nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3, affine=False), (2, 3, 3)),
    "without statistics": (nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3, track_running_stats=False), (2, 3, 3)),
}
BEFORE = {
    "Linear": (nn.BatchNorm1d(4), nn.Linear(4, 3), (4,)),
    "Linear without bias": (nn.BatchNorm1d(4), nn.Linear(4, 3, bias=False), (4,)),
    "Conv1d": (nn.BatchNorm1d(2), nn.Conv1d(2, 3, 2, stride=2), (2, 6)),
    "Conv2d": (nn.BatchNorm2d(2), nn.Conv2d(2, 3, 2), (2, 4, 3)),
    "Conv3d": (nn.BatchNorm3d(1), nn.Conv3d(1, 2, 2), (1, 3, 3, 2)),
    "grouped": (nn.BatchNorm2d(4), nn.Conv2d(4, 6, 2, groups=2), (4, 3, 3)),
    "reflected": (nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 4, 3)),
    "pointwise": (nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1, padding="same"), (2, 4, 3)),
}
NOT_BEFORE = {
    "padded": (nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3, padding=1), (2, 4, 3)),
    "padded to the same size": (nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3, padding="same"), (2, 4, 3)),
    "transposed": (nn.BatchNorm2d(2), nn.ConvTranspose2d(2, 3, 2), (2, 3, 3)),
}

training = pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])


def with_every_rule(cases):
    """Each case with each rule, in eval and train mode by turns: the mode changes the statistics, not their use."""
    turns = [(case, rule, (i + j) % 2 == 1) for i, case in enumerate(cases) for j, rule in enumerate(RULES)]
    return pytest.mark.parametrize(("case", "rule", "training"), turns)


def make(layers, shape, generator, training=False, count=4):
    """A sequential model with random values, and images."""
    model = copy.deepcopy(nn.Sequential(*layers)).double().train(training)
    for name, values in (*model.named_parameters(), *model.named_buffers()):
        if values.is_floating_point():
            values.data.normal_(generator=generator)
            if name.endswith("running_var"):
                values.data.square_().add_(0.5)
    return model, torch.randn(count, *shape, generator=generator, dtype=torch.float64)


def fused(rule):
    layer_map = [(BatchNorm, Pass()), (Activation, Pass()), (Linear, rule)]
    return differentiable(LayerMapComposite(layer_map), canonizers=[FuseBatchNorm()])


def unfused(rule):
    return differentiable(LayerMapComposite([(BatchNorm, Pass()), (Activation, Pass()), (Linear, rule)]))


def affine_of(norm, x):
    """Scale and shift of the channels, by the statistics of the batch or the running ones."""
    dims = [d for d in range(x.ndim) if d != 1]
    running = norm.track_running_stats and not norm.training
    mean, var = (norm.running_mean, norm.running_var) if running else (x.mean(dims), x.var(dims, correction=0))
    scale = (norm.weight if norm.affine else 1) / (var + norm.eps).sqrt()
    return scale, (norm.bias if norm.affine else 0) - mean * scale


def merged_after(layer, norm, x):
    """A layer that computes what both do, in eval mode or for this batch."""
    scale, shift = affine_of(norm, layer(x))
    merged = copy.deepcopy(layer)
    channels = torch.arange(len(scale))
    transposed = isinstance(layer, nn.ConvTranspose2d)
    weight = layer.weight.detach().clone()
    for k in channels:
        if transposed:
            group, index = divmod(k.item(), weight.shape[1])
            rows = slice(group * len(weight) // layer.groups, (group + 1) * len(weight) // layer.groups)
            weight[rows, index] *= scale[k].detach()
        else:
            weight[k] *= scale[k].detach()
    bias = shift if layer.bias is None else layer.bias * scale + shift
    merged.weight, merged.bias = nn.Parameter(weight), nn.Parameter(bias.detach())
    return merged


def merged_before(norm, layer, x):
    scale, shift = (values.detach() for values in affine_of(norm, x))
    groups = getattr(layer, "groups", 1)
    merged, weight = copy.deepcopy(layer), layer.weight.detach().clone()
    bias = torch.zeros(len(weight), dtype=weight.dtype) if layer.bias is None else layer.bias.detach().clone()
    for k in range(len(weight)):
        first = k // (len(weight) // groups) * weight.shape[1]
        for i in range(weight.shape[1]):
            bias[k] += weight[k, i].sum() * shift[first + i]
            weight[k, i] *= scale[first + i]
    merged.weight, merged.bias = nn.Parameter(weight), nn.Parameter(bias)
    return merged


@with_every_rule(AFTER)
def test_a_batch_norm_after_a_layer_has_the_relevance_of_the_merged_layer(case, rule, training, generator):
    layer, norm, shape = AFTER[case]
    model, images = make((layer, norm), shape, generator, training)
    merged = merged_after(*model, images)
    torch.testing.assert_close(merged(images), copy.deepcopy(model)(images), rtol=1e-10, atol=1e-10)
    expected = relevance_of(unfused(RULES[rule]), merged, images, itself)
    assert_same(relevance_of(fused(RULES[rule]), model, images, itself).detach(), expected.detach(), 1e-9)


@with_every_rule(BEFORE)
def test_a_batch_norm_before_a_layer_has_the_relevance_of_the_merged_layer(case, rule, training, generator):
    norm, layer, shape = BEFORE[case]
    model, images = make((norm, layer), shape, generator, training)
    merged = merged_before(*model, images)
    torch.testing.assert_close(merged(images), copy.deepcopy(model)(images), rtol=1e-10, atol=1e-10)
    expected = relevance_of(unfused(RULES[rule]), merged, images, itself)
    assert_same(relevance_of(fused(RULES[rule]), model, images, itself).detach(), expected.detach(), 1e-9)


CASES = [*AFTER, *(f"before {name}" for name in BEFORE)]
CASES_WITH_A_RULE = list(zip(CASES, itertools.cycle(["Epsilon", "AlphaBeta", "WSquare"]), strict=False))
"""Rules by turns: how a merged weight comes about does not depend on who reads it."""


@training
@pytest.mark.parametrize(("case", "rule"), CASES_WITH_A_RULE)
def test_gradients_are_exact(case, rule, training, generator):
    first, second, shape = BEFORE[case.removeprefix("before ")] if case.startswith("before ") else AFTER[case]
    model, images = make((first, second), shape, generator, training)
    seed = torch.randn(model(images).shape, generator=generator, dtype=torch.float64)
    composite = fused(RULES[rule])
    parameters = {"parameters": list(model.parameters())}
    assert_exact_gradients(lambda: weighted_square(relevance_of(composite, model, images, seed)), parameters, generator)


@training
@pytest.mark.parametrize("case", NOT_BEFORE)
def test_where_a_shift_of_the_input_is_none_of_the_output_the_batch_norm_keeps_pass(case, training, generator):
    norm, layer, shape = NOT_BEFORE[case]
    model, images = make((norm, layer), shape, generator, training)
    expected = relevance_of(unfused(Epsilon(epsilon=E)), copy.deepcopy(model), images, itself)
    assert_same(relevance_of(fused(Epsilon(epsilon=E)), model, images, itself).detach(), expected.detach())


@training
def test_a_batch_norm_between_two_layers_belongs_to_the_first(training, generator):
    layers = (nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 2))
    model, images = make(layers, (2, 5, 4), generator, training)
    merged = nn.Sequential(merged_after(model[0], model[1], images), copy.deepcopy(model[2]))
    expected = relevance_of(unfused(ZPlus(stabilizer=E)), merged, images, itself)
    assert_same(relevance_of(fused(ZPlus(stabilizer=E)), model, images, itself).detach(), expected.detach(), 1e-9)


@training
def test_a_backward_hook_does_not_hide_a_layer_from_its_batch_norm(training, generator):
    model, images = make((nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3)), (2, 5, 4), generator, training)
    expected = relevance_of(fused(ZPlus(stabilizer=E)), copy.deepcopy(model), images, itself)
    model[0].register_full_backward_hook(lambda *_: None)
    assert_same(relevance_of(fused(ZPlus(stabilizer=E)), model, images, itself).detach(), expected.detach())


@training
def test_batch_norms_on_both_sides_of_a_layer(training, generator):
    layers = (nn.BatchNorm2d(2), nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3))
    model, images = make(layers, (2, 5, 4), generator, training)
    before = merged_before(model[0], model[1], images)
    merged = merged_after(before, model[2], images)
    expected = relevance_of(unfused(ZPlus(stabilizer=E)), merged, images, itself)
    assert_same(relevance_of(fused(ZPlus(stabilizer=E)), model, images, itself).detach(), expected.detach(), 1e-9)
    seed = torch.randn(model(images).shape, generator=generator, dtype=torch.float64)
    assert_exact_gradients(
        lambda: weighted_square(relevance_of(fused(ZPlus(stabilizer=E)), model, images, seed)),
        {"parameters": list(model.parameters())},
        generator,
    )


@training
def test_a_layer_without_a_rule_has_the_gradient_of_the_merged_layer(training, generator):
    """Statistics of the batch are constant on the way back, as they are in a merged layer."""
    model, images = make((nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.ReLU()), (2, 4, 3), generator, training)
    merged = nn.Sequential(merged_after(model[0], model[1], images), nn.ReLU())
    source = images.clone().requires_grad_()
    (expected,) = torch.autograd.grad(merged(source).square().sum() / 2, source)
    for norm_rule in ([(BatchNorm, Pass())], []):
        composite = differentiable(LayerMapComposite(norm_rule), canonizers=[FuseBatchNorm()])
        assert_same(relevance_of(composite, model, images, itself).detach(), expected, 1e-9)
    assert_exact_gradients(
        lambda: weighted_square(relevance_of(composite, model, images, itself)),
        {"parameters": list(model.parameters())},
        generator,
    )


class BetweenLayerAndNorm(nn.Module):
    """Something happens to a layer's output before the BatchNorm reads the same tensor."""

    def __init__(self, between):
        super().__init__()
        self.layer, self.norm, self.head, self.between = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3), between

    def forward(self, x):
        y = self.layer(x)
        return self.head(self.norm(self.between(y, x)).relu())


BETWEEN = {
    "in-place sum": lambda y, x: y.add_(x),
    "sum": lambda y, x: y + x,
    "in-place activation": lambda y, x: F.relu(y, inplace=True),
    "view": lambda y, x: y.view(-1, 4),
}


@pytest.mark.parametrize("between", BETWEEN)
def test_nothing_is_merged_across_an_operation(between, generator):
    (model,), images = make((BetweenLayerAndNorm(BETWEEN[between]),), (4,), generator)
    expected = relevance_of(unfused(Epsilon(epsilon=E)), copy.deepcopy(model), images, itself)
    assert_same(relevance_of(fused(Epsilon(epsilon=E)), model, images, itself).detach(), expected.detach())


def test_channels_of_a_sequence_are_not_features_of_its_elements(generator):
    """``Linear`` works on the last dimension of ``(N, C, F)``, BatchNorm on the second."""
    model, images = make((nn.Linear(3, 3), nn.BatchNorm1d(3)), (3, 3), generator)
    expected = relevance_of(unfused(Epsilon(epsilon=E)), copy.deepcopy(model), images, itself)
    assert_same(relevance_of(fused(Epsilon(epsilon=E)), model, images, itself).detach(), expected.detach())


def test_frozen_batch_norms_of_torchvision_are_merged_in_any_mode(generator):
    model, images = make((nn.Conv2d(2, 3, 2), FrozenBatchNorm2d(3)), (2, 4, 3), generator, training=True)
    norm = nn.BatchNorm2d(3).double().eval()
    norm.load_state_dict({**norm.state_dict(), **model[1].state_dict()})
    expected = relevance_of(fused(ZPlus(stabilizer=E)), nn.Sequential(model[0], norm), images, itself)
    assert_same(relevance_of(fused(ZPlus(stabilizer=E)), model, images, itself).detach(), expected.detach())


def test_canonizers_of_zennit_merge_what_they_name(generator):
    layers = (nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4), nn.BatchNorm1d(4))
    model, images = make(layers, (4,), generator)
    for norm in (model[1], model[4]):
        norm.eps = 0
    layer_map = [(BatchNorm, Pass()), (Activation, Pass()), (Linear, ZPlus(stabilizer=E))]
    canonizers = {
        "all": [SequentialMergeBatchNorm()],
        "first": [NamedMergeBatchNorm([(["0"], "1")])],
        "last": [NamedMergeBatchNorm([(["3"], "4")])],
    }
    found = {}
    for name, merging in canonizers.items():
        stock = LayerMapComposite(layer_map, canonizers=merging)
        expected = relevance_of(stock, copy.deepcopy(model), images, torch.Tensor.detach, create_graph=False)
        found[name] = relevance_of(differentiable(stock), model, images, itself).detach()
        assert_same(found[name], expected)
    assert not torch.allclose(found["first"], found["last"])


@training
def test_statistics_move_as_in_one_plain_forward(training, generator):
    model, images = make((nn.BatchNorm2d(2), nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3)), (2, 4, 3), generator, training)
    plain = copy.deepcopy(model)
    plain(images)
    relevance = relevance_of(fused(ZPlus()), model, images, itself)
    weighted_square(relevance).backward()
    assert changed_values(model, values_of(plain)) == []


def test_the_mode_is_that_of_the_forward_pass(generator):
    model, images = make((nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3)), (2, 4, 3), generator, training=True)
    expected = relevance_of(fused(ZPlus(stabilizer=E)), copy.deepcopy(model), images, itself)
    with fused(ZPlus(stabilizer=E)).context(model):
        source = images.requires_grad_()
        output = model(source)
        model.eval()
        (relevance,) = torch.autograd.grad(output, source, output)
    assert_same(relevance, expected.detach())


def test_fused_nets_of_both_kinds_do_not_share_anything(generator):
    """Two registrations on two models, with passes that interleave."""
    first, second = nets.make("residual", generator), nets.make("concatenating", generator)
    images = nets.make_images(generator).requires_grad_()
    expected = [relevance_of(fused(ZPlus()), model, images, itself) for model in (first, second)]
    with fused(ZPlus()).context(first), fused(ZPlus()).context(second):
        outputs = [first(images), second(images)]
        relevance = [torch.autograd.grad(output, images, output)[0] for output in outputs]
    for one, other in zip(relevance, expected, strict=True):
        assert_same(one, other.detach())
