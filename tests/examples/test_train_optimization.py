"""Learning rate, weight of the penalty, and the loss of the classifier."""

from __future__ import annotations

import re
from collections import namedtuple

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from training.models import make_classifier
from training.optimization import PenaltyWeight, classification_loss, gradient_norm, make_optimizer, make_schedule
from training.options import parse
from training.penalty import make_regularizer

from zennit_isnet import ISNetRegularizer
from zennit_isnet.errors import InvalidValueError

Heads = namedtuple("Heads", ["logits", "aux1", "aux2"])


def rates(*options: str, epochs: int = 5, steps: int = 4) -> list[float]:
    """The learning rate of each step."""
    parsed = parse([*options, "--lr", "1.0"])
    optimizer = make_optimizer(nn.Linear(1, 1), parsed)
    schedule = make_schedule(optimizer, parsed, epochs=epochs, steps=steps)
    found = []
    for _ in range(epochs * steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("schedule", ["cosine", "step"])
def test_warm_up_is_linear(schedule: str):
    rising = rates("--schedule", schedule, "--warmup-epochs", "1.5")[:7]
    differences = torch.tensor(rising).diff()
    assert torch.allclose(differences, differences[0].expand(6), atol=1e-6)
    assert rising[-1] == pytest.approx(1.0)


def test_cosine_ends_near_zero_and_passes_one_half_in_the_middle():
    found = rates("--schedule", "cosine")
    assert found[0] == 1
    assert found[10] == pytest.approx(0.5)
    assert found[-1] < 0.01


def test_steps_divide_by_the_factor_every_few_epochs():
    found = rates("--schedule", "step", "--decay-epochs", "2", "--decay-factor", "0.1")
    assert found[::4] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_one_cycle_rises_as_long_as_the_warm_up():
    assert max(range(20), key=rates("--warmup-epochs", "2").__getitem__) == 7
    assert max(range(20), key=rates().__getitem__) == 5


def test_warm_up_must_be_shorter_than_the_training():
    with pytest.raises(InvalidValueError, match=r"--warmup-epochs must be shorter than the training of 5 epoch.*5\.0"):
        rates("--warmup-epochs", "5")


def test_weight_of_the_penalty_by_epoch():
    weight = PenaltyWeight("0:0.3,2:0.7")
    assert [weight.at(epoch) for epoch in range(4)] == [0.3, 0.3, 0.7, 0.7]
    assert PenaltyWeight("0.5").at(9) == 0.5


@pytest.mark.parametrize("text", ["much", "1.5", "0:0.1,0:0.2", "3:0.1", "0:0.5,2:-1", "0:0.5,5:0.1,2:0.3", "0:0.5,"])
def test_other_weights_are_refused(text: str):
    with pytest.raises(InvalidValueError, match=r"--weight"):
        PenaltyWeight(text)


def test_single_labels_and_several_labels_have_their_own_loss():
    logits = torch.randn(4, 3)
    classes, several = torch.tensor([0, 1, 2, 0]), torch.tensor([[1.0, 0, 1]] * 4)
    assert torch.equal(classification_loss(logits, classes), cross_entropy(logits, classes))
    assert torch.equal(classification_loss(logits, several), binary_cross_entropy_with_logits(logits, several))


def test_smoothing_gives_every_class_or_answer_a_share():
    logits, classes = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    several = torch.randint(2, (4, 3)).float()
    shares = 0.9 * nn.functional.one_hot(classes, 3) + 0.1 / 3
    assert torch.allclose(classification_loss(logits, classes, 0.1), cross_entropy(logits, shares))
    answers = torch.where(several > 0, 0.95, 0.05)
    assert torch.allclose(classification_loss(logits, several, 0.1), binary_cross_entropy_with_logits(logits, answers))


def test_auxiliary_heads_count_with_their_weight():
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    main = cross_entropy(logits, labels)
    assert torch.allclose(classification_loss(Heads(logits, logits, logits), labels), 1.6 * main)
    assert torch.allclose(classification_loss(Heads(logits, None, logits), labels), 1.3 * main)


def test_clipping_at_zero_leaves_gradients_alone():
    model = nn.Linear(2, 1)
    model(torch.tensor([[30.0, 40.0]])).sum().backward()
    before = model.weight.grad.clone()
    assert gradient_norm(model, 0.0).item() == pytest.approx((before.square().sum() + 1).sqrt().item())
    assert torch.equal(model.weight.grad, before)
    gradient_norm(model, 1.0)
    assert gradient_norm(model, 0.0).item() == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs", "0"], "--epochs must be at least 1"),
        (["--data", "folder"], "--data folder needs --images"),
        (["--data", "csv"], "--data csv needs --csv"),
        (["--val-images", "x", "--data", "csv", "--csv", "y"], "--val-images and --val-masks belong together"),
        (["--weight", "2"], r"--weight must lie in \[0, 1\]"),
        (["--swap-probability", "1.2"], "--swap-probability must lie in"),
        (["--label-smoothing", "-0.1"], "--label-smoothing must lie in"),
        (["--clip", "-1"], "--clip must not be negative"),
        (["--formulation", "random"], "--formulation"),
    ],
)
def test_bad_options_end_with_a_usage_message(options: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        parse(options)
    assert re.search(message, capsys.readouterr().err)


def test_defaults_follow_the_optimizer_and_the_data():
    sgd, adamw = parse([]), parse(["--optimizer", "adamw"])
    assert (sgd.lr, sgd.weight_decay, sgd.size) == (0.05, 5e-4, 32)
    assert (adamw.lr, adamw.weight_decay) == (0.001, 0.05)
    assert parse(["--data", "oxford-pet", "--root", "x"]).size == 224


def test_the_penalty_is_the_packages_unless_the_command_line_says_otherwise():
    model, usual = make_classifier("resnet18", 3).model, ISNetRegularizer(nn.Linear(1, 1))
    found = make_regularizer(model, parse([]), None, seed=0)
    assert repr(found.loss.loss) == repr(usual.loss)
    assert type(found.formulation) is type(usual.formulation)
    for name in ("epsilon", "epsilon_ratio", "reference", "box"):
        assert getattr(found.attribution.composites[0], name) == getattr(usual.attribution.composites[0], name)
    assert found.attribution.layers == usual.attribution.layers
    papers = ["--epsilon", "0.01", "--decay", "0.9", "--background-scale", "1", "--layers", "--reference", "zero"]
    other = make_regularizer(model, parse(papers), None, seed=0)
    assert (other.loss.loss.decay, other.loss.loss.background_scale) == (0.9, 1.0)
    assert (other.attribution.composites[0].epsilon, other.attribution.composites[0].reference) == (0.01, None)
    assert not other.attribution.layers
