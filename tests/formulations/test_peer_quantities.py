"""The quantities that other training methods explain: their seeds against definitions, and their errors."""

import pytest
import torch

from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.formulations import AllLogits, Contrast, Label, LogProbabilities, Predicted, SoftmaxGradient


@pytest.mark.parametrize("classes", [2, 5, 100])
def test_log_probabilities_is_the_gradient_of_their_sum(classes, generator):
    logits = torch.randn(4, classes, dtype=torch.float64, generator=generator, requires_grad=True)
    (expected,) = torch.autograd.grad(logits.log_softmax(dim=1).sum(), logits)
    torch.testing.assert_close(LogProbabilities()(logits)[:, 0], expected, rtol=1e-9, atol=1e-12)


def test_softmax_gradient_is_the_gradient_of_the_highest_score(generator):
    logits = torch.randn(4, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    (expected,) = torch.autograd.grad(logits.softmax(dim=1).amax(dim=1).sum(), logits)
    torch.testing.assert_close(SoftmaxGradient()(logits), expected.unsqueeze(1), rtol=1e-9, atol=1e-12)


def test_all_logits_is_the_gradient_of_their_sum():
    assert torch.equal(AllLogits()(torch.randn(2, 3)), torch.ones(2, 1, 3))


def test_log_probabilities_is_differentiable_in_the_logits(generator):
    logits = torch.randn(3, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(LogProbabilities(), (logits,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_log_probabilities_is_computed_in_float32(dtype, generator):
    logits = torch.randn(4, 1000, generator=generator).to(dtype)
    seeds = LogProbabilities()(logits)
    assert seeds.dtype == dtype
    torch.testing.assert_close(seeds, LogProbabilities()(logits.float()).to(dtype), rtol=0, atol=0)


def test_contrast_of_two_classes_is_the_gradient_of_their_absolute_difference(generator):
    logits = torch.randn(8, 2, generator=generator, requires_grad=True)
    (expected,) = torch.autograd.grad((logits[:, 0] - logits[:, 1]).abs().sum(), logits)
    assert torch.equal(Contrast()(logits)[:, 0], expected)


def test_contrast_compares_the_two_highest_logits():
    seeds = Contrast()(torch.tensor([[4.0, 1.0, 3.0], [0.0, 2.0, -1.0]]))
    assert seeds.tolist() == [[[1.0, 0.0, -1.0]], [[-1.0, 1.0, 0.0]]]


@pytest.mark.parametrize("formulation", [Contrast(), LogProbabilities()], ids=repr)
def test_what_compares_classes_refuses_a_single_one(formulation):
    with pytest.raises(InvalidValueError, match=r"at least two; got logits of shape \(4, 1\)"):
        formulation(torch.randn(4, 1))


def test_predicted_explains_the_highest_logit():
    assert Predicted()(torch.tensor([[4.0, 1.0], [0.0, 2.0]])).tolist() == [[[1.0, 0.0]], [[0.0, 1.0]]]


def test_label_explains_the_labels_of_the_call():
    seeds = Label()(torch.randn(2, 3), torch.tensor([2, 0]))
    assert seeds.tolist() == [[[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]]]


def test_labels_are_needed():
    with pytest.raises(InvalidValueError, match=r"got no labels.*labels="):
        Label()(torch.randn(2, 3))


@pytest.mark.parametrize(
    ("images", "labels", "error", "match"),
    [
        (2, torch.tensor([2.0, 0.0]), InvalidTypeError, "torch.float32"),
        (2, torch.tensor([1, 3]), InvalidValueError, r"\[3\]"),
        (3, torch.tensor([1, 2]), InvalidValueError, r"\(3,\) on cpu; got \(2,\)"),
    ],
)
def test_wrong_labels_are_refused(images, labels, error, match):
    with pytest.raises(error, match=match):
        Label()(torch.randn(images, 3), labels)


@pytest.mark.parametrize("formulation", [Contrast(), LogProbabilities(), Predicted()], ids=repr)
def test_no_value_is_read_back_from_the_device(formulation):
    # The meta device has no values, so whatever reads one raises.
    assert formulation(torch.ones(3, 4, device="meta")).shape == (3, 1, 4)
