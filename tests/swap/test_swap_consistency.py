"""The distance between predictions: its formulas, and how it acts."""

import math
from typing import Any, get_args

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, kl_divergence

from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.swap import swap_consistency
from zennit_isnet.swap.predictions import Consistency

KINDS = get_args(Consistency)
DIVERGENCES = ("symmetric_kl", "jensen_shannon")


def pair(generator, shape=(5, 4)):
    return (3 * torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(2))


def by_hand(p: Any, q: Any, mixture: Any, kind: str) -> torch.Tensor:
    if kind == "symmetric_kl":
        return (kl_divergence(p, q) + kl_divergence(q, p)) / 2
    return (kl_divergence(p, mixture) + kl_divergence(q, mixture)) / 2


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_divergence_of_classes_is_that_of_categorical_distributions(kind, generator):
    y, z = pair(generator)
    p, q = Categorical(logits=y), Categorical(logits=z)
    mixture = Categorical(probs=(p.probs + q.probs) / 2)
    torch.testing.assert_close(swap_consistency(y, z, kind=kind), by_hand(p, q, mixture, kind))


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_divergence_of_labels_is_the_mean_of_that_of_bernoulli_distributions(kind, generator):
    y, z = pair(generator)
    p, q = Bernoulli(logits=y), Bernoulli(logits=z)
    mixture = Bernoulli(probs=(p.probs + q.probs) / 2)
    expected = by_hand(p, q, mixture, kind).mean(1)
    torch.testing.assert_close(swap_consistency(y, z, kind=kind, multilabel=True), expected)


def test_squared_logits_are_their_mean_squared_difference(generator):
    y, z = pair(generator)
    expected = torch.stack([((a - b) ** 2).sum() / len(a) for a, b in zip(y, z, strict=True)])
    torch.testing.assert_close(swap_consistency(y, z, kind="squared_logits"), expected)


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_distance_is_symmetric_not_negative_and_zero_for_equal_logits(kind, multilabel, generator):
    y, z = pair(generator, (50, 3))
    there, back = (swap_consistency(*args, kind=kind, multilabel=multilabel) for args in ((y, z), (z, y)))
    torch.testing.assert_close(there, back)
    assert bool((there > 0).all())
    assert bool((swap_consistency(y, y, kind=kind, multilabel=multilabel).abs() < 1e-15).all())


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_divergence_does_not_see_what_is_common_to_all_classes(kind, generator):
    y, z = pair(generator)
    torch.testing.assert_close(swap_consistency(y, z + 5, kind=kind), swap_consistency(y, z, kind=kind))


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(kind, multilabel, generator):
    y, z = (logits.requires_grad_() for logits in pair(generator, (2, 3)))
    assert torch.autograd.gradcheck(lambda *a: swap_consistency(*a, kind=kind, multilabel=multilabel), (y, z))


def gradient_size(kind: str) -> float:
    sure = torch.tensor([[30.0, 0.0]], requires_grad=True)
    swap_consistency(sure, sure.detach().flip(1), kind=kind).sum().backward()
    return sure.grad.abs().max().item()


def test_default_acts_on_sure_contradictions_where_jensen_shannon_is_flat():
    assert gradient_size("symmetric_kl") > 0.4
    assert gradient_size("jensen_shannon") < 1e-9


def test_jensen_shannon_stays_below_log_2():
    far = torch.tensor([[1e4, 0.0, -1e4]])
    distance = swap_consistency(far, far.flip(1), kind="jensen_shannon")
    assert distance.item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_computed_in_float32(kind, generator):
    y, z = (logits.half() for logits in pair(generator))
    expected = swap_consistency(y.float(), z.float(), kind=kind)
    assert torch.equal(swap_consistency(y, z, kind=kind), expected)


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


def test_unknown_kind_lists_the_legal_ones():
    with pytest.raises(InvalidValueError, match="'kl'") as caught:
        swap_consistency(LOGITS, LOGITS, kind="kl")  # type: ignore[arg-type]
    assert all(repr(kind) in str(caught.value) for kind in KINDS)
