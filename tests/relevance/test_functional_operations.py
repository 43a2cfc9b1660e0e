"""Functional calls under `EpsilonZBox` and `ZPlus`: each hands relevance on, shares it, or is refused by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from explanations import assert_exact_gradients, assert_same, weighted_square
from rule_oracle import stab
from torch import Tensor, nn
from torch.nn import functional as F

from zennit_isnet import EpsilonZBox, LRPAttribution, LRPFlex, Target, ZPlus
from zennit_isnet.errors import UncoveredOperationError

E = 1e-12
COMPOSITES = {"epsilon": EpsilonZBox, "z+": ZPlus}
every_composite = pytest.mark.parametrize("kind", COMPOSITES)

Operation = Callable[["Branches", Tensor, Tensor], Tensor]


class Branches(nn.Module):
    """An operation on two branches ``a ≥ 0`` and ``b``, and a linear head; no biases but ``gain`` and ``mask``."""

    def __init__(self, operation: Operation, generator: torch.Generator) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.right = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.relu, self.pool, self.up = nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Upsample(scale_factor=2, mode="bilinear")
        self.head = nn.Linear(4, 3, bias=False)
        self.gain = nn.Parameter(torch.empty(4))
        self.operation = operation
        self.register_buffer("mask", torch.ones(6, 6))
        self.double()
        for parameter in self.parameters():
            parameter.data.normal_(generator=generator)
        self.mask[:2] = 0

    def forward(self, images: Tensor) -> Tensor:
        z = self.operation(self, self.relu(self.left(images)), self.right(images))
        return self.head(self.pool(z).flatten(1) if z.ndim == 4 else z)


def written(m: Branches, a: Tensor, b: Tensor) -> Tensor:
    z = torch.zeros_like(a)
    z[:, :2], z[:, 2:] = a[:, :2], b[:, 2:]
    return z


def accumulated(m: Branches, a: Tensor, b: Tensor) -> Tensor:
    b += a
    b *= 2
    return b.add_(a, alpha=0.5)


POSITIVE: dict[str, Operation] = {
    "mean": lambda m, a, b: a.mean((2, 3)),
    "mean by keyword": lambda m, a, b: torch.mean(input=a, dim=(-1, -2), keepdim=True),
    "sum": lambda m, a, b: a.sum((2, 3)),
    "sum of a stack": lambda m, a, b: torch.stack([a, b]).sum(0),
    "Python's sum": lambda m, a, b: sum([a, b]),
    "sum with alpha": lambda m, a, b: torch.add(a, b, alpha=0.5),
    "sum by keyword": lambda m, a, b: torch.add(input=a, other=b),
    "sum that broadcasts": lambda m, a, b: a + b.amax((2, 3), keepdim=True),
    "in place": accumulated,
    "cumsum": lambda m, a, b: a.cumsum(2),
    "fold": lambda m, a, b: F.fold(F.unfold(a, 3, padding=1), (6, 6), 3, padding=1),
    "nearest": lambda m, a, b: F.interpolate(a, scale_factor=2),
    "nearest by position": lambda m, a, b: F.interpolate(a, None, 2),
    "volumes": lambda m, a, b: F.avg_pool3d(a.unsqueeze(2), (1, 2, 2)).squeeze(2),
    "zeros": lambda m, a, b: 0 + a + (b + 0),
    "bilinear": lambda m, a, b: m.up(a) + m.up(b),
    "area": lambda m, a, b: F.interpolate(a, 4, mode="area"),
    "factor": lambda m, a, b: a / 2 + 3 * b,
    "mask": lambda m, a, b: a * m.mask,
    "gain": lambda m, a, b: a * m.gain.abs().view(-1, 1, 1),
    "quotient": lambda m, a, b: a / m.gain.abs().view(-1, 1, 1),
    "padding": lambda m, a, b: F.pad(F.pad(a, (1, 1, 1, 1)), (1, 1, 1, 1), mode="reflect"),
    "choices": lambda m, a, b: torch.where(a > 0.5, torch.maximum(a, b), torch.minimum(a, a.roll(1, 2))),
    "topk": lambda m, a, b: a.flatten(2).topk(3)[0].mean(2),
    "copies": lambda m, a, b: a.amax((2, 3), keepdim=True).expand(-1, -1, 2, 2).repeat_interleave(2, 3),
    "parts": lambda m, a, b: torch.cat([a[:, :2], a[:, 2:].flip(2)], 1).permute(0, 2, 3, 1).flatten(1, 2).mean(1),
    "written": written,
    "activation": lambda m, a, b: F.relu(b, inplace=True) + torch.relu(a),
    "dropout": lambda m, a, b: F.dropout(a, 0.3) + F.dropout2d(a * 2, 0.5, True, True),
    "backward hook": lambda m, a, b: (m.pool.register_full_backward_hook(lambda *_: None), a)[1],
}

NEGATIVE: dict[str, Operation] = {
    "minus": lambda m, a, b: -b,
    "difference": lambda m, a, b: a - b,
    "difference in place": lambda m, a, b: b.sub_(a),
    "reflected difference": lambda m, a, b: torch.rsub(a, b, alpha=2),
    "negative factor": lambda m, a, b: a * -3,
}
"""What `ZPlus` refuses: positive parts do not pass a minus."""


def make(operation: Operation, kind: str, generator: torch.Generator) -> tuple[Branches, Tensor]:
    model = Branches(operation, generator)
    if kind == "z+":
        # every output of a layer has a positive part, so that none of the relevance is lost
        for parameter in model.parameters():
            parameter.data.abs_()
    return model, torch.rand(2, 3, 6, 6, generator=generator, dtype=torch.float64)


def heatmap(model: nn.Module, images: Tensor, composite: object) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)  # dropout draws the same masks
    logits, relevance = LRPAttribution(composite)(model, images, Target(1))
    return logits, relevance["input"][:, 0]


@pytest.mark.parametrize(
    ("kind", "name"),
    [*((kind, name) for kind in COMPOSITES for name in POSITIVE), *(("epsilon", name) for name in NEGATIVE)],
)
def test_the_relevance_of_each_image_is_its_logit(kind: str, name: str, generator: torch.Generator) -> None:
    model, images = make((POSITIVE | NEGATIVE)[name], kind, generator)
    torch.manual_seed(0)
    plain = model(images).detach()
    logits, relevance = heatmap(model, images, COMPOSITES[kind](epsilon=E))
    torch.testing.assert_close(logits.detach(), plain, rtol=0, atol=0)
    assert plain[:, 1].abs().min() > 1e-3
    torch.testing.assert_close(relevance.flatten(1).sum(1), logits[:, 1], rtol=1e-8, atol=0)


def sum_with_alpha(a: Tensor, b: Tensor) -> Tensor:
    return torch.add(a, b, alpha=-0.5)


LINEAR = {
    "difference": torch.sub,
    "sum with alpha": sum_with_alpha,
    "sum of a stack": lambda a, b: torch.stack([a, b]).sum(0),
    "cumsum": lambda a, b: (a + b).cumsum(2),
    "bilinear": lambda a, b: F.interpolate(torch.cat([a, b], 2), 4, mode="bilinear"),
}


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_operation_shares_by_its_terms(name: str, generator: torch.Generator) -> None:
    """``R_i = a_i ∂/∂a_i Σ_k z_k R_k / stab(z_k)`` with the rule's ε = 0.01; of two operations one after the other."""
    model, images = make(lambda m, a, b: LINEAR[name](a, b), "epsilon", generator)
    a, b = model.relu(model.left(images)).detach(), model.right(images).detach()
    steps = [torch.add, lambda z: z.cumsum(2)] if name == "cumsum" else [LINEAR[name]]
    if name == "bilinear":
        steps = [lambda a, b: torch.cat([a, b], 2), lambda z: F.interpolate(z, 4, mode="bilinear")]
    steps.append(lambda z: z.mean((2, 3), keepdim=True))
    values: list[tuple[Tensor, ...]] = [(a, b)]
    for step in steps:
        values.append((step(*values[-1]),))
    pooled = values.pop()[0].flatten(1)
    y = model.head(pooled)[:, 1:2]
    upper = (pooled * (y / stab(y, 1e-2)) * model.head.weight[1]).view(2, 4, 1, 1).detach()
    for step, inputs in zip(reversed(steps), reversed(values), strict=True):
        inputs = tuple(value.detach().requires_grad_() for value in inputs)
        z = step(*inputs)
        scaled = upper if name == "bilinear" and len(inputs) == 2 else upper / stab(z, 1e-2)
        gradients = torch.autograd.grad(z, inputs, scaled.detach())
        copies = name == "bilinear" and len(inputs) == 2
        parts = gradients if copies else tuple(g * value for g, value in zip(gradients, inputs, strict=True))
        upper = parts[0].detach()
    expected = sum(
        images * F.conv_transpose2d(part / stab(layer(images), 1e-2), layer.weight, padding=1)
        for part, layer in zip(parts, (model.left, model.right), strict=True)
    )
    assert_same(heatmap(model, images, EpsilonZBox())[1].detach(), expected.detach())


@every_composite
def test_the_stabilizer_is_that_of_the_papers_by_default(kind: str) -> None:
    assert COMPOSITES[kind]().epsilon == 1e-2


@every_composite
def test_a_mean_over_positions_is_average_pooling(kind: str, generator: torch.Generator) -> None:
    model, images = make(POSITIVE["mean"], kind, generator)
    _, relevance = heatmap(model, images, COMPOSITES[kind]())
    model.operation = lambda m, a, b: a
    torch.testing.assert_close(relevance, heatmap(model, images, COMPOSITES[kind]())[1])


def with_bias(m: Branches, a: Tensor, b: Tensor) -> Tensor:
    return m.relu(b + m.gain.view(-1, 1, 1))


@every_composite
@pytest.mark.parametrize("operation", [with_bias, lambda m, a, b: m.relu(b - (-m.gain[:, None, None]).clone())])
def test_an_added_bias_takes_the_share_of_a_layers_own(
    kind: str, operation: Operation, generator: torch.Generator
) -> None:
    """Whether or not it can be trained."""
    model, images = make(operation, "epsilon", generator)
    composite = COMPOSITES[kind](epsilon=1e-9)
    _, trained = heatmap(model, images, composite)
    model.gain.requires_grad_(False)
    frozen = heatmap(model, images, composite)[1]
    assert torch.equal(trained, frozen)
    if kind == "epsilon":
        model.right.bias, model.operation = model.gain, lambda m, a, b: m.relu(b)
        assert_same(frozen.detach(), heatmap(model, images, composite)[1].detach(), 1e-5)


EXACT = ["mean", "sum", "sum with alpha", "cumsum", "bilinear", "in place", "gain", "dropout"]


@pytest.mark.parametrize(
    ("kind", "name"), [*((kind, name) for kind in COMPOSITES for name in EXACT), ("epsilon", "difference")]
)
def test_gradients_are_those_of_finite_differences(kind: str, name: str, generator: torch.Generator) -> None:
    model, images = make((POSITIVE | NEGATIVE)[name], kind, generator)
    images.requires_grad_()
    operation = model.operation
    model.operation = lambda m, a, b: operation(m, a, b + m.gain[:, None, None])
    composite = COMPOSITES[kind](epsilon=1e-2)
    groups = {"parameters": list(model.parameters()), "images": [images]}
    assert_exact_gradients(lambda: weighted_square(heatmap(model, images, composite)[1]), groups, generator)


class Triple(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return 3 * x

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return 3 * grad


class Named(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images)


REFUSED: dict[str, tuple[Operation, str]] = {
    "product": (lambda m, a, b: a * m.pool(b).sigmoid(), r"body \(Branches\): torch\.Tensor\.mul: multiplies"),
    "square": (lambda m, a, b: a**2, r"body \(Branches\): torch\.Tensor\.__pow__: no relevance rule"),
    "reciprocal": (lambda m, a, b: 1 / (a + 1), "divides by a tensor that carries relevance"),
    "floor": (lambda m, a, b: torch.div(a, 2, rounding_mode="floor") + a, r"torch\.div: no relevance rule"),
    "bicubic": (lambda m, a, b: F.interpolate(a, 4, mode="bicubic"), "interpolate: no relevance rule"),
    "convolution": (lambda m, a, b: F.conv2d(a, m.left.weight[:, :1], groups=4), "conv2d: no relevance rule"),
    "einsum": (lambda m, a, b: torch.einsum("nchw->nc", a), "einsum: no relevance rule"),
    "matmul": (lambda m, a, b: a @ m.mask, "matmul: no relevance rule"),
    "log_softmax": (lambda m, a, b: a.log_softmax(1), "log_softmax: no relevance rule"),
    "custom function": (lambda m, a, b: Triple.apply(a), r"body\.pool .*: reads .* unknown origin \(TripleBackward\)"),
    "a detached value": (
        lambda m, a, b: a + b.detach(),
        r"add.*: combines relevance with values",
    ),
    "a decision": (lambda m, a, b: a + (b > 0), r"add.*: combines relevance with values"),
    "a decision as a channel": (
        lambda m, a, b: torch.cat([a[:, 1:], (b[:, :1] > 0).to(a)], 1),
        r"cat.*: combines relevance with values",
    ),
    "written through data": (lambda m, a, b: a + torch.tanh(b).data.abs_(), r"add.*: combines relevance with values"),
    "its output": (lambda m, a, b: torch.sub(a, Triple.apply(b)), r"torch\.sub: reads .* origin \(TripleBackward\)"),
}


@every_composite
@pytest.mark.parametrize("name", REFUSED)
def test_operations_without_a_rule_are_refused_by_name(kind: str, name: str, generator: torch.Generator) -> None:
    operation, message = REFUSED[name]
    model, images = make(operation, kind, generator)
    with pytest.raises(UncoveredOperationError, match=message):
        heatmap(Named(model), images, COMPOSITES[kind]())


@pytest.mark.parametrize("name", NEGATIVE)
def test_positive_parts_do_not_pass_a_minus(name: str, generator: torch.Generator) -> None:
    model, images = make(NEGATIVE[name], "z+", generator)
    with pytest.raises(UncoveredOperationError, match=r"Branches\): torch\.\S+: has a minus sign"):
        heatmap(model, images, ZPlus())


in_both_orders = pytest.mark.parametrize(
    "composites", [(LRPFlex(), ZPlus()), (ZPlus(), LRPFlex())], ids=["", "reverse"]
)


@in_both_orders
@pytest.mark.parametrize("name", ["activation", "in place", "sum with alpha", "parts"])
def test_beside_lrp_flex_both_heatmaps_are_those_of_each_alone(
    name: str, composites: tuple[object, object], generator: torch.Generator
) -> None:
    model, images = make(POSITIVE[name], "epsilon", generator)
    _, relevance = LRPAttribution(composites)(model, images, Target(1))
    for composite, found in zip(composites, relevance.values(), strict=True):
        torch.testing.assert_close(found[:, 0], heatmap(model, images, composite)[1])


@in_both_orders
def test_beside_lrp_flex_what_only_that_covers_is_refused(
    composites: tuple[object, object], generator: torch.Generator
) -> None:
    model, images = make(REFUSED["convolution"][0], "epsilon", generator)
    with pytest.raises(UncoveredOperationError, match="conv2d: no relevance rule"):
        heatmap(model, images, composites)
