"""Autocast, float16 and channels_last: the penalty stays close to the one in float32, finite, and in its layout."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, ResNet
from zennit.composites import EpsilonPlus

from zennit_isnet import EpsilonZBox, ISNetRegularizer, LRPFlex, Original, Selective, Stochastic, ZPlus, differentiable
from zennit_isnet.errors import InvalidTypeError
from zennit_isnet.formulations import AllLogits, SoftmaxGradient
from zennit_isnet.functional import gwrp, heatmap_loss
from zennit_isnet.gradients import GradientTimesInput
from zennit_isnet.lrp import FuseBatchNorm
from zennit_isnet.lrp.signal.activation import SMOOTH, Epsilon, Gate, ReLUGate, SmoothGate


def batch(size=64, count=4):
    torch.manual_seed(1)
    masks = torch.zeros(count, 1, size, size)
    masks[..., size // 4 : -size // 4, size // 4 : -size // 4] = 1
    return torch.rand(count, 3, size, size), masks


def resnet(num_classes):
    """torchvision's, with one block in each stage."""
    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes)


def smooth_net(num_classes):
    layers = [nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 8, 3), nn.GroupNorm(2, 8), nn.GELU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, num_classes))


def regularizer_of(model, epsilon=1e-2, size=64):
    regularizer = ISNetRegularizer(model, composite=LRPFlex(epsilon), formulation=Selective(), layers=())
    regularizer.calibrate([batch(size)[0]], progress=False)
    return regularizer


def gradient(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("make", [resnet, smooth_net])
def test_under_autocast_the_penalty_is_close_to_full_precision(make):
    torch.manual_seed(0)
    model = make(num_classes=3)
    regularizer, (images, masks) = regularizer_of(model), batch()
    _, expected = regularizer(images, masks)
    with torch.autocast("cpu", torch.bfloat16):
        logits, penalty = regularizer(images, masks)
        assert logits.dtype == torch.bfloat16
    assert penalty.dtype == torch.float32, "normalisation, ranking and logarithms are in float32"
    torch.testing.assert_close(penalty, expected, rtol=0.05, atol=0.0)
    penalty.backward()
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in model.parameters())
    assert gradient(model).isfinite().all()


STEPS = {
    "Selective": dict,
    "Original": lambda: {"formulation": Original()},
    "Stochastic": lambda: {"formulation": Stochastic(torch.Generator().manual_seed(0))},
    "Dual": lambda: {"composite": (LRPFlex(), ZPlus()), "formulation": AllLogits()},
    "z^B": lambda: {"composite": LRPFlex(box=(0.0, 1.0))},
    "inner layers": lambda: {"layers": ["5"]},
    "detached statistics": lambda: {"composite": LRPFlex(detach_statistics=True)},
    "EpsilonZBox": lambda: {"composite": EpsilonZBox((0.0, 1.0))},
    "differentiable": lambda: {"composite": differentiable(EpsilonPlus(), canonizers=[FuseBatchNorm()])},
    "GradientTimesInput": lambda: {"attribution": GradientTimesInput(), "formulation": SoftmaxGradient()},
}


def two_blocks():
    def block(channels):
        return nn.Conv2d(channels, 8, 3), nn.BatchNorm2d(8), nn.ReLU()

    return nn.Sequential(*block(3), *block(8), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("step", STEPS)
def test_under_autocast_every_kind_of_step_stays_close_to_full_precision(step, dtype):
    torch.manual_seed(0)
    model, (images, masks) = two_blocks(), batch(16)
    regularizer = ISNetRegularizer(model, **{"formulation": Selective(), **STEPS[step]()})
    regularizer.calibrate([images], progress=False)
    state = regularizer.state_dict()
    _, expected = regularizer(images, masks)
    regularizer.load_state_dict(state)
    with torch.autocast("cpu", dtype):
        logits, penalty = regularizer(images, masks)
    assert logits.dtype == dtype
    torch.testing.assert_close(penalty, expected, rtol=0.02 if dtype == torch.bfloat16 else 0.002, atol=0.0)
    penalty.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert any(grad.any() for grad in gradients)
    assert all(grad.isfinite().all() for grad in gradients)


def test_under_autocast_the_gradient_points_where_it_does_in_full_precision():
    # With ε = 0.01 no rounding is small: gates rise within 0.01, so that weights changed by 2⁻⁸ in float32 turn the
    # gradient of this model by 83°.
    torch.manual_seed(0)
    model = resnet(num_classes=3)
    regularizer, (images, masks) = regularizer_of(model, epsilon=1.0), batch()
    regularizer(images, masks)[1].backward()
    expected = gradient(model)
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        penalty = regularizer(images, masks)[1]
    penalty.backward()
    assert F.cosine_similarity(gradient(model), expected, dim=0) > 0.8


@pytest.mark.parametrize(("dtype", "tolerance"), [(None, 1e-4), (torch.float16, 0.05)], ids=["float32", "float16"])
def test_the_scaler_scales_the_whole_loss_and_nothing_inside_of_it(dtype, tolerance):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 900, 3))
    regularizer, (images, masks) = regularizer_of(model, size=32), batch(32)

    def loss():
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            logits, penalty = regularizer(images, masks)
            return 0.3 * F.cross_entropy(logits, torch.tensor([0, 1, 2, 0])) + 0.7 * penalty

    loss().backward()
    expected = gradient(model)
    model.zero_grad()
    scaler, optimizer = torch.amp.GradScaler("cpu", init_scale=1024.0), torch.optim.SGD(model.parameters(), 0.1)
    scaler.scale(loss()).backward()
    scaler.unscale_(optimizer)
    assert (gradient(model) - expected).norm() < tolerance * expected.norm()


def test_float16_without_autocast_is_refused_with_the_remedy():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2)).half()
    with pytest.raises(InvalidTypeError, match=r"torch\.autocast.*got images of torch\.float16"):
        ISNetRegularizer(model)(torch.rand(2, 3, 8, 8).half(), torch.ones(2, 1, 8, 8))


def test_a_model_and_images_in_bfloat16_work_without_autocast():
    torch.manual_seed(0)
    model, (images, masks) = two_blocks(), batch(16)
    regularizer = regularizer_of(model, size=16)
    _, expected = regularizer(images, masks)
    model.bfloat16()
    logits, penalty = regularizer(images.bfloat16(), masks)
    penalty.backward()
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(penalty, expected, rtol=0.05, atol=0.0)
    assert gradient(model).isfinite().all()


@pytest.mark.parametrize("epsilon", [Epsilon(1e-2), Epsilon(0.3, relative=True)], ids=["absolute", "relative"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gates_stay_finite_and_right_for_small_and_large_activations(dtype, epsilon):
    # an activation of 2·10⁴ times a signal of 10⁻³: their quotient is no number of float16
    values = torch.tensor([0.0, 1e-4, 1e-2, 1.0, 300.0, 2e4])
    signal = torch.full_like(values, 1e-3)
    grad = torch.ones_like(values)

    def relu_gate(dtype):
        operands = [t.to(dtype).requires_grad_() for t in (signal, values)]
        result = ReLUGate.apply(*operands, epsilon)
        return [result, *torch.autograd.grad(result, operands, grad.to(dtype))]

    def any_gate(dtype):
        operands = [t.to(dtype).requires_grad_() for t in (signal, values, values)]
        result = Gate.apply(*operands, epsilon)
        return [result, *torch.autograd.grad(result, operands, grad.to(dtype))]

    for gate in (relu_gate, any_gate):
        for value, expected in zip(gate(dtype), gate(torch.float64), strict=True):
            assert value.dtype == dtype
            torch.testing.assert_close(value.double(), expected, rtol=0.03, atol=1e-6)


@pytest.mark.parametrize("epsilon", [Epsilon(0), Epsilon(1e-2), Epsilon(0.3, relative=True)], ids=str)
@pytest.mark.parametrize("func", SMOOTH, ids=lambda func: func.__name__)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_smooth_gates_stay_finite_and_right_far_from_zero(dtype, func, epsilon):
    values = torch.tensor([0.0, 1e-3, 1.0, 30.0, 2e4])
    values = torch.cat([-values, values, torch.linspace(-8, 8, 65)]).to(dtype)
    signal = torch.full_like(values, 0.5)

    def gate(dtype):
        operands = [t.to(dtype).requires_grad_() for t in (signal, values)]
        result = SmoothGate.apply(*operands, SMOOTH[func], {}, epsilon)
        return [result, *torch.autograd.grad(result, operands, torch.ones_like(result))]

    rounding = torch.finfo(dtype).eps
    for value, expected in zip(gate(dtype), gate(torch.float64), strict=True):
        assert value.dtype == dtype
        torch.testing.assert_close(value.double(), expected, rtol=4 * rounding, atol=4 * rounding)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_loss_of_half_precision_heatmaps_is_taken_in_float32(dtype):
    images, masks = batch(16)
    # sums over these heatmaps overflow float16
    relevance = (300 * images.unsqueeze(1)).to(dtype)
    loss = heatmap_loss(relevance, masks, 1.0, 1e6)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, heatmap_loss(relevance.float(), masks, 1.0, 1e6))
    assert gwrp(relevance.flatten(2), 0.9).dtype == torch.float32


def test_channels_last_is_kept_through_the_whole_step():
    torch.manual_seed(0)
    model = resnet(num_classes=3)
    regularizer, (images, masks) = regularizer_of(model), batch()
    expected = regularizer(images, masks)[1]
    expected.backward()
    gradients = gradient(model)
    model.zero_grad()

    model.to(memory_format=torch.channels_last)
    seen = []
    handles = [
        m.register_forward_hook(lambda module, args, output: seen.append(output))
        for m in model.modules()
        if isinstance(m, (nn.Conv2d, nn.BatchNorm2d, nn.ReLU))
    ]
    penalty = regularizer(images.to(memory_format=torch.channels_last), masks)[1]
    penalty.backward()
    for handle in handles:
        handle.remove()
    assert len(seen) > 30
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in seen)
    assert all(p.grad.is_contiguous(memory_format=torch.channels_last) for p in model.parameters() if p.ndim == 4)
    torch.testing.assert_close(penalty, expected, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(gradient(model).norm(), gradients.norm(), rtol=1e-2, atol=0.0)


def test_the_signal_keeps_channels_last():
    torch.manual_seed(0)
    model = resnet(num_classes=3).to(memory_format=torch.channels_last)
    images = batch()[0].to(memory_format=torch.channels_last).requires_grad_()
    layers = []
    handle = [m.register_forward_hook(lambda *a: layers.append(a[-1])) for m in (model.layer1, model.layer3)]
    with LRPFlex().context(model):
        logits = model(images)
        signals = torch.autograd.grad(logits[:, 0].sum(), [images, *layers], create_graph=True)
    for h in handle:
        h.remove()
    assert all(s.is_contiguous(memory_format=torch.channels_last) for s in signals)
