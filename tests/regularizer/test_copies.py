"""Copies, pickles and files of a regularizer and of its parts, at any moment of a training."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path

import pytest
import torch
from regularizer_models import ModelState, batch, on_images, tiny_net
from torch import Tensor, multiprocessing, nn
from zennit.composites import EpsilonPlus

from zennit_isnet import EpsilonZBox, HeatmapLoss, ISNetRegularizer, LRPAttribution, LRPFlex, ZPlus, differentiable
from zennit_isnet import formulations as quantities
from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.gradients import GradCAM, GradientTimesInput, InputGradient, IntegratedGradients
from zennit_isnet.regularizer import EveryNth
from zennit_isnet.swap import BackgroundSwap

pytestmark = pytest.mark.filterwarnings("ignore::zennit_isnet.errors.RelevanceRangeWarning")


def through_a_file(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "torch.save": through_a_file,
}
all_ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
whole_ways = pytest.mark.parametrize("way", [WAYS[name] for name in WAYS if name != "copy"], ids=list(WAYS)[1:])


def half_rule(module: nn.Module, input: Tensor, output: Tensor, signal: Tensor) -> Tensor:
    return signal.view_as(input) / 2


COMPOSITES = {
    "LRPFlex": LRPFlex,
    "LRPFlex darkest": lambda: LRPFlex(reference="darkest"),
    "LRPFlex z^B": lambda: LRPFlex(box=(0.0, 1.0)),
    "LRPFlex own rules": lambda: LRPFlex(
        rules={torch.square: "activation", torch.Tensor.square: "gate"}, modules={nn.Flatten: half_rule}
    ),
    "EpsilonZBox": lambda: EpsilonZBox(box=([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]), epsilon=0.1),
    "ZPlus": ZPlus,
    "differentiable": lambda: differentiable(EpsilonPlus()),
}


def relevance_of(composite, model, images):
    return LRPAttribution(composite)(model, images, quantities.Target(1))[1]["input"]


def test_a_shallow_copy_explains_by_its_own_settings():
    composite, model, (images, _) = LRPFlex(), tiny_net().eval(), batch(2, 12)
    expected = relevance_of(LRPFlex(), model, images)
    twin = copy.copy(composite)
    twin.epsilon = 5.0
    assert torch.equal(relevance_of(twin, model, images), relevance_of(LRPFlex(epsilon=5.0), model, images))
    assert torch.equal(relevance_of(composite, model, images), expected)


@all_ways
@pytest.mark.parametrize("name", COMPOSITES)
@pytest.mark.parametrize("moment", ["new", "used", "registered"])
def test_a_copy_of_a_composite_has_its_settings_and_no_model(moment, name, way):
    composite, model, (images, _) = COMPOSITES[name](), tiny_net().eval(), batch(2, 12)
    expected = relevance_of(COMPOSITES[name](), model, images)
    if moment == "used":
        relevance_of(composite, model, images)
    elif moment == "registered":
        composite.register(model)
    if name == "differentiable" and way in (WAYS["pickle"], WAYS["torch.save"]):
        with pytest.raises(InvalidTypeError, match=r"differentiable\(EpsilonPlus.* cannot be pickled.*process"):
            way(composite)
        return
    twin = way(composite)
    composite.remove()
    assert torch.equal(relevance_of(twin, model, images), expected)
    assert torch.equal(relevance_of(composite, model, images), expected)


@whole_ways
@pytest.mark.parametrize("name", COMPOSITES)
def test_a_model_that_carries_rules_is_not_copied(name, way):
    """Nobody could take the rules off the copy again."""
    model, composite = tiny_net(), COMPOSITES[name]()
    regularizer, before = on_images(model), ModelState(model)
    with composite.context(model):
        for value in (model, regularizer):
            with pytest.raises(InvalidValueError, match=r"registered with it.*leave the composite's context"):
                way(value)
    assert before.differences(ModelState(model)) == []
    assert ModelState(way(model)).values.keys() == before.values.keys()


PARTS = [
    *(getattr(quantities, name)() for name in quantities.__all__ if name not in ("Formulation", "Target")),
    *(quantities.Target(1), quantities.Target(torch.tensor([0, 2])), quantities.Stochastic(torch.Generator())),
    *(HeatmapLoss(), HeatmapLoss(decay=0.9, foreground_variant="hybrid"), EveryNth(3, start=2)),
    *(InputGradient(), GradientTimesInput(), IntegratedGradients(steps=3), GradCAM("3")),
    *(LRPAttribution(), LRPAttribution((LRPFlex(), ZPlus()), "auto"), BackgroundSwap(generator=torch.Generator())),
]


@all_ways
@pytest.mark.parametrize("part", PARTS, ids=repr)
def test_each_part_can_be_copied(part, way):
    twin = way(part)
    assert twin is not part
    assert repr(twin) == repr(part)


REGULARIZERS = {
    "default": ISNetRegularizer,
    "own rules": lambda model: ISNetRegularizer(model, composite=COMPOSITES["LRPFlex own rules"]()),
    "EpsilonZBox": lambda model: ISNetRegularizer(model, composite=EpsilonZBox()),
    "Dual": lambda model: on_images(model, attribution=LRPAttribution((LRPFlex(), ZPlus()))),
    "gradient": lambda model: on_images(model, attribution=InputGradient()),
    "every third": lambda model: ISNetRegularizer(model, every=EveryNth(3, start=2)),
}


class Lit(nn.Module):
    """Holds a model and its regularizer, as a LightningModule does."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.model = tiny_net()
        self.regularizer = REGULARIZERS[name](self.model)
        self.penalties: list[float] = []

    def training_loss(self) -> Tensor:
        torch.manual_seed(1)
        logits, penalty = self.regularizer(*batch(4, 12))
        self.penalties.append(penalty.item())
        return logits.square().mean() + penalty


@whole_ways
@pytest.mark.parametrize("name", REGULARIZERS)
@pytest.mark.parametrize("moment", ["before a call", "while a penalty is alive", "after a step"])
def test_a_module_and_its_regularizer_are_copied_together_at_any_moment(moment, name, way):
    module = Lit(name)
    keys = list(module.state_dict())
    loss = None if moment == "before a call" else module.training_loss()
    if moment == "after a step":
        loss.backward()
        module.zero_grad()
    twin = way(module)
    assert twin.regularizer.model is twin.model is not module.model
    assert list(twin.state_dict()) == keys
    losses = [each.training_loss() for each in (module, twin)]
    assert torch.equal(*losses)
    assert module.penalties == twin.penalties
    for each in losses:
        each.backward()
    for parameter, other in zip(module.parameters(), twin.parameters(), strict=True):
        assert torch.equal(parameter.grad, other.grad)
        assert parameter is not other
    if moment == "while a penalty is alive":
        loss.backward()


def save_losses(rank: int, modules: list[Lit], file: Path) -> None:
    torch.save([module.training_loss().detach() for module in modules], file)


@pytest.mark.slow
def test_regularizers_travel_to_spawned_processes(tmp_path):
    modules = [Lit(name) for name in REGULARIZERS]
    alive = [module.training_loss() for module in modules]
    expected = [copy.deepcopy(module).training_loss().detach() for module in modules]
    multiprocessing.spawn(save_losses, args=(modules, tmp_path / "losses.pt"), nprocs=1)
    assert torch.equal(torch.stack(torch.load(tmp_path / "losses.pt")), torch.stack(expected))
    assert all(loss.requires_grad for loss in alive)
