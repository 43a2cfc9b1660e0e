"""Operations with a rule, each by name: plain values, conserved relevance, exact gradients."""

from __future__ import annotations

import finite_differences
import pytest
import torch
from one_case import WIDTH, attributed, error_of_parameter_gradients
from torch import Tensor, nn
from torch.nn import functional as F

from zennit_isnet import ISNetRegularizer, LRPFlex
from zennit_isnet.lrp.signal import activation
from zennit_isnet.lrp.signal.table import NAMES


def pooled(h: Tensor) -> Tensor:
    return h.mean((2, 3))


def grid(h: Tensor) -> Tensor:
    """Positions that depend on the images."""
    return torch.tanh(h[:, :2].movedim(1, -1))


def global_response_norm(net, h, x):
    """As ConvNeXt V2 has it, without its biases."""
    norm = h.norm(p=2, dim=(2, 3), keepdim=True)
    return net.weight[0, :, None, None] * (h * (norm / (norm.mean(1, keepdim=True) + 1e-6))) + h


def own_layer_norm(net, h, x):
    centred = h - h.mean(1, keepdim=True)
    return centred / torch.sqrt(h.var(1, keepdim=True, unbiased=False) + 1e-5)


def swish_gated(net, h, x):
    """As EVA's multilayer perceptron."""
    return F.silu(h) * net.second(x)


def spatial_gated(net, h, x):
    """As gMLP."""
    left, right = h.flatten(2).chunk(2, 1)
    return torch.cat([left * F.normalize(right, dim=-1), right], 1)


def modulated(net, h, x):
    """As FocalNet."""
    context = F.gelu(net.second(x))
    return h * (context * torch.sigmoid(pooled(h))[..., None, None])


def linear_attention(net, h, x):
    q, k, v = h.flatten(2).mT, net.second(x).flatten(2).relu(), h.flatten(2).mT
    return (q @ (k @ v) / 64).mT


def generalized_mean(net, h, x):
    return F.avg_pool2d(h.clamp(min=0.05).pow(3), 8).pow(1 / 3).flatten(1) - 0.05


OPERATIONS = {
    "minimum of two": lambda net, h, x: torch.minimum(h, net.second(x)),
    "smallest of the channels": lambda net, h, x: torch.cat([h.min(1, keepdim=True).values, h[:, 1:]], 1),
    "smallest of the pixels": lambda net, h, x: h.amin((2, 3)),
    "topk": lambda net, h, x: h.flatten(2).topk(5, -1).values,
    "sort": lambda net, h, x: h.sort(1).values,
    "T": lambda net, h, x: pooled(h).T.T,
    "mT": lambda net, h, x: h.mT,
    "tensordot": lambda net, h, x: torch.tensordot(pooled(h), net.weight, 1),
    "einsum": lambda net, h, x: torch.einsum("nchw,cd->ndhw", h, net.weight),
    "addmm": lambda net, h, x: torch.addmm(pooled(h), pooled(net.second(x)), net.weight),
    "addmm by keywords": lambda net, h, x: torch.addmm(input=pooled(h), mat1=pooled(h), mat2=net.weight),
    "lerp": lambda net, h, x: torch.lerp(h, net.second(x), 0.3),
    "lerp by a gate": lambda net, h, x: torch.lerp(h, net.second(x), torch.sigmoid(h)),
    "index_add": lambda net, h, x: h.index_add(1, torch.tensor([1, 1]), net.second(x)[:, :2]),
    "scatter_add": lambda net, h, x: torch.zeros_like(h).scatter_add(1, h.argsort(1), net.second(x)),
    "grid_sample": lambda net, h, x: F.grid_sample(h, grid(x), align_corners=False),
    "grid_sample at positions of a signal": lambda net, h, x: F.grid_sample(net.second(x), grid(h), align_corners=True),
    "normalize": lambda net, h, x: F.normalize(h),
    "local_response_norm": lambda net, h, x: F.local_response_norm(h, 3, alpha=0.5),
    "lp_pool2d": lambda net, h, x: F.lp_pool2d(h.relu() + h.relu().mean((1, 2, 3), keepdim=True), 2, 2),
    "generalized mean": generalized_mean,
    "three parts, by axis": lambda net, h, x: torch.concatenate([h[:, :2], net.second(x)[:, :4], h[:, 2:4]], axis=1),
    "parts, one of them empty": lambda net, h, x: torch.cat(tensors=[h, h.new_empty(0), net.second(x)], dim=-1),
    "parts of two types": lambda net, h, x: torch.cat([h[:, 1:], torch.zeros_like(h[:, :1].float())], 1),
    "glu": lambda net, h, x: torch.cat([F.glu(h, 1), h[:, :4]], 1),
    "softmin gate": lambda net, h, x: h * F.softmin(h, 1),
    "global response norm": global_response_norm,
    "layer norm written out": own_layer_norm,
    "the square as a product": lambda net, h, x: h * h,
    "two branches multiplied": lambda net, h, x: h * net.second(x),
    "matrix product of two signals": lambda net, h, x: h @ net.second(x),
    "bilinear pooling": lambda net, h, x: torch.einsum("nchw,nkhw->nk", h, h) / 64,
    "SwiGLU": swish_gated,
    "gMLP": spatial_gated,
    "FocalNet": modulated,
    "linear attention": linear_attention,
}

ACTIVATIONS = {
    "relu": torch.relu,
    "relu_": lambda h: torch.relu_(h * 1),
    "F.celu": lambda h: F.celu(h, 0.7),
    "celu_": lambda h: torch.celu_(h * 1),
    "F.elu": lambda h: F.elu(h, 0.7),
    "F.elu_": lambda h: F.elu_(h * 1),
    "F.gelu": lambda h: F.gelu(h) + F.gelu(h, approximate="tanh"),
    "F.hardswish": F.hardswish,
    "F.leaky_relu": lambda h: F.leaky_relu(h, 0.2),
    "F.leaky_relu_": lambda h: F.leaky_relu_(h * 1),
    "F.mish": F.mish,
    "F.prelu": lambda h: F.prelu(h, torch.linspace(0.1, 0.4, WIDTH, dtype=h.dtype)),
    "F.relu6": lambda h: F.relu6(9 * h),
    "F.rrelu": F.rrelu,
    "F.rrelu_": lambda h: F.rrelu_(h * 1),
    "F.selu": F.selu,
    "selu_": lambda h: torch.selu_(h * 1),
    "F.silu": F.silu,
    "hardshrink": lambda h: F.hardshrink(h, 0.1),
    "F.softshrink": lambda h: F.softshrink(h, 0.1),
    "F.softsign": F.softsign,
    "tanh": torch.tanh,
    "tanh_": lambda h: torch.tanh_(h * 1),
    "F.tanhshrink": F.tanhshrink,
    "torch.celu": torch.celu,
    "torch.selu": torch.selu,
    "square": torch.square,
    "square_": lambda h: (h * 1).square_(),
    "sqrt": lambda h: torch.sqrt(h.clamp(min=0.01)),
    "sqrt_": lambda h: torch.sqrt_(h.clamp(min=0.01)),
    "hardtanh": lambda h: F.hardtanh(h, -0.2, 0.3),
    "hardtanh_": lambda h: F.hardtanh_(h * 1, 0.0, 0.3),
    "clamp": lambda h: h.clamp(-0.2, 0.3),
    "clamp_": lambda h: (h * 1).clamp_(max=0.3),
    "clip": lambda h: h.clip(min=-0.2),
    "clip_": lambda h: (h * 1).clip_(-0.2, 0.3),
    "clamp_min": lambda h: h.clamp_min(0),
    "clamp_min_": lambda h: (h * 1).clamp_min_(-0.1),
    "clamp_max": lambda h: h.clamp_max(0.1),
    "clamp_max_": lambda h: (h * 1).clamp_max_(0.1),
    "threshold": lambda h: F.threshold(h, 0.1, 0.0),
    "threshold_": lambda h: F.threshold_(h * 1, 0.1, 0.0),
    "pow": lambda h: torch.pow(h, 2),
    "pow_": lambda h: (h * 1).pow_(3),
    "__pow__": lambda h: h**3,
    "__ipow__": lambda h: (h * 1).__ipow__(2),
    "F.lp_pool1d": lambda h: F.lp_pool1d((h.relu() + h.relu().mean((1, 2, 3), keepdim=True)).flatten(2), 2, 2),
    "F.lp_pool2d": lambda h: F.lp_pool2d(h.relu() + h.relu().mean((1, 2, 3), keepdim=True), 2, 2),
    "F.lp_pool3d": lambda h: F.lp_pool3d((h.relu() + h.relu().mean((1, 2, 3), keepdim=True))[:, :, None], 2, (1, 2, 2)),
}
"""By their names in the table of handlers."""

FLOORED = {"sqrt", "sqrt_"}
"""Activations above a floor, which takes a share as a bias does."""

CASES = OPERATIONS | {name: lambda net, h, x, f=f: f(h) for name, f in ACTIVATIONS.items()}


@pytest.mark.parametrize("case", CASES)
def test_values_are_the_plain_ones_and_relevance_is_conserved(case):
    _, plain, logits, relevance = attributed(CASES[case])
    torch.testing.assert_close(logits, plain, rtol=1e-12, atol=1e-14)
    assert relevance.abs().sum() > 0
    if case not in FLOORED | {"generalized mean"}:
        torch.testing.assert_close(relevance.flatten(1).sum(1), plain[:, 1], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("case", [name for name in CASES if "rrelu" not in name])
def test_parameter_gradients_agree_with_finite_differences(case, generator):
    try:
        error = error_of_parameter_gradients(CASES[case], generator)
    except RuntimeError as missing:
        if "grid_sampler_2d_backward is not implemented" not in str(missing):
            raise
        pytest.skip("this PyTorch has no second derivative of grid_sample")
    assert error < finite_differences.TOLERANCE


def test_every_activation_of_the_table_is_among_them():
    handlers = {f for f in vars(activation).values() if getattr(f, "__module__", "") == activation.__name__}
    named = {name for handler, names in NAMES if handler in handlers for name in names.split()}
    assert named == set(ACTIVATIONS)


def test_a_floor_takes_the_share_of_a_bias():
    _, _, _, floored = attributed(lambda net, h, x: h.clamp(min=0.1))
    _, _, _, shifted = attributed(lambda net, h, x: (h - 0.1).relu() + 0.1)
    torch.testing.assert_close(floored, shifted)


class Floor(nn.Module):
    """As in generalised mean pooling after a ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(min=0.1)


def test_an_exact_gate_is_closed_at_a_floor():
    images = torch.tensor([[-1.0, 0.1, 0.3]], requires_grad=True)
    with LRPFlex(epsilon=0).context(model := Floor()):
        (relevance,) = torch.autograd.grad(model(images).sum(), images)
    torch.testing.assert_close(relevance, torch.tensor([[0.0, 0.0, 0.3]]))


class Wrapped(nn.Module):
    """A classifier whose logits are in something."""

    def __init__(self, wrap) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
        )
        self.wrap = wrap

    def forward(self, images: Tensor):
        return self.wrap(self.layers(images))


class Output:
    """As libraries of transformers return it."""

    def __init__(self, logits: Tensor) -> None:
        self.hidden, self.logits = logits * 2, logits


@pytest.mark.filterwarnings("ignore::zennit_isnet.errors.RelevanceRangeWarning")
@pytest.mark.parametrize(
    ("wrap", "logits_in"),
    [
        (Output, lambda output: output.logits),
        (lambda y: {"features": y * 2, "logits": y}, lambda output: output["logits"]),
        (lambda y: {"out": y}, lambda output: output["out"]),
    ],
    ids=["object", "dict with logits", "dict with one entry"],
)
def test_logits_are_found_in_what_the_model_returns(wrap, logits_in):
    model, images, masks = Wrapped(wrap), torch.rand(2, 3, 8, 8), torch.ones(2, 1, 8, 8)
    masks[..., :4] = 0
    output, penalty = ISNetRegularizer(model, layers=())(images, masks)
    assert type(output) is type(wrap(torch.zeros(1)))
    torch.testing.assert_close(logits_in(output), model.layers(images))
    (logits_in(output).sum() + penalty).backward()
    assert model.layers[0].weight.grad is not None
    shown = ISNetRegularizer(model).heatmap(images)
    assert shown.shape == (2, 1, 3, 8, 8)
