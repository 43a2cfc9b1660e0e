"""Buffers, and the random state, after a call: those of one plain forward, or of none; however `forward` moves them.

Modes make no difference to these modules: they count and average in eval mode too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from regularizer_models import CLASSES, ModelState, batch
from torch import Tensor, nn

from zennit_isnet import EpsilonZBox, ISNetRegularizer, LRPAttribution, LRPFlex, Target, check
from zennit_isnet.audit import audit
from zennit_isnet.gradients import InputGradient, IntegratedGradients

pytestmark = pytest.mark.filterwarnings("ignore::zennit_isnet.errors.RelevanceRangeWarning")


def in_place(module: nn.Module, seen: Tensor) -> None:
    module.ema.mul_(0.9).add_(seen.detach(), alpha=0.1)
    module.calls.add_(1)


def rebound(module: nn.Module, seen: Tensor) -> None:
    module.ema = 0.9 * module.ema + 0.1 * seen.detach()
    module.calls = module.calls + 1


def data_exchanged(module: nn.Module, seen: Tensor) -> None:
    module.ema.data = 0.9 * module.ema + 0.1 * seen.detach()
    module.calls.data += 1


def in_place_with_a_graph(module: nn.Module, seen: Tensor) -> None:
    module.ema.mul_(0.9).add_(seen, alpha=0.1)
    module.calls.add_(1)


def growing(module: nn.Module, seen: Tensor) -> None:
    module.ema = torch.cat([module.ema, seen.detach()])
    module.calls.resize_(len(module.ema)).fill_(1)


def made_in_the_first_call(module: nn.Module, seen: Tensor) -> None:
    module.empty = seen.detach()
    module.register_buffer("another", seen.detach(), persistent=True)
    module.ema.add_(1)


class Moving(nn.Module):
    """Moves its buffers at each forward pass; two of them share one tensor, and one cannot be written to."""

    def __init__(self, move: Callable[[nn.Module, Tensor], None]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution, self.norm, self.head = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.Linear(8, CLASSES)
        self.move = move
        self.register_buffer("ema", torch.rand(8))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("empty", None)
        self.register_buffer("ones", torch.ones(1).expand(8))
        self.norm.register_buffer("shared", self.ema)

    def forward(self, images: Tensor) -> Tensor:
        features = self.norm(self.convolution(images)).relu()
        self.move(self, features.mean((0, 2, 3)))
        return self.head(features.mean((2, 3)))


MOVES = (in_place, rebound, data_exchanged, in_place_with_a_graph, growing, made_in_the_first_call)
all_moves = pytest.mark.parametrize("move", MOVES, ids=lambda move: move.__name__)


def failing(*args):
    raise KeyboardInterrupt


FAILING_RULE = LRPFlex(modules={nn.Conv2d: failing})


def explain_with(attribution):
    return lambda model, images: ISNetRegularizer(model, attribution=attribution).heatmap(images)


def audited(model: nn.Module, images: Tensor) -> None:
    masks = batch(len(images), 12)[1]
    audit(
        model, [(image, mask, i % 2) for i, (image, mask) in enumerate(zip(images, masks, strict=True))], progress=False
    )


EXPLANATIONS = {
    "check": lambda model, images: check(model, images),
    "heatmap": lambda model, images: ISNetRegularizer(model).heatmap(images),
    "heatmap by relevance": explain_with(LRPAttribution(EpsilonZBox())),
    "heatmap by the gradient": explain_with(InputGradient()),
    "heatmap by many gradients": explain_with(IntegratedGradients(steps=2)),
    "calibrate": lambda model, images: ISNetRegularizer(model).calibrate([images, images], progress=False),
    "audit": audited,
}
ERRORS = {
    "in a heatmap": lambda model, images: ISNetRegularizer(model).heatmap(images, failing),
    "in calibrate": lambda model, images: ISNetRegularizer(model, formulation=failing).calibrate([images]),
    "in the loss": lambda model, images: ISNetRegularizer(model, loss=failing)(*batch(4, 12)),
    "in the formulation": lambda model, images: ISNetRegularizer(model, formulation=failing)(*batch(4, 12)),
    "in the backward pass": lambda model, images: ISNetRegularizer(model, composite=FAILING_RULE)(*batch(4, 12)),
}


@all_moves
@pytest.mark.parametrize("explain", EXPLANATIONS.values(), ids=EXPLANATIONS)
def test_what_is_no_training_step_leaves_the_same_buffers_with_the_same_values(explain, move):
    model, images = Moving(move), batch(4, 12)[0]
    before = ModelState(model)
    explain(model, images)
    assert before.differences(ModelState(model)) == []
    assert all(buffer.is_leaf for buffer in model.buffers())


@all_moves
@pytest.mark.parametrize("fail", ERRORS.values(), ids=ERRORS)
def test_an_error_leaves_the_same_buffers_with_the_same_values(fail, move):
    model, images = Moving(move), batch(4, 12)[0]
    before = ModelState(model)
    with pytest.raises(KeyboardInterrupt):
        fail(model, images)
    assert before.differences(ModelState(model)) == []
    assert all(buffer.is_leaf for buffer in model.buffers())


ATTRIBUTIONS = {
    "signal": None,
    "relevance": LRPAttribution(EpsilonZBox()),
    "gradient": InputGradient(),
    "many gradients": IntegratedGradients(steps=2),
}


@all_moves
@pytest.mark.parametrize("attribution", ATTRIBUTIONS.values(), ids=ATTRIBUTIONS)
def test_a_training_step_leaves_the_buffers_of_one_plain_forward(attribution, move):
    model, (images, masks) = Moving(move), batch(4, 12)
    plain = copy.deepcopy(model)
    plain(images)
    ISNetRegularizer(model, attribution=attribution)(images, masks)
    assert ModelState(plain).value_differences(ModelState(model).values) == []


class Noisy(Moving):
    """Draws in every mode."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images * (1 + 0.1 * torch.randn_like(images)))


@pytest.mark.parametrize("layers", ["auto", (), ("convolution",)], ids=str)
def test_a_model_that_draws_draws_the_same_and_hooks_fire_once(layers):
    model, (images, masks), fired = Noisy(in_place), batch(4, 12), []
    model.convolution.register_forward_hook(lambda *_: fired.append("forward hook"))
    torch.manual_seed(5)
    plain, later = model(images), torch.rand(3)
    fired.clear()
    regularizer = ISNetRegularizer(model, formulation=Target(0), layers=layers)
    for _ in range(2):
        torch.manual_seed(5)
        logits, _ = regularizer(images, masks)
        torch.testing.assert_close(logits, plain, rtol=1e-5, atol=1e-6)
        assert torch.equal(torch.rand(3), later)
        assert fired == ["forward hook"]
        fired.clear()
