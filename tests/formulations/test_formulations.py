"""Formulations: their seeds against definitions, and their errors."""

import pytest
import torch

from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.formulations import Formulation, Original, Selective, Stochastic, Target


def score_of_the_lowest(logits, delta):
    """The softmax score that Selective explains, as its definition has it."""
    probability = logits.softmax(dim=1)[torch.arange(len(logits)), logits.argmin(dim=1)]
    return torch.log(probability + delta) - torch.log(1 - probability + delta)


@pytest.mark.parametrize("delta", [0.0, 1e-2, 1e-4, 1.0])
@pytest.mark.parametrize("classes", [2, 5, 1000])
@pytest.mark.parametrize("spread", [0.1, 1.0, 5.0])
def test_selective_is_the_gradient_of_its_score(delta, classes, spread, generator):
    logits = (spread * torch.randn(6, classes, dtype=torch.float64, generator=generator)).requires_grad_()
    (expected,) = torch.autograd.grad(score_of_the_lowest(logits, delta).sum(), logits)
    seeds = Selective(delta)(logits)
    assert seeds.shape == (6, 1, classes)
    torch.testing.assert_close(seeds[:, 0], expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("delta", [0.0, 1e-2])
def test_selective_is_differentiable_in_the_logits(delta, generator):
    logits = torch.randn(3, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(Selective(delta), (logits,))


def test_selective_does_not_vanish_for_a_certain_classifier_unless_delta_makes_it():
    certain = torch.tensor([[200.0, 1.0, 0.0]])
    assert Selective()(certain).tolist() == [[[-1.0, 0.0, 1.0]]]
    assert Selective(1e-2)(certain).abs().max() < 1e-12


def test_selective_sums_to_zero_and_opposes_the_other_classes(generator):
    logits = torch.randn(8, 10, generator=generator)
    seeds = Selective()(logits)[:, 0]
    torch.testing.assert_close(seeds.sum(dim=1), torch.zeros(8), rtol=0, atol=1e-6)
    assert torch.equal(seeds.argmax(dim=1), logits.argmin(dim=1))
    assert ((seeds > 0).sum(dim=1) == 1).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_selective_is_computed_in_float32_and_returned_in_the_dtype_of_the_logits(dtype, generator):
    logits = torch.randn(4, 10, generator=generator).to(dtype)
    seeds = Selective()(logits)
    assert seeds.dtype == dtype
    torch.testing.assert_close(seeds, Selective()(logits.float()).to(dtype), rtol=0, atol=0)


def test_selective_stays_finite_for_extreme_logits():
    logits = torch.tensor([[1e4, -1e4, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    seeds = Selective()(logits)
    (gradient,) = torch.autograd.grad(seeds.square().sum(), logits)
    assert seeds.isfinite().all()
    assert gradient.isfinite().all()
    assert seeds[1].any()


def test_selective_with_one_class_is_refused_with_a_remedy():
    with pytest.raises(InvalidValueError, match=r"at least two; got logits of shape \(4, 1\); use Stochastic\(\)"):
        Selective()(torch.randn(4, 1))


@pytest.mark.parametrize("delta", [-1e-9, -1.0, float("nan")])
def test_selective_refuses_a_negative_delta(delta):
    with pytest.raises(InvalidValueError, match=r"delta must lie in \[0, inf\); got"):
        Selective(delta)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_original_explains_each_class(dtype):
    seeds = Original()(torch.randn(3, 5).to(dtype))
    assert seeds.dtype == dtype
    assert torch.equal(seeds, torch.eye(5, dtype=dtype).repeat(3, 1, 1))


@pytest.mark.parametrize(
    "classes", [2, torch.tensor(2), torch.tensor([2, 2, 2]), torch.tensor([2, 2, 2]).to(torch.int8)]
)
def test_target_explains_the_given_class(classes):
    seeds = Target(classes)(torch.randn(3, 4))
    assert seeds[:, 0].tolist() == [[0.0, 0.0, 1.0, 0.0]] * 3
    assert seeds.shape == (3, 1, 4)


def test_target_explains_one_class_for_each_image_and_keeps_a_copy():
    classes = torch.tensor([3, 0, 1])
    formulation = Target(classes)
    classes.fill_(100)
    assert formulation(torch.randn(3, 4)).argmax(dim=2).flatten().tolist() == [3, 0, 1]


@pytest.mark.parametrize("classes", [7, torch.tensor([0, 7, 4, 9])])
def test_target_beyond_the_classes_names_values_and_number(classes):
    values = r"\[7\]" if isinstance(classes, int) else r"\[4, 7, 9\]"
    with pytest.raises(InvalidValueError, match=rf"lie in 0, ..., 3; got {values}"):
        Target(classes)(torch.randn(4, 4))


@pytest.mark.parametrize("classes", [-1, torch.tensor([0, -1])])
def test_target_counts_from_zero(classes):
    with pytest.raises(InvalidValueError, match=r"classes must (be at least 0; got -1|not be negative; got \[-1\])"):
        Target(classes)


@pytest.mark.parametrize("classes", [1.0, "cat", None, True, [1, 2], torch.tensor([1.0]), torch.tensor([True])])
def test_target_takes_integers_only(classes):
    with pytest.raises(
        InvalidTypeError,
        match=r"classes must be an? (int|tensor of integers).*; got",
    ):
        Target(classes)


def test_target_needs_one_class_for_each_image():
    with pytest.raises(InvalidValueError, match=r"shape \(3,\) on cpu; got \(2,\)"):
        Target(torch.tensor([0, 1]))(torch.randn(3, 4))
    with pytest.raises(InvalidValueError, match=r"shape \(1,\) on cpu; got \(1, 2\)"):
        Target(torch.tensor([[0, 1]]))(torch.randn(1, 3))


FORMULATIONS = [Selective(), Stochastic(), Original(), Target(1)]


@pytest.mark.parametrize("formulation", FORMULATIONS, ids=repr)
def test_logits_are_checked(formulation):
    for shape in ((3,), (3, 4, 5), (3, 0)):
        with pytest.raises(InvalidValueError, match=r"logits must have shape \(N, C\) with C >= 1; got \(3,"):
            formulation(torch.ones(shape))
    with pytest.raises(InvalidTypeError, match=r"logits must be a floating tensor; got torch.int64"):
        formulation(torch.ones(3, 4, dtype=torch.int64))
    with pytest.raises(InvalidTypeError, match="logits must be a floating tensor; got tuple"):
        formulation((torch.ones(3, 4),))


@pytest.mark.parametrize("formulation", FORMULATIONS, ids=repr)
def test_no_images_give_no_seeds(formulation):
    seeds = formulation(torch.ones(0, 4))
    assert seeds.shape == (0, 4 if isinstance(formulation, Original) else 1, 4)


def test_reprs_say_how_to_build_it_again():
    assert repr(Selective()) == "Selective()"
    assert repr(Selective(0.01)) == "Selective(delta=0.01)"
    assert repr(Original()) == "Original()"
    assert repr(Target(3)) == "Target(classes=3)"
    assert repr(Target(torch.tensor([1, 2]))) == "Target(classes=[1, 2])"
    assert repr(Stochastic()) == "Stochastic()"
    assert "seed 5" in repr(Stochastic(torch.Generator().manual_seed(5)))


def test_a_formulation_of_ones_own_writes_seeds_only():
    class Difference(Formulation):
        def seeds(self, logits):
            return torch.tensor([1.0, -1.0]).expand(len(logits), 1, 2)

    formulation = Difference()
    assert formulation(torch.zeros(3, 2)).tolist() == [[[1.0, -1.0]]] * 3
    assert formulation.state_dict() == {}
    assert repr(formulation) == "Difference()"
    with pytest.raises(TypeError, match="abstract"):
        Formulation()


@pytest.mark.parametrize("formulation", [Selective(), Original(), Target(1), Stochastic()], ids=repr)
def test_without_state_the_state_is_empty_and_nothing_else_loads(formulation):
    assert formulation.state_dict() == {}
    assert formulation.load_state_dict({}) is None
    with pytest.raises(InvalidValueError, match=r"with the keys \[\]; got \['generator'\]"):
        formulation.load_state_dict({"generator": torch.zeros(1)})


@pytest.mark.parametrize("formulation", [*FORMULATIONS, Target(torch.tensor([0, 1, 2]))], ids=repr)
def test_no_value_is_read_back_from_the_device(formulation):
    # The meta device has no values, so whatever reads one raises.
    seeds = formulation(torch.ones(3, 4, device="meta"))
    assert seeds.shape[2] == 4
    assert seeds.device.type == "meta"
