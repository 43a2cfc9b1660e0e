"""Worst-group accuracy and bias gap: values, missing groups and bad input."""

from fractions import Fraction

import pytest
import torch

from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.functional import bias_gap, group_counts, worst_group_accuracy
from zennit_isnet.metrics import BiasGap, WorstGroupAccuracy

GROUPS = 3


@pytest.fixture
def table(generator):
    """Logits, labels and groups of 50 images, each group with some right and some wrong."""
    labels = torch.randint(0, 4, (50,), generator=generator)
    logits = torch.randn(50, 4, generator=generator) + 2 * torch.nn.functional.one_hot(labels, 4)
    return logits, labels, torch.arange(50) % GROUPS


def slow_accuracies(logits, labels, groups, count):
    rows = list(zip(logits.tolist(), labels.tolist(), groups.tolist(), strict=True))
    right = [[row.index(max(row)) == label for row, label, group in rows if group == g] for g in range(count)]
    return [Fraction(sum(flags), len(flags)) for flags in right]


def test_worst_group_accuracy_is_the_lowest_of_the_groups(table):
    accuracies = slow_accuracies(*table, GROUPS)
    assert len(set(accuracies)) > 1
    assert worst_group_accuracy(*table, num_groups=GROUPS).item() == pytest.approx(float(min(accuracies)))


def test_the_bias_gap_is_the_difference_of_two_accuracies(table):
    logits, labels, groups = table
    biased, confounding = slow_accuracies(logits, labels, groups == 0, 2)
    assert bias_gap(logits, labels, groups == 0).item() == pytest.approx(float(biased - confounding))


def test_logits_and_classes_say_the_same(table):
    logits, labels, groups = table
    for predictions in (logits.half(), logits.half().softmax(dim=1), logits.half().argmax(dim=1)):
        assert torch.equal(
            worst_group_accuracy(predictions, labels, groups, num_groups=GROUPS),
            worst_group_accuracy(logits.half(), labels, groups, num_groups=GROUPS),
        )


def test_counts_are_whole_numbers_of_images(table):
    correct, total = group_counts(*table, GROUPS)
    assert total.tolist() == [17, 17, 16]
    assert [Fraction(c, t) for c, t in zip(correct.tolist(), total.tolist(), strict=True)] == slow_accuracies(
        *table, GROUPS
    )


def test_batches_give_the_value_of_all_images(table):
    logits, labels, groups = table
    worst, gap = WorstGroupAccuracy(GROUPS), BiasGap()
    for part in torch.arange(50).split(7):
        worst.update(logits[part], labels[part], groups[part])
        gap.update(logits[part], labels[part], groups[part] == 0)
    assert torch.equal(worst.compute(), worst_group_accuracy(*table, num_groups=GROUPS))
    assert torch.equal(gap.compute(), bias_gap(logits, labels, groups == 0))


def test_one_flag_serves_a_whole_test_set(table):
    logits, labels, groups = table
    gap = BiasGap()
    for flag in (False, True):
        chosen = (groups == 0) == flag
        gap.update(logits[chosen], labels[chosen], flag)
    assert torch.equal(gap.compute(), bias_gap(logits, labels, groups == 0))


def test_missing_groups_are_errors_or_left_out(table):
    logits, labels, groups = table
    with pytest.raises(InvalidValueError, match="groups 3, 4; pass undefined="):
        worst_group_accuracy(logits, labels, groups, num_groups=5)
    skipped = worst_group_accuracy(logits, labels, groups, num_groups=5, undefined="skip")
    assert torch.equal(skipped, worst_group_accuracy(logits, labels, groups, num_groups=GROUPS))
    with pytest.raises(InvalidValueError, match="groups confounding;"):
        bias_gap(logits, labels, False)
    assert bias_gap(logits, labels, False, undefined="skip").isnan()
    nobody = torch.zeros(0, dtype=torch.int64)
    assert worst_group_accuracy(nobody, nobody, nobody, num_groups=2, undefined="skip").isnan()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"predictions": torch.tensor([[torch.nan, 0.0]] * 2)}, InvalidValueError, "predictions .*NaN or Inf"),
        ({"predictions": torch.ones(2)}, InvalidValueError, r"predictions .*\(N, C\).*\(2,\)"),
        ({"predictions": torch.ones(2, 2).long()}, InvalidValueError, r"classes .*\(N,\).*\(2, 2\)"),
        ({"predictions": [0, 1]}, InvalidTypeError, "predictions .*integers.*list"),
        ({"predictions": torch.tensor([0, -1])}, InvalidValueError, r"predictions .*negative.*\[-1\]"),
        ({"labels": torch.ones(2)}, InvalidTypeError, "labels .*integers.*torch.float32"),
        ({"labels": torch.tensor([-100, 1])}, InvalidValueError, r"labels .*negative.*\[-100\]"),
        ({"predictions": torch.ones(2, 3), "labels": torch.tensor([1, 3])}, InvalidValueError, r"labels .* 2;.*\[3\]"),
        ({"labels": torch.ones(2).long().to("meta")}, InvalidValueError, "labels .*cpu.*meta"),
        ({"labels": torch.ones(3).long()}, InvalidValueError, r"labels .*\(2,\).*\(3,\)"),
        ({"groups": torch.ones(2, 1).long()}, InvalidValueError, r"groups .*\(2,\).*\(2, 1\)"),
        ({"groups": torch.tensor([0, 2])}, InvalidValueError, r"groups .* 1;.*\[2\]"),
        ({"groups": torch.tensor([-1, 0])}, InvalidValueError, r"groups .* 1;.*\[-1\]"),
        ({"num_groups": 0}, InvalidValueError, "num_groups .*0"),
        ({"num_groups": 2.0}, InvalidTypeError, "num_groups .*int.*float"),
        ({"undefined": "zero"}, InvalidValueError, "undefined .*'error', 'skip'.*'zero'"),
    ],
)
def test_bad_input_is_refused(change, error, message):
    arguments = {"predictions": torch.tensor([0, 1]), "labels": torch.tensor([0, 1]), "groups": torch.tensor([0, 1])}
    arguments |= {"num_groups": 2} | change
    with pytest.raises(error, match=message):
        worst_group_accuracy(**arguments)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32])
def test_small_integers_do_not_overflow(dtype):
    labels, groups = torch.tensor([1, 0], dtype=dtype), torch.tensor([0, 127], dtype=dtype)
    correct, total = group_counts(torch.tensor([1, 1], dtype=dtype), labels, groups, num_groups=300)
    assert (correct.nonzero().flatten().tolist(), total.nonzero().flatten().tolist()) == ([0], [0, 127])


def test_an_error_in_a_call_leaves_the_metric_as_it_was(table):
    worst = WorstGroupAccuracy(GROUPS)
    worst.update(*table)
    with pytest.raises(InvalidValueError, match="groups 1, 2;"):
        worst(torch.tensor([0]), torch.tensor([1]), torch.tensor([0]))
    assert torch.equal(worst.compute(), worst_group_accuracy(*table, num_groups=GROUPS))


def test_an_error_of_compute_leaves_each_process_its_own_state(table):
    several = {"distributed_available_fn": lambda: True, "dist_sync_fn": lambda state, group: [state, state]}
    metric = WorstGroupAccuracy(GROUPS, **several)
    predictions, labels, groups = table
    metric.update(predictions[groups > 0], labels[groups > 0], groups[groups > 0])
    with pytest.raises(InvalidValueError, match="groups 0;"):
        metric.compute()
    assert metric.counts[1].sum() == (groups > 0).sum()
    metric.update(predictions[groups == 0], labels[groups == 0], groups[groups == 0])
    assert torch.equal(metric.compute(), worst_group_accuracy(*table, num_groups=GROUPS))


def test_there_is_one_flag_for_each_image():
    classes = torch.tensor([0, 1])
    with pytest.raises(InvalidValueError, match=r"confounding .*\(2,\).*\(1,\)"):
        bias_gap(classes, classes, torch.tensor([True]))


@pytest.mark.parametrize("confounding", [1, "yes", torch.tensor([0, 1])])
def test_confounding_is_a_flag(confounding):
    classes = torch.tensor([0, 1])
    with pytest.raises(InvalidTypeError, match=r"confounding .*torch.bool"):
        BiasGap().update(classes, classes, confounding)


def test_options_are_checked_when_a_metric_is_built():
    with pytest.raises(InvalidValueError, match="num_groups"):
        WorstGroupAccuracy(0)
    for metric in (BiasGap, lambda **options: WorstGroupAccuracy(2, **options)):
        with pytest.raises(InvalidValueError, match="undefined"):
            metric(undefined="zero")
