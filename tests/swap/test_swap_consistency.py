"""The distance between predictions: its formulas, and how it acts."""

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, kl_divergence

from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.swap import swap_consistency


def pair(generator, shape=(5, 4)):
    return (3 * torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(2))


def test_distance_of_classes_is_the_mean_divergence_of_categorical_distributions(generator):
    y, z = pair(generator)
    p, q = Categorical(logits=y), Categorical(logits=z)
    torch.testing.assert_close(swap_consistency(y, z), (kl_divergence(p, q) + kl_divergence(q, p)) / 2)


def test_distance_of_labels_is_the_mean_of_that_of_bernoulli_distributions(generator):
    y, z = pair(generator)
    p, q = Bernoulli(logits=y), Bernoulli(logits=z)
    expected = (kl_divergence(p, q) + kl_divergence(q, p)).mean(1) / 2
    torch.testing.assert_close(swap_consistency(y, z, multilabel=True), expected)


@pytest.mark.parametrize("multilabel", [False, True])
def test_distance_is_symmetric_not_negative_and_zero_for_equal_logits(multilabel, generator):
    y, z = pair(generator, (50, 3))
    there, back = (swap_consistency(*args, multilabel=multilabel) for args in ((y, z), (z, y)))
    torch.testing.assert_close(there, back)
    assert bool((there > 0).all())
    assert bool((swap_consistency(y, y, multilabel=multilabel).abs() < 1e-15).all())


def test_distance_does_not_see_what_is_common_to_all_classes(generator):
    y, z = pair(generator)
    torch.testing.assert_close(swap_consistency(y, z + 5), swap_consistency(y, z))


@pytest.mark.parametrize("multilabel", [False, True])
def test_gradients_are_those_of_finite_differences(multilabel, generator):
    y, z = (logits.requires_grad_() for logits in pair(generator, (2, 3)))
    assert torch.autograd.gradcheck(lambda *a: swap_consistency(*a, multilabel=multilabel), (y, z))


def test_distance_acts_on_sure_contradictions():
    sure = torch.tensor([[30.0, 0.0]], requires_grad=True)
    swap_consistency(sure, sure.detach().flip(1)).sum().backward()
    assert sure.grad.abs().max() > 0.4


def test_half_precision_is_computed_in_float32(generator):
    y, z = (logits.half() for logits in pair(generator))
    assert torch.equal(swap_consistency(y, z), swap_consistency(y.float(), z.float()))


LOGITS = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("logits", "swapped", "error", "message"),
    [
        (LOGITS, LOGITS[:1], InvalidValueError, r"\(2, 3\).*\(1, 3\)"),
        (LOGITS[0], LOGITS[0], InvalidValueError, r"shape \(N, C\)"),
        (LOGITS[:0], LOGITS[:0], InvalidValueError, "at least one image; got none"),
        (LOGITS[:, :0], LOGITS[:, :0], InvalidValueError, r"C >= 1; got \(2, 0\)"),
        (LOGITS, LOGITS.to("meta"), InvalidValueError, "cpu.*meta"),
        (LOGITS.long(), LOGITS, InvalidTypeError, "logits must be a floating tensor; got torch.int64"),
        (LOGITS, None, InvalidTypeError, "swapped_logits must be a floating tensor; got NoneType"),
    ],
)
def test_bad_logits_show_what_came_and_what_is_allowed(logits, swapped, error, message):
    with pytest.raises(error, match=message):
        swap_consistency(logits, swapped)
