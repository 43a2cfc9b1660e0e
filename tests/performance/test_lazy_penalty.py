"""``every=n``: the penalty at every n-th training call with the weight of n, a plain step at the others."""

import pytest
import torch
from torch import nn

from zennit_isnet import ISNetRegularizer, Selective
from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.regularizer import EveryNth


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).double()


@pytest.fixture
def batch():
    masks = torch.zeros(4, 1, 8, 8)
    masks[..., 2:6, 2:6] = 1
    return torch.rand(4, 3, 8, 8, dtype=torch.float64), masks


def lazy(model, every):
    regularizer = ISNetRegularizer(model, formulation=Selective(), layers=(), every=every)
    regularizer.load_state_dict({"ranges": [{"layer": None, "c1": 0.1, "c2": 10.0}], "formulation": {}})
    return regularizer


def test_the_penalty_comes_at_every_nth_call_with_n_times_its_weight(model, batch):
    expected = lazy(model, 1)(*batch)[1]
    regularizer = lazy(model, 3)
    penalties = [regularizer(*batch)[1] for _ in range(7)]
    torch.testing.assert_close(torch.stack(penalties), 3 * expected * torch.tensor([1, 0, 0, 1, 0, 0, 1]))


def test_the_first_calls_can_all_be_penalised(model, batch):
    expected = lazy(model, 1)(*batch)[1]
    regularizer = lazy(model, EveryNth(2, start=3))
    penalties = [regularizer(*batch)[1] for _ in range(7)]
    torch.testing.assert_close(torch.stack(penalties), expected * torch.tensor([1, 1, 1, 2, 0, 2, 0]))


def test_regularizers_count_their_own_calls(model, batch):
    schedule = EveryNth(2)
    first, second = lazy(model, schedule), lazy(model, schedule)
    first(*batch)
    assert second(*batch)[1] > 0
    assert first(*batch)[1] == 0


def test_a_skipped_call_is_a_plain_step(model, batch):
    regularizer = lazy(model, 2)
    regularizer(*batch)
    mean = model[1].running_mean.clone()
    logits, penalty = regularizer(*batch)
    assert not penalty.requires_grad
    assert penalty.shape == ()
    (logits.square().mean() + penalty).backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    assert not torch.equal(model[1].running_mean, mean), "BatchNorm sees the batch"

    model.zero_grad()
    plain = model(batch[0])
    plain.square().mean().backward()
    torch.testing.assert_close(logits, plain)
    for gradient, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


def test_calls_without_gradients_always_measure_and_never_count(model, batch):
    expected = lazy(model, 1)(*batch)[1].detach()
    regularizer = lazy(model, 2)
    with torch.no_grad():
        measured = [regularizer(*batch)[1] for _ in range(3)]
    torch.testing.assert_close(torch.stack(measured), expected.expand(3))
    assert regularizer(*batch)[1].requires_grad, "the first training call is due"


def test_a_resumed_training_goes_on_where_it_was(model, batch):
    first, second = lazy(model, 3), lazy(model, 3)
    first(*batch), first(*batch)
    second.load_state_dict(first.state_dict())
    assert [bool(second(*batch)[1] > 0) for _ in range(3)] == [False, True, False]


def test_a_resumed_training_stays_within_its_first_calls(model, batch):
    first, second = (lazy(model, EveryNth(3, start=3)) for _ in range(2))
    first(*batch), first(*batch)
    second.load_state_dict(first.state_dict())
    weights = torch.stack([second(*batch)[1] for _ in range(4)]) / first(*batch)[1]
    torch.testing.assert_close(weights, torch.tensor([1.0, 3, 0, 0], dtype=weights.dtype))


def test_a_call_that_fails_does_not_count(model, batch):
    regularizer = lazy(model, 2)
    with pytest.raises(InvalidValueError):
        regularizer(batch[0] * float("nan"), batch[1])
    assert regularizer(*batch)[1] > 0


@pytest.mark.parametrize("every", [0, -1])
def test_less_than_every_call_is_refused(model, every):
    with pytest.raises(InvalidValueError, match=f"every must be at least 1.*got {every}"):
        ISNetRegularizer(model, formulation=Selective(), layers=(), every=every)


@pytest.mark.parametrize("every", [1.5, "2", True, None])
def test_every_must_be_an_integer(model, every):
    with pytest.raises(InvalidTypeError, match="every must be an int"):
        ISNetRegularizer(model, formulation=Selective(), layers=(), every=every)


@pytest.mark.parametrize("calls", [-1, 0.5, "3", None])
def test_a_state_with_another_count_is_refused(model, calls):
    with pytest.raises((InvalidTypeError, InvalidValueError), match="calls"):
        lazy(model, 2).load_state_dict({"ranges": {}, "formulation": {}, "calls": calls})


def test_the_first_calls_are_a_number_of_calls():
    with pytest.raises(InvalidValueError, match="start must be at least 0; got -1"):
        EveryNth(2, start=-1)
    with pytest.raises(InvalidTypeError, match="start must be an int"):
        EveryNth(2, start=0.3)
