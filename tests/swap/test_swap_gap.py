"""How far predictions move with the background, counted by hand."""

import pickle

import pytest
import torch

from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.metrics import SwapGap
from zennit_isnet.swap import swap_gap


def by_hand(before, after, labels, classes=None):
    """Count image by image; rows of probabilities and predictions. With classes, the mean of what they give."""
    if classes is not None:
        rows = list(zip(before, after, labels, strict=True))
        found = [by_hand(*zip(*(row for row in rows if row[2] == one), strict=True)) for one in classes]
        return {name: sum(figures[name] for figures in found) / len(found) for name in found[0]}
    changed = right = swapped = 0
    variation = 0.0
    for (p, a), (q, b), label in zip(before, after, labels, strict=True):
        changed += a != b
        right += a == label
        swapped += b == label
        variation += sum(abs(x - y) for x, y in zip(p, q, strict=True)) / 2
    count = len(labels)
    return {
        "changed": changed / count,
        "total_variation": variation / count,
        "accuracy": right / count,
        "swapped": swapped / count,
        "gap": (right - swapped) / count,
    }


def assert_figures(figures, expected):
    assert list(figures) == list(expected)
    assert {name: value.item() for name, value in figures.items()} == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_figures_of_classes(generator):
    y, z = (2 * torch.randn(40, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.tensor([0] * 30 + [1] * 8 + [2] * 2)  # a class counts alike, however rare
    before, after = ([(p.softmax(0).tolist(), p.argmax().item()) for p in logits] for logits in (y, z))
    assert_figures(swap_gap(y, z, labels), by_hand(before, after, labels.tolist(), range(3)))
    without = labels < 2
    expected = by_hand(before[:38], after[:38], labels[without].tolist(), range(2))
    assert_figures(swap_gap(y[without], z[without], labels[without]), expected)


def test_figures_of_labels_of_their_own(generator):
    y, z = (2 * torch.randn(20, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.randint(2, (20, 3), generator=generator)

    def rows(logits):
        return [((p, 1 - p), int(p > 0.5)) for p in logits.sigmoid().flatten().tolist()]

    assert_figures(swap_gap(y, z, labels, multilabel=True), by_hand(rows(y), rows(z), labels.flatten().tolist()))


@pytest.mark.parametrize("multilabel", [False, True])
def test_metric_of_batches_is_the_figure_of_all_images(multilabel, generator):
    y, z = (2 * torch.randn(40, 3, generator=generator) for _ in range(2))
    labels = torch.randint(2, (40, 3) if multilabel else (40,), generator=generator)
    metric = SwapGap(3, multilabel=multilabel)
    for part in torch.arange(40).split([7, 0, 33]):
        metric.update(y[part], z[part], labels[part])
    expected = {name: value.item() for name, value in swap_gap(y, z, labels, multilabel=multilabel).items()}
    assert_figures(metric.compute(), expected)
    assert_figures(pickle.loads(pickle.dumps(metric)).compute(), expected)


def test_metrics_of_parts_are_added(generator):
    y, z = (torch.randn(40, 3, generator=generator) for _ in range(2))
    labels = torch.randint(3, (40,), generator=generator)
    metrics = [SwapGap(3), SwapGap(3)]
    for metric, part in zip(metrics, torch.arange(40).split(30), strict=True):
        metric.update(y[part], z[part], labels[part])
    metrics[0].merge_state(metrics[1])
    assert_figures(metrics[0].compute(), {name: value.item() for name, value in swap_gap(y, z, labels).items()})


@pytest.mark.parametrize("undefined", ["error", "skip"])
def test_batch_with_an_error_is_not_counted_and_no_images_have_no_gap(undefined):
    metric = SwapGap(3, undefined=undefined)
    with pytest.raises(InvalidValueError, match=r"labels must lie in 0, ..., 2; got \[3\]"):
        metric.update(torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([0, 3]))
    with pytest.raises(InvalidValueError, match=r"logits must have 3 classes; got shape \(2, 4\)"):
        metric.update(torch.zeros(2, 4), torch.zeros(2, 4), torch.tensor([0, 3]))
    if undefined == "skip":
        assert all(value.isnan() for value in metric.compute().values())
    else:
        with pytest.raises(InvalidValueError, match="undefined without images"):
            metric.compute()


def test_predictions_that_stay_move_by_nothing(generator):
    logits = torch.randn(10, 4, generator=generator)
    figures = swap_gap(logits, logits, logits.argmax(1))
    assert [value.item() for value in figures.values()] == [0, 0, 1, 1, 0]


def test_changes_that_cancel_in_the_gap_are_counted():
    logits = torch.tensor([[9.0, 0.0], [0.0, 9.0]])
    figures = swap_gap(logits, logits.flip(1), labels=torch.tensor([0, 0]))
    assert figures["gap"] == 0
    assert figures["changed"] == 1
    assert figures["total_variation"] > 0.99


def test_figures_carry_no_graph():
    logits = torch.zeros(2, 3, requires_grad=True)
    assert not any(value.requires_grad for value in swap_gap(logits, logits, torch.tensor([0, 1])).values())


LOGITS = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("labels", "multilabel", "error", "message"),
    [
        ([0, 1], False, InvalidTypeError, "labels must be a tensor of integers; got list"),
        (torch.zeros(2), False, InvalidTypeError, "got torch.float32"),
        (torch.tensor([0]), False, InvalidValueError, r"shape \(2,\) on cpu; got \(1,\)"),
        (torch.tensor([0, 3]), False, InvalidValueError, r"lie in 0, ..., 2; got \[3\]"),
        (torch.tensor([0, 1]), True, InvalidValueError, r"shape \(2, 3\) on cpu; got \(2,\)"),
        (torch.full((2, 3), 2), True, InvalidValueError, r"lie in 0, ..., 1; got \[2\]"),
        (torch.tensor([0, 1], device="meta"), False, InvalidValueError, r"on cpu; got \(2,\) on meta"),
    ],
)
def test_bad_labels_show_what_came_and_what_is_allowed(labels, multilabel, error, message):
    with pytest.raises(error, match=message):
        swap_gap(LOGITS, LOGITS, labels, multilabel=multilabel)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_are_refused(value):
    broken = torch.full((2, 3), value)
    for name, pair in (("logits", (broken, LOGITS)), ("swapped_logits", (LOGITS, broken))):
        with pytest.raises(InvalidValueError, match=f"^{name} must be finite; got NaN or Inf"):
            swap_gap(*pair, torch.tensor([0, 1]))


def test_without_images_there_is_no_gap():
    with pytest.raises(InvalidValueError, match="undefined without images"):
        swap_gap(LOGITS[:0], LOGITS[:0], torch.tensor([], dtype=torch.int64))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_labels_may_be_small_integers(dtype):
    logits = torch.eye(300)[:256]
    assert swap_gap(logits, logits, torch.arange(256, dtype=dtype))["accuracy"] == 1
