"""When arguments are checked, what a failing check leaves behind, and what is allowed although it looks odd."""

from __future__ import annotations

import copy

import pytest
import torch
from regularizer_calls import with_flags, with_images, with_loader, with_masks, with_parts
from regularizer_models import ModelState, WithOutput, batch, tiny_net

from zennit_isnet import HeatmapLoss, ISNetRegularizer, LRPFlex, Selective, Stochastic, box_from_normalization
from zennit_isnet.errors import InvalidTypeError, InvalidValueError, ISNetError

pytestmark = pytest.mark.filterwarnings("ignore::zennit_isnet.errors.RelevanceRangeWarning")


def test_a_wrong_argument_is_found_before_the_model_runs():
    model, (images, masks) = tiny_net(), batch(size=8)
    calls = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    for call, error in [
        (with_images(lambda x: x * torch.nan), InvalidValueError),
        (with_masks(torch.zeros_like), InvalidValueError),
        (with_flags([True]), InvalidValueError),
        (with_parts(composite=LRPFlex(box=(2.0, 3.0))), InvalidValueError),
        (with_loader(lambda x: [x.long()]), InvalidTypeError),
    ]:
        with pytest.raises(error):
            call(model, images, masks)
    assert calls == []


@pytest.mark.parametrize("output", [lambda y: {"a": y, "b": y}, lambda y: y[:, 0], lambda y: y.softmax(1)])
def test_a_model_that_does_not_return_logits_is_not_changed_by_the_call_that_finds_out(output):
    model, (images, masks) = WithOutput(output), batch(size=8)
    before = ModelState(model)
    with pytest.raises(ISNetError):
        ISNetRegularizer(model)(images, masks)
    assert before.differences(ModelState(model)) == []


def test_a_failing_load_keeps_the_former_state():
    regularizer = ISNetRegularizer(tiny_net(), formulation=Selective())
    regularizer.calibrate([batch(size=8)[0]], progress=False)
    before = copy.deepcopy(regularizer.ranges)
    for state in (
        {"ranges": [{"layer": None, "c1": 2.0, "c2": 1.0}], "formulation": {}},
        {"ranges": {}, "formulation": {"generator": torch.zeros(1)}},
    ):
        with pytest.raises(ISNetError):
            regularizer.load_state_dict(state)
        assert regularizer.ranges == before


@pytest.mark.parametrize("masks", [torch.ones(4, 1, 8, 8), torch.ones(4, 8, 8, dtype=torch.bool)])
def test_masks_without_background_are_allowed(masks):
    regularizer = ISNetRegularizer(tiny_net(), loss=HeatmapLoss(foreground_weight=0.0))
    assert regularizer(batch(size=8)[0], masks)[1].item() == 0


def test_rounding_of_the_normalisation_is_not_outside_of_the_box():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    composite = LRPFlex(box=box_from_normalization(mean, std))
    images, masks = batch(size=8)
    images[0], images[1] = 0.0, 1.0
    images = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert ISNetRegularizer(tiny_net(), composite=composite)(images, masks)[1].isfinite()


def test_one_logit_is_explained_by_the_formulation_that_can():
    model, (images, masks) = WithOutput(lambda y: y[:, :1]), batch(size=8)
    assert ISNetRegularizer(model, formulation=Stochastic())(images, masks)[1].isfinite()
