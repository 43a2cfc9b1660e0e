"""Figures of unequal classes, and donors of other classes."""

import pytest
import torch
from sklearn import metrics

from zennit_isnet.training.figures import donors_of_other_classes, figures
from zennit_isnet.training.report import table, with_intervals


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


def test_intervals_come_from_groups(generator):
    labels = torch.arange(40) % 2
    logits = torch.randn(40, 2, generator=generator) + torch.nn.functional.one_hot(labels, 2)
    low, high = with_intervals(logits, labels, [str(i) for i in range(40)])["balanced_accuracy"][1:]
    assert 0 < low < high < 1
    wide = with_intervals(logits, labels, [str(i // 10) for i in range(40)])["balanced_accuracy"]
    assert wide[0] == figures(logits, labels)["balanced_accuracy"]


def test_of_many_classes_only_the_area_has_no_interval(generator):
    labels = torch.arange(42) % 21
    found = with_intervals(torch.randn(42, 21, generator=generator), labels, [str(i) for i in range(42)])
    assert {name: len(values) for name, values in found.items()} == {"balanced_accuracy": 3, "macro_f1": 3, "auroc": 1}


def test_the_table_shows_figures_in_percent_and_a_dash_for_what_is_undefined():
    text = table({"at home": {"images": 9, "auroc": [0.5, 0.25, 0.75]}, "abroad": {"images": 2}})
    assert text.splitlines()[2:] == ["| at home | 9 | 50.0 (25.0 to 75.0) |", "| abroad | 2 | – |"]
    named = table({"at home": {"images": 9, "sensitivity": [0.5], "positive_class": "covid"}})
    assert named.splitlines()[2:] == ["| at home | 9 | 50.0 |", "", "Sensitivity is the recall of covid."]
