"""Figures of unequal classes, and donors of other classes."""

import pytest
import torch
from sklearn import metrics

from zennit_isnet.audit import Balanced, Proportion
from zennit_isnet.training.figures import donors_of_other_classes, figures
from zennit_isnet.training.intervals import with_intervals
from zennit_isnet.training.report import table, write_results


def test_figures_of_two_unequal_classes_are_those_of_scikit_learn(generator):
    labels = torch.tensor([0] * 30 + [1] * 6)
    logits = torch.randn(36, 2, generator=generator) + torch.nn.functional.one_hot(labels, 2)
    found, named = figures(logits, labels), logits.argmax(1)
    recalls = metrics.recall_score(labels, named, average=None)
    assert found == {
        "balanced_accuracy": pytest.approx(metrics.balanced_accuracy_score(labels, named)),
        "macro_f1": pytest.approx(metrics.f1_score(labels, named, average="macro")),
        "auroc": pytest.approx(metrics.roc_auc_score(labels, logits.softmax(1)[:, 1])),
        "specificity": pytest.approx(recalls[0]),
        "sensitivity": pytest.approx(recalls[1]),
    }


def test_classes_without_an_image_do_not_count():
    labels, logits = torch.tensor([0, 0, 2]), torch.tensor([[2.0, 0, 0], [0, 1, 0], [0, 0, 3]])
    assert figures(logits, labels)["balanced_accuracy"] == 0.75
    alone = figures(logits[:2, :2], labels[:2])
    assert alone.keys() == {"balanced_accuracy", "macro_f1", "specificity"}
    assert figures(logits[:0], labels[:0]) == {}


def test_several_labels_are_averaged_over_both_answers():
    labels = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    logits = torch.tensor([[1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    # sensitivity 1 and 1/2, specificity 2/3 and 1
    assert figures(logits, labels)["balanced_accuracy"] == pytest.approx((1 + 2 / 3 + 1 / 2 + 1) / 4)


def test_donors_have_other_labels_and_a_mask():
    labels, has_mask = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([True, True, True, False, True])
    drawn = {
        tuple(donors_of_other_classes(labels, has_mask, torch.Generator().manual_seed(i)).tolist()) for i in range(40)
    }
    for donors in drawn:
        assert donors[3] == 3, "an image without a mask keeps its background"
        assert all(
            labels[donor] != labels[index] and has_mask[donor] for index, donor in enumerate(donors) if index != 3
        )
    assert len(drawn) > 4
    assert donors_of_other_classes(torch.zeros(3), torch.ones(3, dtype=torch.bool), torch.Generator()).tolist() == [
        0,
        1,
        2,
    ]


def answers(labels, named):
    """Logits that name these classes."""
    return torch.nn.functional.one_hot(torch.tensor(named), 2).float(), torch.tensor(labels)


def each(count):
    return list(map(str, range(count)))


def test_intervals_do_not_collapse_where_all_is_right_or_wrong():
    found = with_intervals(*answers([0] * 3 + [1] * 3, [0] * 3 + [1] * 3), each(6))
    for name in ("sensitivity", "specificity"):
        assert found[name] == [1, pytest.approx(Proportion(3, 3).interval[0]), 1]
    assert found["macro_f1"] == [1]
    # a classifier that always says the class of 20 of 22 images
    constant = with_intervals(*answers([0] * 2 + [1] * 20, [1] * 22), each(22))
    of_classes = Balanced((Proportion(0, 2), Proportion(20, 20)))
    assert constant["balanced_accuracy"] == pytest.approx([0.5, *of_classes.interval])
    assert 0.4 < of_classes.interval[0] < 0.5 < of_classes.interval[1] < 0.9


def test_images_of_a_patient_count_as_few_as_they_are_alike():
    labels, named = [0] * 40 + [1] * 40, ([0] * 30 + [1] * 10) + ([1] * 30 + [0] * 10)
    patients = [str(index // 10) for index in range(80)]
    alone, alike, mixed = (
        with_intervals(*answers(labels, named), groups)["sensitivity"]
        for groups in (each(80), patients, [str(index % 10) for index in range(80)])
    )
    assert alone == pytest.approx([0.75, *Proportion(30, 40).interval])
    assert alike == pytest.approx([0.75, *Proportion(3, 4).interval])
    assert alone[1:] != mixed[1:]
    assert alike[1] < mixed[1] <= alone[1] < alone[2] <= mixed[2] < alike[2]


def test_a_single_class_has_its_recall_alone():
    logits, labels = answers([1] * 4, [1, 1, 1, 0])
    expected = pytest.approx([0.75, *Proportion(3, 4).interval])
    assert with_intervals(logits, labels, each(4)) == {"sensitivity": expected}
    assert with_intervals(logits.flip(1), 1 - labels, each(4)) == {"specificity": expected}
    third = torch.cat([logits, torch.full((4, 1), -1.0)], 1)
    assert with_intervals(third, labels, each(4)) == {"recall": expected}


def test_copies_of_a_label_make_nothing_more_certain(generator):
    labels = (torch.arange(30) % 3 == 0).float().view(-1, 1)
    logits = torch.randn(30, 1, generator=generator) + labels
    two, ten = (with_intervals(logits.repeat(1, n), labels.repeat(1, n), each(30)) for n in (2, 10))
    assert two == {name: pytest.approx(values) for name, values in ten.items()}
    recalls = [((logits > 0) == side)[labels == side].sum().item() for side in (1, 0)]
    expected = Balanced((Proportion(recalls[0], 10), Proportion(recalls[1], 20)))
    assert two["balanced_accuracy"] == pytest.approx([expected.value, *expected.interval])


def test_the_interval_of_an_area_has_the_variance_of_hanley_and_mcneil(generator):
    labels = torch.tensor([0] * 400 + [1] * 400)
    scores = torch.randn(800, generator=generator) + labels
    area, low, high = with_intervals(torch.stack([-scores, scores], 1), labels, each(800))["auroc"]
    spread = (area * (1 - area) + 399 * (area / (2 - area) + 2 * area**2 / (1 + area) - 2 * area**2)) / 400**2
    assert (high - low) / 2 == pytest.approx(1.96 * spread**0.5, rel=0.01)
    apart = torch.where(labels == 1, scores + 9, scores)
    area, low, high = with_intervals(torch.stack([-apart, apart], 1), labels, each(800))["auroc"]
    assert (area, high) == pytest.approx((1, 1))
    assert 0.99 < low < 0.999


def test_the_table_shows_figures_in_percent_and_a_dash_for_what_is_undefined():
    text = table({"at home": {"images": 9, "auroc": [0.5, 0.25, 0.75]}, "abroad": {"images": 2}})
    assert text.splitlines()[2:] == ["| at home | 9 | 50.0 (25.0 to 75.0) |", "| abroad | 2 | – |"]
    named = table({"at home": {"images": 9, "sensitivity": [0.5], "positive_class": "covid"}})
    assert named.splitlines()[2:] == ["| at home | 9 | 50.0 |", "", "Sensitivity is the recall of covid."]


def test_results_say_from_how_many_images_they_are(tmp_path):
    logits, labels = answers([0] * 2 + [1] * 4, [0] * 2 + [1] * 4)
    result = {"logits": logits, "swapped": logits, "labels": labels, "indices": torch.arange(6)}
    result |= {"changed": torch.arange(6) < 3, "share": torch.full((6,), torch.nan)}

    class Data:
        classes = ("normal", "covid")

        def describe(self, test, indices):
            return [(f"{index}.png", str(index)) for index in indices]

    found = write_results(tmp_path, {"abroad": result}, Data())["abroad"]
    assert found["images_of_class"] == {"normal": 2, "covid": 4}
    assert (found["images"], found["swapped_images"]) == (6, 3)
    text = (tmp_path / "tests.md").read_text()
    assert ", 3 images |" in text
    assert "\nImages in abroad: 2 normal, 4 covid.\n" in text
