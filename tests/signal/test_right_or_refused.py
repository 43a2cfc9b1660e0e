"""A forward pass that writes, views, branches and hooks as it likes: the relevance is right, or the pass is refused.

Right means: the logits are those of the plain model, and without biases and with ε → 0 the relevance sums to the logit.
"""

from __future__ import annotations

import re

import finite_differences
import pytest
import torch
from one_case import WIDTH, Net, attributed, error_of_parameter_gradients
from torch import Tensor, nn
from torch.nn import functional as F

from zennit_isnet import EpsilonZBox, LRPAttribution, LRPFlex, Target, ZPlus
from zennit_isnet.errors import UncoveredOperationError
from zennit_isnet.lrp.composite import LRPComposite


def gate(h: Tensor) -> Tensor:
    return torch.sigmoid(h.mean((2, 3)))


class InPlaceSwish(torch.autograd.Function):
    """As memory-efficient activations do it."""

    @staticmethod
    def forward(ctx, x):
        ctx.mark_dirty(x)
        ctx.save_for_backward(x.clone())
        return x.mul_(x.sigmoid())

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * x.sigmoid()


class Filled(torch.autograd.Function):
    """Makes its result in a tensor of its own."""

    @staticmethod
    def forward(ctx, x):
        result = torch.empty_like(x)
        result.copy_(x.sin())
        return result

    @staticmethod
    def backward(ctx, grad):
        return grad


def a_view_then_silu(net, h, x):
    view = h[:, :4]
    h = F.silu(h, inplace=True)
    return torch.cat([h[:, 4:], view], 1)


def a_view_then(function):
    def case(net, h, x):
        view = h.flatten(2)
        function(h)
        return view.mean(2)

    return case


def written_twice(net, h, x):
    view = h[:, :4]
    F.silu(view, inplace=True)
    h.mul_(2)
    return torch.cat([view, h[:, 4:]], 1)


def zeros_filled(net, h, x):
    placed = torch.zeros_like(h)
    placed[h > 0] = h[h > 0]
    return placed


def in_blocks(net, h, x):
    blocks = torch.empty_like(h)
    for i in range(2):
        blocks[:, 4 * i : 4 * i + 4] = h[:, 4 - 4 * i : 8 - 4 * i]
    return blocks


def inference_buffer(net, h, x):
    with torch.inference_mode():
        scale = torch.full((1, WIDTH, 1, 1), 2.0, dtype=h.dtype)
    return h.relu() * scale.clone()


def counted(net, h, x):
    with torch.no_grad():
        kept = (h > 0).sum().item()  # only looked at
    return h.relu() if kept >= 0 else h


RIGHT = {
    "in-place SiLU while a view is in use": a_view_then_silu,
    "in-place leaky ReLU while a view is in use": a_view_then(lambda h: F.leaky_relu(h, 0.1, inplace=True)),
    "in-place ReLU while a view is in use": a_view_then(torch.relu_),
    "in-place dropout while a view is in use": a_view_then(lambda h: F.dropout(h, 0.5, True, inplace=True)),
    "in-place clamp while a view is in use": a_view_then(lambda h: h.clamp_(-0.2, 0.2)),
    "in-place clamp from below while a view is in use": a_view_then(lambda h: h.clamp_(max=0.1)),
    "in-place masking while a view is in use": a_view_then(lambda h: h.masked_fill_(h < 0, 0)),
    "in-place activation of a part": lambda net, h, x: (F.hardswish(h[:, :4], inplace=True), h)[1],
    "in-place dropout of a part": lambda net, h, x: (F.dropout(h[:, :4], 0.5, True, inplace=True), h)[1],
    "in-place ReLU of a detached copy": lambda net, h, x: h * (h.detach().clone().relu_() > 0),
    "a part and the whole written": written_twice,
    "assigned by a mask of the images": zeros_filled,
    "assigned block by block": in_blocks,
    "a buffer of inference mode": inference_buffer,
    "a number read without a gradient": counted,
    "masked by a comparison": lambda net, h, x: h * (h > 0),
    "where with zeros": lambda net, h, x: torch.where(h > 0, h, torch.zeros_like(h)),
    "where with the number zero": lambda net, h, x: torch.where(h > 0, h, 0.0),
    "where between two signals": lambda net, h, x: torch.where(h > 0, h, net.second(x)),
    "gathered by an order of the images": lambda net, h, x: h.gather(1, h.argsort(1)),
    "the values that a decision chooses": lambda net, h, x: h.mean((2, 3)) * net.weight[h.mean((2, 3)).argmax(1)],
    "a gradient hook": lambda net, h, x: (h.register_hook(lambda grad: grad * 0.5), h)[1],
    "a hook that a user takes off again": lambda net, h, x: (h.register_hook(lambda grad: 0 * grad).remove(), h)[1],
    "a gate handed into batch norm as its weight": lambda net, h, x: F.batch_norm(
        h, h.new_zeros(WIDTH), h.new_ones(WIDTH), gate(h).mean(0)
    ),
}
"""Cases whose relevance is right."""

REFUSED = {
    "a gate over a part": (lambda net, h, x: (h[:, :4].sigmoid_(), h)[1], "sigmoid_"),
    "a gate while a view is in use": (a_view_then(torch.sigmoid_), "sigmoid_"),
    "a custom function that writes": (lambda net, h, x: InPlaceSwish.apply(h), "mul_"),
    "a custom function that fills its result": (lambda net, h, x: Filled.apply(h) * 1, "FilledBackward"),
    "written without a gradient": (lambda net, h, x: (torch.no_grad()(Tensor.clamp_)(h, -0.2, 0.2), h)[1], "clamp_"),
    "written through .data": (lambda net, h, x: (h.data.clamp_(min=0), h)[1], "clamp_"),
    "written through a detached alias": (lambda net, h, x: (h.detach().mul_(2), h)[1], "mul_"),
    "a view, written through .data": (lambda net, h, x: (h.data.clamp_(min=0), h.flatten(2) * 1)[1], "clamp_"),
    ".data exchanged": (lambda net, h, x: (setattr(h, "data", h.detach() * 2), h)[1], "__set__"),
    "a gate added by addmm": (lambda net, h, x: torch.addmm(gate(h), h.mean((2, 3)), net.weight), "addmm"),
    "a gate multiplied by addmm": (lambda net, h, x: torch.addmm(h.mean((2, 3)), gate(h), net.weight), "addmm"),
    "a gate added by addmv": (lambda net, h, x: torch.addmv(gate(h)[0], net.weight, h.mean((0, 2, 3)))[None], "addmv"),
    "a gate added by baddbmm": (
        lambda net, h, x: torch.baddbmm(gate(h)[:, None], h.mean((2, 3))[:, None], net.weight.expand(2, -1, -1))[:, 0],
        "baddbmm",
    ),
    "a signal as the bias of a convolution": (
        lambda net, h, x: F.conv2d(h, net.weight[:, :, None, None], bias=h.mean((0, 2, 3))),
        "conv2d",
    ),
    "a gate as the bias of a convolution": (
        lambda net, h, x: F.conv2d(h, net.weight[:, :, None, None], bias=gate(h).mean(0)),
        "conv2d",
    ),
    "a signal as the bias of a linear layer": (
        lambda net, h, x: F.linear(h.mean((2, 3)), net.weight, h.mean((0, 2, 3))),
        "linear",
    ),
    "a gate as the bias of batch norm": (
        lambda net, h, x: F.batch_norm(h, h.new_zeros(WIDTH), h.new_ones(WIDTH), None, gate(h).mean(0)),
        "batch_norm",
    ),
    "a signal as the weight of batch norm": (
        lambda net, h, x: F.batch_norm(h, h.new_zeros(WIDTH), h.new_ones(WIDTH), h.mean((0, 2, 3))),
        "batch_norm",
    ),
    "a mean of the images as running mean": (
        lambda net, h, x: F.batch_norm(h, h.detach().mean((0, 2, 3)), h.new_ones(WIDTH)),
        "batch_norm",
    ),
    "a running mean that the images moved": (
        lambda net, h, x: F.batch_norm(h, h.new_zeros(WIDTH).add_(h.detach().mean((0, 2, 3))), h.new_ones(WIDTH)),
        "batch_norm",
    ),
    "a gate as the bias of layer norm": (
        lambda net, h, x: F.layer_norm(h.mean((2, 3)), (WIDTH,), None, gate(h)[0]),
        "layer_norm",
    ),
    "a gate as the bias of group norm": (lambda net, h, x: F.group_norm(h, 2, None, gate(h)[0]), "group_norm"),
    "a gate as the bias of instance norm": (lambda net, h, x: F.instance_norm(h, bias=gate(h)[0]), "instance_norm"),
    "a gate as the slope of PReLU": (lambda net, h, x: F.prelu(h, gate(h)[0]), "prelu"),
    "a comparison added": (lambda net, h, x: h + (h > 0), "add"),
    "a comparison added as numbers": (lambda net, h, x: h + (h > 0).to(h.dtype), "add"),
    "a mask as a channel": (
        lambda net, h, x: torch.cat([h[:, 1:], (x.mean(1, keepdim=True) > 0).to(h.dtype)], 1),
        "cat",
    ),
    "the embedding of a decision": (
        lambda net, h, x: h.mean((2, 3)) + net.weight[h.mean((2, 3)).argmax(1)],
        "add",
    ),
    "a decision as one-hot": (
        lambda net, h, x: h.mean((2, 3)) + F.one_hot(h.mean((2, 3)).argmax(1), WIDTH).to(h.dtype),
        "add",
    ),
    "a sign by where": (lambda net, h, x: h + torch.where(h > 0, 1.0, -1.0), "add"),
    "where with another number": (lambda net, h, x: torch.where(h > 0, h, 1.0), "where"),
    "where with ones": (lambda net, h, x: torch.where(h > 0, h, torch.ones_like(h)), "where"),
    "a mask of the images filled with a number": (lambda net, h, x: h.masked_fill(h > 0, 1.0), "masked_fill"),
    "a number assigned by a mask of the images": (
        lambda net, h, x: (h := h * 1, h.__setitem__(h > 0, 1.0))[0],
        "__setitem__",
    ),
    "an order added": (lambda net, h, x: h.mean((2, 3)) + h.mean((2, 3)).argsort(1).to(h.dtype), "add"),
    "rounding division": (lambda net, h, x: torch.div(h, 0.1, rounding_mode="floor"), "div"),
    "a number of the images": (lambda net, h, x: h + h.mean().item(), "item"),
    "numbers of the images": (lambda net, h, x: h + torch.tensor(h.detach().mean((0, 2, 3)).tolist()).sum(), "tolist"),
    "two signals multiplied in place": (lambda net, h, x: (h * 1).mul_(net.second(x)), "mul_"),
    "a shift by a signal": (lambda net, h, x: torch.lerp(h, net.second(x), net.second(x)), "lerp"),
    "a threshold that is filled with a number": (lambda net, h, x: F.threshold(h, 0.1, 5.0), "threshold"),
    "clamp away from zero": (lambda net, h, x: h.clamp(0.1, 0.2), "clamp"),
    "clamp by tensors": (lambda net, h, x: h.clamp(min=h.new_zeros(1)), "clamp"),
    "a power of a signal's size": (lambda net, h, x: 2 ** net.second(x), "pow"),
}
"""Cases that are refused, and the operation that the message names."""


@pytest.mark.parametrize("case", RIGHT)
def test_the_logits_are_the_plain_ones_and_relevance_is_conserved(case):
    _, plain, logits, relevance = attributed(RIGHT[case])
    assert torch.equal(logits, plain)
    torch.testing.assert_close(relevance.flatten(1).sum(1), plain[:, 1], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_rule_is_refused_by_name(case):
    function, operation = REFUSED[case]
    with pytest.raises(UncoveredOperationError, match=rf"\(the model\) \(Net\): .*{re.escape(operation)}"):
        attributed(function)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
def test_a_scripted_function_that_writes_is_refused():
    @torch.jit.script
    def swish_(t):
        return t.mul_(torch.sigmoid(t))

    with pytest.raises(UncoveredOperationError, match="an unobserved operation has written to"):
        attributed(lambda net, h, x: swish_(h))


@pytest.mark.parametrize("case", [case for case in RIGHT if "dropout" not in case])
def test_parameter_gradients_of_the_relevance_agree_with_finite_differences(case, generator):
    assert error_of_parameter_gradients(RIGHT[case], generator) < finite_differences.TOLERANCE


@pytest.mark.parametrize("composite", [LRPFlex, EpsilonZBox, ZPlus])
def test_a_module_that_works_in_place_writes_to_the_views_in_use(composite):
    def case(net, h, x):
        view = h.flatten(2)
        net.activation(h)
        return view.mean(2)

    torch.manual_seed(0)
    net = Net(case).double()
    net.activation = nn.ReLU(inplace=True)
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    plain = net(images)
    logits, relevance = LRPAttribution(composite(epsilon=1e-12))(net, images, Target(1))
    assert torch.equal(logits, plain)
    if composite is not ZPlus:
        torch.testing.assert_close(relevance["input"].flatten(1).sum(1), plain[:, 1])


class TestHooks:
    """Hooks for gradients see gradients; what a hook does to the images is done before the pass or refused."""

    def relevance(self, net: Net, images: Tensor, composite: LRPComposite | None = None) -> Tensor:
        return LRPAttribution(composite or LRPFlex(1e-30))(net, images, Target(1))[1]["input"]

    @pytest.fixture
    def problem(self) -> tuple[Net, Tensor]:
        return Net(lambda net, h, x: h.relu()).double(), torch.randn(2, 3, 8, 8, dtype=torch.float64)

    @pytest.mark.filterwarnings("ignore:Full backward hook is firing")
    @pytest.mark.parametrize("composite", [LRPFlex, EpsilonZBox, ZPlus])
    @pytest.mark.parametrize("where", ["first", "head"])
    @pytest.mark.parametrize(
        "register",
        [
            lambda module, hook: module.register_full_backward_hook(lambda module, grads, _: hook(grads)),
            lambda module, hook: module.register_full_backward_pre_hook(lambda module, grads: hook(grads)),
            lambda module, hook: nn.modules.module.register_module_full_backward_hook(
                lambda module, grads, _: hook(grads)
            ),
        ],
        ids=["full_backward_hook", "full_backward_pre_hook", "global"],
    )
    def test_backward_hooks_of_modules_run_in_ordinary_passes_only(self, problem, where, register, composite):
        net, images = problem
        expected = self.relevance(net, images, composite())
        plain_gradient = torch.autograd.grad(net(images).sum(), net.first.weight)[0]
        calls = []

        def halve(grads):
            calls.append(1)
            return tuple(None if grad is None else grad * 0.5 for grad in grads)

        handle = register(getattr(net, where), halve)
        hooks = [dict(m._backward_hooks) for m in net.modules()]
        try:
            torch.testing.assert_close(self.relevance(net, images, composite()), expected)
            assert not calls
            assert [dict(m._backward_hooks) for m in net.modules()] == hooks
            torch.autograd.grad(net(images).sum(), net.first.weight)
            assert calls
        finally:
            handle.remove()
        assert torch.equal(torch.autograd.grad(net(images).sum(), net.first.weight)[0], plain_gradient)

    @pytest.mark.filterwarnings("ignore:Full backward hook is firing")
    @pytest.mark.parametrize("composite", [LRPFlex, EpsilonZBox, ZPlus])
    def test_a_fused_batch_norm_stays_fused_under_backward_hooks(self, composite):
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU()]
        model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).double()
        images = torch.rand(2, 3, 8, 8, dtype=torch.float64)
        expected = self.relevance(model, images, composite())
        for layer in model:
            layer.register_full_backward_hook(lambda module, grads, _: None)
        torch.testing.assert_close(self.relevance(model, images, composite()), expected)

    def test_hooks_of_tensors_see_no_relevance(self, problem):
        _, images = problem
        found = []
        for factor in (1.0, 0.5):
            torch.manual_seed(0)
            net = Net(lambda net, h, x, f=factor: (h.register_hook(lambda grad: f * grad), h.relu())[1]).double()
            found.append(self.relevance(net, images, EpsilonZBox()))
        torch.testing.assert_close(*found)

    def test_retained_gradients_hold_no_signal(self, problem):
        kept = []

        def case(net, h, x):
            h.retain_grad()
            kept.append(h)
            return h.relu()

        net, images = Net(case).double(), problem[1]
        with LRPFlex().context(net):
            images.requires_grad_()
            logits = net(images)
            torch.autograd.grad(logits.sum(), images, retain_graph=True)
        assert kept[-1].grad is None
        logits.sum().backward()
        assert kept[-1].grad is not None

    def test_a_global_hook_that_changes_the_images_is_refused(self, problem):
        net, images = problem
        handle = nn.modules.module.register_module_forward_pre_hook(
            lambda module, args: (args[0] * 2,) if isinstance(module, Net) else None
        )
        try:
            with pytest.raises(Exception, match="called with other images"):
                self.relevance(net, images)
        finally:
            handle.remove()

    def test_a_pre_hook_of_the_model_is_part_of_the_pass(self, problem):
        net, images = problem
        handle = net.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
        logits = net(images)
        torch.testing.assert_close(self.relevance(net, images).flatten(1).sum(1), logits[:, 1])
        handle.remove()

    def test_a_call_inside_of_a_context_is_refused_and_leaves_the_outer_pass_alone(self, problem):
        net, images = problem
        composite = LRPFlex(1e-30)
        images.requires_grad_()
        with composite.context(net):
            logits = net(images)
            for inner in (composite, LRPFlex()):
                with pytest.raises(ValueError, match="registered with the model"):
                    LRPAttribution(inner)(net, images.detach(), Target(1))
            with pytest.raises(ValueError, match="registered with this model already"):
                composite.register(net)
            (relevance,) = torch.autograd.grad(logits[:, 1].sum(), images)
        torch.testing.assert_close(relevance.flatten(1).sum(1), logits[:, 1])
