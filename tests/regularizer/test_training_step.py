"""`logits, penalty = regularizer(images, masks)` in a training step."""

from __future__ import annotations

import copy

import pytest
import torch
from regularizer_models import (
    BUILDERS,
    CLASSES,
    Failing,
    ModelState,
    batch,
    on_images,
    regularizer_of,
    resnet,
    tiny_net,
)
from torch import nn
from torch.nn.functional import cross_entropy, interpolate
from torchvision import tv_tensors
from torchvision.models import googlenet

from zennit_isnet import HeatmapLoss, LRPAttribution, LRPFlex, Original, Stochastic
from zennit_isnet.calibration import RelevanceRange

pytestmark = pytest.mark.filterwarnings("ignore::zennit_isnet.errors.RelevanceRangeWarning")

LABELS = torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize("formulation", [None, Stochastic(), Original()], ids=repr)
def test_a_step_runs_the_model_once(formulation):
    model, (images, masks) = nn.Sequential(*tiny_net()), batch(size=8)
    calls = []
    model[3].register_forward_hook(lambda *_: calls.append(1))
    on_images(model, formulation=formulation)(images, masks)
    assert len(calls) == 1


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_the_penalty_gives_every_parameter_that_moves_the_logits_a_finite_gradient(name, training):
    model, (images, masks) = BUILDERS[name]().train(training), batch()
    _, penalty = regularizer_of(model)(images, masks)
    assert penalty.shape == ()
    assert penalty.requires_grad
    penalty.backward()
    for path, parameter in model.named_parameters():
        assert parameter.grad is not None, path
        assert parameter.grad.isfinite().all(), path
        assert parameter.grad.abs().sum() > 0, path


@pytest.mark.parametrize("name", BUILDERS)
def test_the_logits_train_the_model_as_those_of_a_plain_forward_do(name):
    model, (images, masks) = BUILDERS[name]().double(), batch()
    twin, images = copy.deepcopy(model), images.double()
    logits, _ = regularizer_of(model)(images.clone(), masks)
    plain = twin(images.clone())
    torch.testing.assert_close(logits, plain, rtol=1e-10, atol=1e-12)
    cross_entropy(logits, LABELS).backward()
    cross_entropy(plain, LABELS).backward()
    for (path, parameter), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-8, atol=1e-10, msg=lambda m, p=path: f"{p}: {m}")


def test_the_penalty_is_the_loss_of_the_heatmaps_with_the_range_in_use():
    model, (images, masks) = tiny_net().eval(), batch(size=8)
    regularizer = regularizer_of(model, loss=HeatmapLoss(decay=0.5))
    _, relevance = LRPAttribution()(model, images, regularizer.formulation)
    expected = HeatmapLoss(decay=0.5)(relevance["input"], masks, 0.01, 0.25).mean()
    torch.testing.assert_close(regularizer(images, masks)[1], expected)
    torch.testing.assert_close(regularizer.heatmap(images), relevance["input"].detach())


def test_without_calibration_the_range_is_that_of_the_authors():
    model, (images, masks) = tiny_net().eval(), batch(size=8)
    plain, explicit = on_images(model), on_images(model)
    explicit.ranges = {"input": RelevanceRange(1.0, 25.0)}
    assert torch.equal(plain(images, masks)[1], explicit(images, masks)[1])


def test_every_part_can_be_replaced():
    def attribution(model, images, formulation, *, create_graph=True):
        output = model(images)
        return output, {"deep": output[:, None, :, None, None] * formulation.weight, "input": images[:, None]}

    def formulation(logits):
        raise AssertionError("the attribution above does not ask for seeds")

    def loss(relevance, foreground, c1, c2):
        return relevance.flatten(1).sum(1) * c1

    formulation.weight = 3.0
    model, (images, masks) = tiny_net().eval(), batch(size=8)
    regularizer = on_images(model, attribution=attribution, formulation=formulation, loss=loss, layer_decay=1.0)
    regularizer.ranges = {"deep": RelevanceRange(2.0, 3.0), "input": RelevanceRange(5.0, 7.0)}
    logits, penalty = regularizer(images, masks)
    torch.testing.assert_close(penalty, (2 * 3 * logits.sum(1).mean() + 5 * images.flatten(1).sum(1).mean()) / 2)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_auxiliary_heads_come_back_as_the_model_returns_them(training):
    model = googlenet(num_classes=CLASSES, aux_logits=True, init_weights=False, dropout=0.0, dropout_aux=0.0)
    model.train(training)
    twin, (images, masks) = copy.deepcopy(model), batch(count=2, size=64)
    output, penalty = regularizer_of(model)(images, masks)
    plain = twin(images)
    assert type(output) is type(plain)
    torch.testing.assert_close(output, plain, rtol=1e-4, atol=1e-5)
    if training:
        assert output._fields == ("logits", "aux_logits2", "aux_logits1")
    penalty.backward()
    explained = [p.grad for name, p in model.named_parameters() if not name.startswith("aux")]
    assert all(grad is not None and grad.isfinite().all() for grad in explained)
    # the main head is explained: auxiliary heads do not take part
    assert all(p.grad is None or not p.grad.any() for name, p in model.named_parameters() if name.startswith("aux"))


def test_auxiliary_heads_come_back_without_a_graph_where_gradients_are_off():
    model = googlenet(num_classes=CLASSES, aux_logits=True, init_weights=False)
    images, masks = batch(count=2, size=64)
    with torch.no_grad():
        output, penalty = regularizer_of(model)(images, masks)
    assert output._fields == ("logits", "aux_logits2", "aux_logits1")
    assert not any(head.requires_grad for head in (*output, penalty))


def background_share(regularizer, images, masks) -> float:
    relevance = regularizer.heatmap(images).abs()
    return (relevance * (1 - masks).unsqueeze(1)).sum().item() / relevance.sum().item()


def test_a_few_steps_move_relevance_to_the_foreground():
    images, masks = batch(16, size=12)
    images *= 0.2
    labels = torch.arange(16) % CLASSES
    for index, label in enumerate(labels.tolist()):
        images[index, label, 4:8, 4:8] += 1  # on the object
        images[index, label, :2] -= 1  # in the background
    model = tiny_net()
    regularizer = on_images(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(10):
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()
    regularizer.calibrate([images], progress=False)
    before, penalties = background_share(regularizer, images, masks), []
    for _ in range(40):
        logits, penalty = regularizer(images, masks)
        optimizer.zero_grad()
        (0.3 * cross_entropy(logits, labels) + 0.7 * penalty).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        penalties.append(penalty.item())
    assert background_share(regularizer, images, masks) < 0.75 * before
    assert penalties[-1] < penalties[0] / 2


def test_without_gradients_the_penalty_is_a_plain_number_of_the_same_value():
    regularizer, (images, masks) = regularizer_of(tiny_net().eval()), batch(size=8)
    logits, penalty = regularizer(images, masks)
    with torch.no_grad():
        plain_logits, plain_penalty = regularizer(images, masks)
    assert not plain_penalty.requires_grad
    assert not plain_logits.requires_grad
    assert torch.equal(plain_penalty, penalty)
    assert torch.equal(plain_logits, logits)


def test_images_that_require_a_gradient_get_one():
    regularizer, (images, masks) = regularizer_of(tiny_net().eval()), batch(size=8)
    images.requires_grad_()
    _, penalty = regularizer(images, masks)
    assert images.grad is None
    penalty.backward()
    assert images.grad.abs().sum() > 0


def test_bfloat16_autocast_stays_close_to_float32():
    model, (images, masks) = resnet(), batch()
    regularizer = regularizer_of(model.eval())
    expected_logits, expected = regularizer(images, masks)
    expected.backward()
    expected_grad = model.layer2[0].conv1.weight.grad.clone()
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, penalty = regularizer(images, masks)
    penalty.backward()
    assert logits.dtype == torch.bfloat16
    assert penalty.dtype == torch.float32
    torch.testing.assert_close(logits.float(), expected_logits, rtol=0.05, atol=0.05)
    torch.testing.assert_close(penalty, expected, rtol=0.05, atol=0.0)
    grad = model.layer2[0].conv1.weight.grad
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert torch.cosine_similarity(grad.flatten(), expected_grad.flatten(), dim=0) > 0.9


@pytest.mark.parametrize("name", BUILDERS)
def test_channels_last_changes_nothing_but_the_memory_layout(name):
    model, (images, masks) = BUILDERS[name]().double().eval(), batch()
    images = images.double()
    twin = copy.deepcopy(model).to(memory_format=torch.channels_last)
    _, penalty = regularizer_of(model)(images.clone(), masks)
    _, other = regularizer_of(twin)(images.to(memory_format=torch.channels_last, copy=True), masks)
    penalty.backward()
    other.backward()
    torch.testing.assert_close(penalty, other, rtol=1e-8, atol=0.0)
    for parameter, of_twin in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, of_twin.grad, rtol=1e-6, atol=1e-10)


def test_tv_tensors_are_taken_and_plain_tensors_returned():
    regularizer, (images, masks) = regularizer_of(tiny_net().eval()), batch(size=8)
    logits, penalty = regularizer(tv_tensors.Image(images), tv_tensors.Mask(masks))
    expected_logits, expected = regularizer(images, masks)
    assert type(logits) is type(penalty) is torch.Tensor
    assert torch.equal(penalty, expected)
    assert torch.equal(logits, expected_logits)
    assert type(regularizer.heatmap(tv_tensors.Image(images))) is torch.Tensor


DTYPES = [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float32, torch.float64]


# each layout with each resolution; the dtype is an axis of its own
@pytest.mark.parametrize(
    ("dtype", "squeeze", "factor"), [(dtype, i % 2 == 1, 1 + i % 3) for i, dtype in enumerate(DTYPES)]
)
def test_masks_of_any_real_dtype_layout_and_resolution_say_the_same(dtype, squeeze, factor):
    regularizer, (images, masks) = regularizer_of(tiny_net().eval()), batch(size=8)
    _, expected = regularizer(images, masks)
    given = interpolate(masks, scale_factor=factor, mode="nearest").to(dtype)
    _, penalty = regularizer(images, given.squeeze(1) if squeeze else given)
    torch.testing.assert_close(penalty, expected)


def test_a_model_reused_by_two_regularizers_serves_both():
    model, (images, masks) = tiny_net().eval(), batch(size=8)
    first, second = regularizer_of(model), regularizer_of(model, composite=LRPFlex(epsilon=1.0))
    _, penalty = first(images, masks)
    _, other = second(images, masks)
    alone = copy.deepcopy(model)
    regularizer_of(alone)(images, masks)[1].backward()
    other.backward(retain_graph=True)
    model.zero_grad()
    penalty.backward()
    assert penalty.item() != other.item()
    for parameter, expected in zip(model.parameters(), alone.parameters(), strict=True):
        assert torch.equal(parameter.grad, expected.grad)


def test_a_failed_call_does_not_disturb_the_graph_of_the_one_before():
    failing = Failing(RuntimeError("out of luck"), successes=1)
    model = nn.Sequential(*tiny_net(), failing)
    twin, (images, masks) = copy.deepcopy(model), batch(size=8)
    regularizer = regularizer_of(model)
    _, penalty = regularizer(images, masks)
    with pytest.raises(RuntimeError, match="out of luck"):
        regularizer(images, masks)
    penalty.backward()
    regularizer_of(twin)(images, masks)[1].backward()
    assert ModelState(model).value_differences(ModelState(twin).values) == []
    for parameter, expected in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(parameter.grad, expected.grad)


def test_a_deep_copy_of_model_and_regularizer_trains_on_its_own():
    model, (images, masks) = tiny_net(), batch(size=8)
    composite = LRPFlex(box=(0.0, 1.0), rules={torch.sin: "activation"}, modules={nn.Hardtanh: "activation"})
    formulation = Stochastic(torch.Generator().manual_seed(0))
    regularizer = regularizer_of(model, composite=composite, formulation=formulation)
    twin, copied = copy.deepcopy((model, regularizer))
    assert copied.model is twin
    penalty, other = (part(images, masks)[1] for part in (regularizer, copied))
    assert other.item() == penalty.item()
    other.backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert any(parameter.grad.abs().sum() > 0 for parameter in twin.parameters())
