"""The audit of models whose behaviour is known: verdicts and figures are exactly right, and nothing is touched."""

from __future__ import annotations

import copy

import pytest
import torch
from audit_data import CORNER, OBJECT, Cued, Listed, one_logit, reader, reader_through_gates
from torch import nn
from torch.utils.data import DataLoader, Subset

from zennit_isnet import LRPAttribution, LRPFlex
from zennit_isnet.audit import AuditReport, audit
from zennit_isnet.errors import InvalidTypeError, InvalidValueError, UncoveredOperationError
from zennit_isnet.gradients import GradientTimesInput

AREA = 1 - 4 / 36


def run(model: nn.Module, data: object, **options: object) -> AuditReport:
    return audit(model, data, progress=False, **{"batch_size": 16, **options})


def test_reader_of_the_background_relies_on_it(background_reader: nn.Module, data: Cued) -> None:
    report = run(background_reader, data)
    assert report.verdict.outcome == "relies on the background"
    values = {version: report.accuracy(version).value for version in ("kept", "swapped", "same_class", "removed")}
    assert values == {"kept": 1, "swapped": 0, "same_class": 1, "removed": 1}
    assert report.accuracy("black").value == 0.5  # both logits are 0, so the first class is named
    assert (report.drop("swapped").value, report.drop("same_class").value) == (1, 0)
    assert report.share == 1
    assert report.area == pytest.approx(AREA)
    assert report.chance == 0.5
    assert [report.images[row].share for row in report.worst.rows] == [1] * 8


def test_reader_of_the_foreground_does_not(foreground_reader: nn.Module, data: Cued) -> None:
    report = run(foreground_reader, data)
    assert report.verdict.outcome == "no reliance found"
    for version in ("kept", "swapped", "same_class", "mean", "black"):
        assert report.accuracy(version).value == 1
        assert report.accuracy(version).count == len(data)
    assert report.share == 0
    assert report.area == pytest.approx(AREA)


def test_reader_of_the_background_through_gates_relies_on_it_with_clean_heatmaps(data: Cued) -> None:
    report = run(reader_through_gates(), data, attribution=LRPAttribution(LRPFlex(epsilon=0)))
    assert report.share == pytest.approx(0, abs=0.01)
    assert report.accuracy("kept").value == 1
    assert report.accuracy("swapped").value == 0
    assert report.verdict.outcome == "relies on the background"


def test_backgrounds_that_do_not_go_with_classes_clear_no_model(background_reader: nn.Module) -> None:
    data = Cued(count=400)
    help_most = torch.arange(400) % 20 < 12  # accuracy is 60 %, above chance
    row, column = CORNER
    data.images[~help_most, :, row, column] = torch.eye(3)[1 - data.labels[~help_most]]
    report = run(background_reader, data)
    assert report.drop("swapped").turned.value > 0.3
    assert report.verdict.outcome != "no reliance found"


@pytest.mark.parametrize("place", [CORNER, OBJECT])
def test_one_logit_gives_the_report_of_two(data: Cued, place: tuple[int, int]) -> None:
    two, one = run(reader(*place), data), run(one_logit(reader(*place)), data)
    assert one.verdict.outcome == two.verdict.outcome != "undecided"
    assert one.classes == ("0", "1")
    assert one.share == two.share
    assert [row.predictions["kept"] for row in one.images] == [row.predictions["kept"] for row in two.images]
    # each image's own class is predicted, so its cue speaks for the prediction, whatever the sign of the logit
    assert bool((one.random.relevance.flatten(1).sum(1) > 0).all())
    with pytest.raises(InvalidValueError, match="model's 2 classes; got 1"):
        run(one_logit(reader(*place)), data, classes=["sick"])


def test_class_table_counts_each_class_by_itself(data: Cued) -> None:
    # red in the corner names class 0; without any cue this model names class 1
    model = reader(*CORNER)
    with torch.no_grad():
        model[1].weight[1] = 0
        model[1].bias[1] = 0.5
    first, second = run(model, data, classes=["cat", "dog"]).by_class
    assert (first.name, first.images, first.accuracy, first.swapped_accuracy) == ("cat", 30, 1, 0)
    assert (second.name, second.images, second.accuracy, second.swapped_accuracy) == ("dog", 30, 1, 0)
    assert (first.background_share, second.background_share) == (1, None)
    assert first.background_area == pytest.approx(AREA)


def test_without_relevance_the_share_is_undefined_and_not_zero(data: Cued) -> None:
    model = reader(*CORNER)
    nn.init.zeros_(model[1].weight)
    report = run(model, data)
    assert report.share is None
    assert report.undefined == len(data)
    assert report.worst.rows == ()
    assert report.verdict.outcome == "undecided"
    assert "undefined for 60 images" in " ".join(report.to_markdown().split())
    assert report.to_dict()["background_share"] is None


def test_order_batch_size_and_a_shuffled_loader_change_nothing(background_reader: nn.Module, data: Cued) -> None:
    report = run(background_reader, data)
    assert run(background_reader, data, batch_size=7).images == report.images
    assert run(background_reader, DataLoader(data, 5, shuffle=True)).images == report.images
    assert (
        run(background_reader, data).random.rows
        == report.random.rows
        != run(background_reader, data, seed=1).random.rows
    )


def test_names_come_from_the_data_set_also_through_a_subset(background_reader: nn.Module, data: Cued) -> None:
    listed = Listed([data[i] for i in range(6)], [f"pets/{i}.png" for i in range(6)])
    report = run(background_reader, Subset(listed, [5, 2]), names=("my model", "pets"))
    assert [row.name for row in report.images] == ["pets/5.png", "pets/2.png"]
    assert (report.classes, report.model, report.data) == (("cat", "dog"), "my model", "pets")
    unnamed = run(background_reader, Subset(data, [5, 2]))
    assert [row.name for row in unnamed.images] == ["image 5", "image 2"]
    assert (unnamed.classes, unnamed.model, unnamed.data) == (("0", "1"), "Sequential", "Cued")


def test_images_without_mask_or_background_are_left_out_and_counted(background_reader: nn.Module, data: Cued) -> None:
    items = [(*data[i], True) for i in range(8)]
    items[1] = (items[1][0], torch.zeros_like(items[1][1]), items[1][2], False)
    items[2] = (items[2][0], torch.ones_like(items[2][1]), items[2][2], True)
    report = run(background_reader, Listed(items, [str(i) for i in range(8)]), batch_size=2)
    assert [row.name for row in report.images] == ["0", "3", "4", "5", "6", "7"]
    assert report.left_out == 2


def test_normalised_images_give_the_same_report(data: Cued) -> None:
    mean, std = (0.5, 0.25, 0.75), (0.5, 0.25, 0.2)
    shape = (1, 3, 1, 1)
    normalised = copy.deepcopy(data)
    normalised.images = (data.images - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
    plain = reader(*CORNER)
    undoing = reader(*CORNER)
    with torch.no_grad():  # the same function of the image before the normalisation
        for channel in range(2):
            undoing[1].weight[channel] *= std[channel]
            undoing[1].bias[channel] = mean[channel]
    expected, found = run(plain, data), run(undoing, normalised, normalization=(mean, std))
    assert [row.predictions for row in found.images] == [row.predictions for row in expected.images]
    torch.testing.assert_close(found.random.images, expected.random.images)


def test_another_attribution_makes_the_heatmaps(background_reader: nn.Module, data: Cued) -> None:
    report = run(background_reader, Subset(data, range(6)), attribution=GradientTimesInput())
    assert report.share == 1


def test_model_comes_back_untouched(data: Cued) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(64, 2)
    )
    model[1].eval()
    model[5].weight.grad = torch.ones_like(model[5].weight)
    hook = model[2].register_forward_hook(lambda *_: None)
    before = copy.deepcopy(model.state_dict())
    parameters, modes = list(model.parameters()), [module.training for module in model.modules()]

    def is_as_it_was() -> bool:
        return (
            all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
            and all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
            and [module.training for module in model.modules()] == modes
            and list(model[2]._forward_hooks) == [hook.id]
            and not any(len(module._forward_hooks) for module in model if module is not model[2])
            and [p.grad is None for p in parameters] == [True] * 4 + [False, True]
            and bool((model[5].weight.grad == 1).all())
            and not any("forward" in vars(module) for module in model.modules())
        )

    report = run(model, data)
    assert len(report.images) == len(data)
    assert is_as_it_was()
    with pytest.raises(InvalidValueError, match=r"labels .*1; got \[2\]$"):
        run(model, [(image, mask, 2) for image, mask, _ in (data[i] for i in range(4))])
    assert is_as_it_was()


def test_refuses_masks_without_foreground_and_names_all_of_them(background_reader: nn.Module, data: Cued) -> None:
    items = [list(data[i]) for i in range(6)]
    items[1][1] = torch.zeros_like(items[1][1])
    items[4][1] = torch.zeros_like(items[4][1])
    items[5][1] = 255 * items[5][1].int()
    listed = Listed([tuple(item) for item in items], [f"{i}.png" for i in range(6)])
    message = r"no foreground in 2 of 6 masks: 1\.png, 4\.png; values other than 0 and 1 in 1 of 6 masks: 5\.png"
    with pytest.raises(InvalidValueError, match=message):
        run(background_reader, listed, batch_size=2)


def test_refuses_what_it_cannot_audit(background_reader: nn.Module, data: Cued) -> None:
    image, mask, label = data[0]
    refused: list[tuple[object, dict, type[Exception], str]] = [
        (
            [(image, mask, torch.tensor([1.0, 0.0]))],
            {},
            InvalidTypeError,
            "one label at a time",
        ),
        ([(image, label)], {}, InvalidTypeError, r"must be \(image, mask, label\)"),
        ([(image, mask[:, 1:], label)], {}, InvalidValueError, r"masks .*\(6, 6\).* 5, 6\)"),
        ([(3 * image, mask, label)], {}, InvalidValueError, r"normalization=\(mean, std\)"),
        ([(image.byte(), mask, label)], {}, InvalidTypeError, "floating point"),
        ([(image * torch.nan, mask, label)], {}, InvalidValueError, "NaN"),
        ([(image[:2], mask, label)], {}, InvalidValueError, r"\(N, 3, H, W\) or \(N, 1, H, W\)"),
        (
            [(image, torch.ones_like(mask), label)],
            {},
            InvalidValueError,
            "none of the 1 images has a mask with background",
        ),
        ([], {}, InvalidValueError, "at least one image"),
        (torch.rand(3, 3, 6, 6), {}, InvalidTypeError, "data must be a data set"),
        (iter([]), {}, InvalidTypeError, "data must be a data set"),
        (data, {"classes": ["cat"]}, InvalidValueError, "name the model's 2 classes; got 1"),
        (data, {"examples": 0}, InvalidValueError, "examples must be"),
        (data, {"tolerance": 2}, InvalidValueError, "tolerance must lie in"),
        (data, {"batch_size": 0}, InvalidValueError, "batch_size must be"),
        (data, {"normalization": ([0.5], [0.0])}, InvalidValueError, "std must be positive"),
        (data, {"normalization": ([0.5] * 2, [0.5] * 2)}, InvalidValueError, "normalization has 2 channels"),
    ]
    for items, options, error, message in refused:
        with pytest.raises(error, match=message):
            run(background_reader, items, **options)


def test_refuses_images_of_several_sizes(background_reader: nn.Module, data: Cued) -> None:
    image, mask, label = data[0]
    small = (image[:, 1:], mask[:, 1:], label)
    with pytest.raises(InvalidValueError, match=r"one shape .* \[\(3, 5, 6\), \(3, 6, 6\)\]"):
        run(background_reader, [(image, mask, label), small], batch_size=1)


def test_refuses_models_without_rules_or_finite_logits(data: Cued) -> None:
    with pytest.raises(UncoveredOperationError, match="softplus"):
        run(nn.Sequential(nn.Flatten(), nn.Softplus(), nn.Linear(108, 2)), data)
    broken = reader(*CORNER)
    broken[1].bias.data[0] = torch.nan
    with pytest.raises(InvalidValueError, match="logits must be finite"):
        run(broken, data)


def test_objects_of_one_class_that_are_larger_are_named_for_no_background_test_shows_them(foreground_reader) -> None:
    data = Cued()
    assert run(foreground_reader, data).by_class[0].size_auc == 0.5
    data.masks[data.labels == 1, :, 2:5, 2:4] = True
    report = run(foreground_reader, data, classes=["cat", "dog"])
    assert [row.size_auc for row in report.by_class] == [0, 1]
    for text in (report.to_markdown(), report.to_html()):
        assert "Objects of class dog are larger than those of other classes" in text
        assert "AUC of 1.00" in text
