"""Global weighted rank pooling: its value, its limits, and that it looks at no rank without a weight."""

import loss_oracle
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.functional import background_loss, gwrp

DECAYS = [1.0, 0.9999999, 0.996, 0.9, 0.5, 0.1, 1e-300]


class Calls(TorchDispatchMode):
    """Records the operations that run, and how many ranks get a weight."""

    def __init__(self):
        super().__init__()
        self.names, self.ks = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        if self.names[-1] == "scatter_":
            self.ks.append(args[2].shape[-1])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_weighted_mean_of_a_full_sort(decay, dtype, generator):
    for ranks in (1, 2, 300):
        values = torch.rand(3, ranks, dtype=dtype, generator=generator)
        expected = torch.tensor([loss_oracle.gwrp(row.double().tolist(), decay) for row in values], dtype=dtype)
        torch.testing.assert_close(gwrp(values, decay), expected, rtol=10 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("decay", [0.996, 0.9])
def test_ranks_left_out_weigh_less_than_the_rounding(decay, generator):
    # Equal values are the worst case: the ranks left out are as large as the first.
    values = torch.ones(1, 50_000)
    torch.testing.assert_close(gwrp(values, decay), torch.ones(1), rtol=1e-6, atol=0)


def test_pools_any_axis(generator):
    values = torch.rand(4, 5, 6, generator=generator)
    torch.testing.assert_close(gwrp(values, 0.8, dim=1), gwrp(values.movedim(1, -1), 0.8))


def test_half_precision_is_pooled_in_float32(generator):
    values = torch.rand(2, 100, generator=generator).half()
    assert gwrp(values, 0.9).dtype == torch.float32
    torch.testing.assert_close(gwrp(values, 0.9), gwrp(values.float(), 0.9), rtol=0, atol=0)


@pytest.mark.parametrize("sign", [1, -1])
def test_nan_is_not_lost_behind_the_counting_ranks(sign):
    values = torch.zeros(1, 10_000)
    values[0, 5_000] = torch.copysign(torch.tensor(torch.nan), torch.tensor(sign))
    assert gwrp(values, 0.1).isnan().all()


@pytest.mark.parametrize("threads", [1, 3])
def test_ranks_of_both_signs_and_ties_are_those_of_a_full_sort(threads, generator):
    values = torch.randn(5, 4, 700, generator=generator).round(decimals=1)
    values[0, 0, :3] = torch.tensor([torch.inf, -torch.inf, -0.0])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        pooled = gwrp(values, 0.9)
    finally:
        torch.set_num_threads(before)
    weights = 0.9 ** torch.arange(700)
    expected = (values.sort(dim=-1, descending=True).values * weights).sum(-1) / weights.sum()
    assert pooled[0, 0] == torch.inf
    torch.testing.assert_close(pooled[1:], expected[1:])


def test_gradient_agrees_with_finite_differences(generator):
    values = torch.rand(2, 30, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: gwrp(v, 0.9), (values,))


@pytest.mark.parametrize(("decay", "most"), [(0.1, 7), (0.9, 152), (0.996, 3_978)])
def test_never_sorts_what_has_no_weight(decay, most, generator):
    relevance = torch.randn(2, 1, 3, 224, 224, generator=generator, requires_grad=True)
    foreground = torch.ones(2, 1, 224, 224)
    foreground[..., :100] = 0
    with Calls() as calls:
        background_loss(relevance, foreground, decay=decay).sum().backward()
    assert calls.ks
    assert max(calls.ks) <= most
    assert not {"sort", "argsort", "msort"} & set(calls.names)


def test_the_mean_needs_no_order_at_all(generator):
    with Calls() as calls:
        gwrp(torch.rand(2, 50, generator=generator), 1.0)
    assert calls.names
    assert not {"sort", "topk"} & set(calls.names)


@pytest.mark.parametrize("decay", [0.0, -0.1, 1.0001, float("nan"), float("inf")])
def test_decay_outside_of_its_interval_is_refused(decay):
    with pytest.raises(InvalidValueError, match=r"decay .*\(0, 1\]"):
        gwrp(torch.ones(3), decay)


@pytest.mark.parametrize("decay", ["0.9", None, True, torch.tensor(0.9)])
def test_decay_must_be_a_number(decay):
    with pytest.raises(InvalidTypeError, match=r"decay .*number"):
        gwrp(torch.ones(3), decay)


@pytest.mark.parametrize("values", [torch.ones(3, dtype=torch.int64), [1.0, 2.0]])
def test_values_must_be_a_floating_tensor(values):
    with pytest.raises(InvalidTypeError, match=r"values .*floating"):
        gwrp(values, 0.9)


@pytest.mark.parametrize(("shape", "dim"), [((2, 3), 2), ((2, 3), -3), ((2, 0), 1), ((), 0)])
def test_axis_must_exist_and_have_entries(shape, dim):
    with pytest.raises(InvalidValueError, match=r"values .*dim="):
        gwrp(torch.ones(shape), 0.9, dim=dim)
