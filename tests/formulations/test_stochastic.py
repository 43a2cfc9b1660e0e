"""The draws of Stochastic: their frequencies, and that they can be repeated."""

import io

import pytest
import torch

from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.formulations import Stochastic

IMAGES = 40_000


def draws(formulation, logits):
    return formulation(logits)[:, 0].argmax(dim=1)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_half_of_the_draws_are_the_highest_and_the_others_are_alike(classes, generator):
    logits = torch.randn(IMAGES, classes, generator=generator)
    drawn = draws(Stochastic(generator), logits)
    # Count by rank, so that the classes beside the highest can be told apart whatever it is.
    rank = logits.argsort(dim=1, descending=True).argsort(dim=1)[torch.arange(IMAGES), drawn]
    frequency = rank.bincount(minlength=classes) / IMAGES
    expected = torch.tensor([0.5] + [0.5 / (classes - 1)] * (classes - 1))
    deviation = (expected * (1 - expected) / IMAGES).sqrt()
    assert ((frequency - expected).abs() < 4 * deviation).all()


def test_the_others_are_alike_by_class_too(generator):
    logits = torch.zeros(IMAGES, 4)
    logits[:, 2] = 1
    frequency = draws(Stochastic(generator), logits).bincount(minlength=4) / IMAGES
    torch.testing.assert_close(frequency, torch.tensor([1 / 6, 1 / 6, 1 / 2, 1 / 6]), rtol=0, atol=0.012)


def test_images_are_drawn_independently(generator):
    highest = draws(Stochastic(generator), torch.eye(2)[torch.zeros(IMAGES, dtype=torch.int64)]) == 0
    both = (highest[::2] & highest[1::2]).float().mean()
    assert both == pytest.approx(0.25, abs=0.015)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_seeds_are_one_hot_in_the_dtype_of_the_logits(dtype, generator):
    seeds = Stochastic(generator)(torch.randn(50, 5, generator=generator).to(dtype))
    assert seeds.dtype == dtype
    assert seeds.shape == (50, 1, 5)
    assert (seeds.sort(dim=2).values == torch.tensor([0, 0, 0, 0, 1], dtype=dtype)).all()


def test_the_only_logit_is_always_explained(generator):
    before = generator.get_state()
    assert Stochastic(generator)(torch.randn(4, 1)).tolist() == [[[1.0]]] * 4
    assert torch.equal(generator.get_state(), before)


def test_the_same_seed_draws_the_same():
    logits = torch.randn(200, 10)
    first, second, other = (draws(Stochastic(torch.Generator().manual_seed(seed)), logits) for seed in (7, 7, 8))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_a_generator_of_ones_own_leaves_the_global_one_alone(generator):
    before = torch.get_rng_state()
    Stochastic(generator)(torch.randn(20, 10, generator=generator))
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_generator_the_global_one_is_used():
    logits = torch.randn(200, 10)
    torch.manual_seed(11)
    first = draws(Stochastic(), logits)
    torch.manual_seed(11)
    assert torch.equal(draws(Stochastic(), logits), first)


def test_a_saved_state_goes_on_where_it_was():
    logits = torch.randn(200, 10)
    formulation = Stochastic(torch.Generator().manual_seed(1))
    formulation(logits)
    file = io.BytesIO()
    torch.save(formulation.state_dict(), file)
    file.seek(0)
    resumed = Stochastic(torch.Generator())
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(draws(resumed, logits), draws(formulation, logits))


def test_a_state_that_does_not_fit_is_refused(generator):
    with pytest.raises(InvalidValueError, match=r"with the keys \['generator'\]; got \[\]"):
        Stochastic(generator).load_state_dict({})


@pytest.mark.parametrize("generator", [0, "cpu", torch.manual_seed])
def test_what_is_no_generator_is_refused(generator):
    with pytest.raises(InvalidTypeError, match=r"generator must be a torch.Generator or None; got"):
        Stochastic(generator)


def test_a_generator_elsewhere_than_on_the_cpu_is_refused():
    class Elsewhere(torch.Generator):
        device = torch.device("meta")

    with pytest.raises(InvalidValueError, match=r"generator must be on the CPU.*got meta"):
        Stochastic(Elsewhere())
