"""Errors at every point of a call: the model is as it was, and the next call is that of a new regularizer."""

from __future__ import annotations

import copy
import gc
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import torch
from regularizer_models import CLASSES, ModelState, batch, on_images, tiny_net
from torch import Tensor, nn
from torch.nn import functional as F

from zennit_isnet import EpsilonZBox, HeatmapLoss, ISNetRegularizer, LRPAttribution, LRPFlex, Selective, ZPlus
from zennit_isnet.gradients import IntegratedGradients

pytestmark = pytest.mark.filterwarnings("ignore::zennit_isnet.errors.RelevanceRangeWarning")

ERRORS = (RuntimeError, KeyboardInterrupt, torch.OutOfMemoryError)


class Net(nn.Module):
    """A block with a functional activation around a chain of modules."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.tail = tiny_net()[:6], nn.Conv2d(8, 8, 3)
        self.neck, self.head = nn.Identity(), nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        features = F.relu(self.tail(self.stem(images)))
        return self.head(self.neck(features).mean((2, 3)))


class Fault:
    """What the parts of a call pass through; raises there while it is armed."""

    def __init__(self) -> None:
        self.error: type[BaseException] | None = None
        self.hits = 0

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        if self.error is not None:
            self.hits += 1
            raise self.error("simulated")

    @contextmanager
    def armed(self, error: type[BaseException]) -> Iterator[None]:
        self.error, self.hits = error, 0
        try:
            yield
        finally:
            self.error = None

    # the user's parts, which all do what the defaults do

    def loss(self, *args: Any) -> Tensor:
        self()
        return HeatmapLoss()(*args)

    def formulation(self, logits: Tensor) -> Tensor:
        self()
        return Selective()(logits)

    def late_formulation(self, logits: Tensor) -> Tensor:
        """Fails in the gradient of its seeds only."""
        seeds = Selective()(logits)
        if seeds.requires_grad:
            seeds.register_hook(lambda grad: self())
        return seeds

    def module_rule(self, module: nn.Module, input: Tensor, output: Tensor, signal: Tensor) -> Tensor:
        self()
        return signal

    def handler(self, mode: Any, func: Any, *args: Any, **kwargs: Any) -> Tensor:
        self()
        return func(*args, **kwargs)


Parts = dict[str, Any]
COMPOSITES: dict[str, Callable[[], Parts]] = {
    "LRPFlex": lambda: {"composite": LRPFlex(), "layers": "auto"},
    "z^B": lambda: {"composite": LRPFlex(box=(0.0, 1.0)), "layers": ("stem",)},
    "EpsilonZBox": lambda: {"composite": EpsilonZBox(box=(0.0, 1.0)), "layers": ()},
    "Dual": lambda: {"attribution": LRPAttribution((LRPFlex(), ZPlus()), ("stem",))},
    "gradients": lambda: {"attribution": IntegratedGradients(steps=2)},
}
RULES: dict[str, Callable[[Fault], Parts]] = {
    "the rule of a module, in the backward pass": lambda fault: {
        "composite": LRPFlex(modules={nn.Identity: fault.module_rule})
    },
    "the rule of a function": lambda fault: {"composite": LRPFlex(rules={F.relu: fault.handler})},
    "the formulation": lambda fault: {"formulation": fault.formulation},
    "the loss": lambda fault: {"loss": fault.loss},
}

CALLS: dict[str, Callable[[ISNetRegularizer], Any]] = {
    "training call": lambda regularizer: regularizer(*batch(2, 12)),
    "call without gradients": lambda regularizer: torch.no_grad()(regularizer)(*batch(2, 12)),
    "heatmap": lambda regularizer: regularizer.heatmap(batch(2, 12)[0]),
    "calibrate": lambda regularizer: regularizer.calibrate([batch(4, 12)[0]], progress=False),
}


def step_of(regularizer: ISNetRegularizer) -> list[Tensor]:
    """Logits, penalty and gradients of one training step, which leaves the model's gradients alone."""
    torch.manual_seed(0)
    logits, penalty = regularizer(*batch(2, 12))
    parameters = list(regularizer.model.parameters())
    gradients = torch.autograd.grad(penalty + logits.square().sum(), parameters, materialize_grads=True)
    return [logits.detach(), penalty.detach(), *gradients]


def check_recovery(
    regularizer: ISNetRegularizer,
    call: Callable[..., Any],
    error: type[BaseException],
    fault: Fault,
    make: Callable[..., Any],
) -> None:
    """A call fails; the model is as before, and the next step that of a new regularizer."""
    before = ModelState(regularizer.model)
    with fault.armed(error), pytest.raises(error, match="simulated"):
        call(regularizer)
    assert fault.hits == 1
    assert before.differences(ModelState(regularizer.model)) == []
    fresh = make(copy.deepcopy(regularizer.model))
    fresh.ranges = regularizer.ranges
    assert all(map(torch.equal, step_of(regularizer), step_of(fresh)))


@contextmanager
def faulty(module: nn.Module, place: str, fault: Fault) -> Iterator[None]:
    """Let a module, or a hook of the user's on it, pass through a fault."""
    if place != "forward":
        handle = getattr(module, f"register_{place}")(lambda *_: fault())
        yield
        handle.remove()
        return
    kind = type(module)
    # by its class, which a copy of the model shares
    module.__class__ = type(
        kind.__name__, (kind,), {"forward": lambda self, *args: (fault(), kind.forward(self, *args))[1]}
    )
    yield
    module.__class__ = kind


PATHS = [name for name, _ in Net().named_modules()]


PLACES = [(name, "forward") for name in COMPOSITES] + [("LRPFlex", "forward_pre_hook"), ("LRPFlex", "forward_hook")]


@pytest.mark.parametrize(("name", "place"), PLACES)
def test_an_error_in_any_module_or_hook_in_training(name, place):
    parts, regularizer, fault = COMPOSITES[name], on_images(Net(), **COMPOSITES[name]()), Fault()
    for path, error in zip(PATHS, itertools.cycle(ERRORS), strict=False):
        with faulty(regularizer.model.get_submodule(path), place, fault):
            check_recovery(regularizer, CALLS["training call"], error, fault, lambda model: on_images(model, **parts()))


@pytest.mark.parametrize("call", [CALLS[name] for name in CALLS if name != "training call"], ids=list(CALLS)[1:])
@pytest.mark.parametrize("parts", COMPOSITES.values(), ids=COMPOSITES)
def test_an_error_in_a_module_while_explaining(parts, call):
    regularizer, fault = on_images(Net(), **parts()), Fault()
    with faulty(regularizer.model.stem[4], "forward", fault):
        check_recovery(regularizer, call, KeyboardInterrupt, fault, lambda model: on_images(model, **parts()))


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("parts", RULES.values(), ids=RULES)
def test_an_error_in_a_part_of_the_users(parts, call):
    if parts is RULES["the loss"] and call in (CALLS["heatmap"], CALLS["calibrate"]):
        pytest.skip("has no loss")
    fault = Fault()
    regularizer = on_images(Net(), **parts(fault))
    for error in ERRORS:
        check_recovery(regularizer, call, error, fault, lambda model: on_images(model, **parts(fault)))


@pytest.mark.parametrize("parts", COMPOSITES.values(), ids=COMPOSITES)
def test_an_error_in_the_step_backwards(parts):
    """It comes after the call: buffers have moved, and nothing else."""
    fault = Fault()
    regularizer = on_images(Net(), **parts(), formulation=fault.late_formulation)
    logits, penalty = regularizer(*batch(2, 12))
    before = ModelState(regularizer.model)
    with fault.armed(KeyboardInterrupt), pytest.raises(KeyboardInterrupt, match="simulated"):
        (logits.sum() + penalty).backward()
    assert before.value_differences(ModelState(regularizer.model).values) == []
    regularizer.model.zero_grad()
    fresh = on_images(copy.deepcopy(regularizer.model), **parts())
    assert all(map(torch.equal, step_of(regularizer), step_of(fresh)))


@pytest.mark.slow
@pytest.mark.parametrize("parts", [COMPOSITES[name] for name in ("LRPFlex", "EpsilonZBox")])
def test_a_thousand_calls_of_which_every_seventh_fails_leave_nothing_behind(parts):
    model, fault = Net(), Fault()
    regularizer = on_images(model, **parts(), loss=fault.loss)
    hooked = [model.get_submodule(path) for path in PATHS]

    def census() -> tuple[int, ...]:
        gc.collect()
        objects = gc.get_objects()
        kinds = (Tensor, nn.Module, torch.utils.hooks.RemovableHandle, BaseException)
        hooks = sum(len(value) for m in model.modules() for name, value in vars(m).items() if name.endswith("hooks"))
        return *(sum(issubclass(type(item), kind) for item in objects) for kind in kinds), hooks

    def run(first: int, last: int) -> None:
        for index in range(first, last):
            if index % 7:
                logits, penalty = regularizer(*batch(2, 12))
                (logits.square().mean() + penalty).backward()
                continue
            place = hooked[index % len(hooked)] if index % 2 else nn.Identity()
            error = ERRORS[index % len(ERRORS)]
            with faulty(place, "forward", fault), fault.armed(error), suppress(error):
                regularizer(*batch(2, 12))
        del logits, penalty

    run(0, 50)
    before = census()
    run(50, 1000)
    assert census() == before
