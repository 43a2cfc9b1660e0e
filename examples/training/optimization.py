"""Optimizer, learning rate, weight of the penalty, and the loss of the classifier."""

from __future__ import annotations

import argparse
import warnings
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    SequentialLR,
    StepLR,
)

from zennit_isnet.errors import InvalidValueError

AUXILIARY_WEIGHT = 0.3
"""Of the loss of each auxiliary head (Szegedy et al., Going deeper with convolutions, CVPR 2015, section 5)."""

WARMUP_START = 0.01
"""Share of the learning rate at which a linear warm-up begins."""


class PenaltyWeight:
    """P, the weight of the penalty in ``(1 − P) · classification + P · penalty``, constant or by epoch.

    Parameters
    ----------
    text : str
        A number in [0, 1], or ``"epoch:number"`` pairs with commas between them: each number holds from its epoch on,
        counted from 0, and the first pair must begin at epoch 0.

    Raises
    ------
    InvalidValueError
        If the text is not of this form.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            pairs = [part.split(":") for part in text.split(",")] if ":" in text else [["0", text]]
            self.steps = [(int(epoch), float(weight)) for epoch, weight in pairs]
        except ValueError as error:
            raise InvalidValueError(f"--weight must be a number or pairs such as 0:0.3,10:0.7; got {text!r}") from error
        epochs = [epoch for epoch, _ in self.steps]
        if epochs[0] != 0 or epochs != sorted(set(epochs)):
            raise InvalidValueError(f"the epochs of --weight must begin at 0 and increase; got {text!r}")
        if not all(0 <= weight <= 1 for _, weight in self.steps):
            raise InvalidValueError(f"--weight must lie in [0, 1]; got {text!r}")

    def at(self, epoch: int) -> float:
        """Return the weight of an epoch."""
        return [weight for start, weight in self.steps if start <= epoch][-1]


def make_optimizer(model: nn.Module, options: argparse.Namespace) -> Optimizer:
    """Return the optimizer of the model's parameters."""
    if options.optimizer == "sgd":
        return SGD(
            model.parameters(),
            options.lr,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
            nesterov=options.momentum > 0,
        )
    return AdamW(model.parameters(), options.lr, weight_decay=options.weight_decay)


def warn_about_adamw() -> None:
    """Say what is known of AdamW together with the heatmap loss."""
    warnings.warn(
        "with AdamW the heatmaps can become clean while the model still uses the background, which acts through the "
        "gates; prefer --optimizer sgd, or add --swap-probability 0.5, and judge by the accuracy on swapped "
        "backgrounds",
        stacklevel=2,
    )


def make_schedule(optimizer: Optimizer, options: argparse.Namespace, *, epochs: int, steps: int) -> LRScheduler:
    """Return the learning rate by step.

    Parameters
    ----------
    optimizer : Optimizer
        Its learning rate is the highest one.
    options : Namespace
        ``schedule``, ``lr``, ``warmup_epochs`` (a part of an epoch is allowed), ``decay_epochs`` and ``decay_factor``.
    epochs, steps : int
        Epochs of the training, and optimizer steps of one epoch.

    Raises
    ------
    InvalidValueError
        If the warm-up is not shorter than the training.
    """
    total, warmup = epochs * steps, round(options.warmup_epochs * steps)
    if warmup >= total:
        raise InvalidValueError(
            f"--warmup-epochs must be shorter than the training of {epochs} epoch(s), got {options.warmup_epochs}"
        )
    if options.schedule == "onecycle":
        # by itself it warms up for 30 % of the steps
        rise = {"pct_start": warmup / total} if warmup else {}
        return OneCycleLR(optimizer, options.lr, total_steps=total, **rise)
    begin = LinearLR(optimizer, WARMUP_START, total_iters=warmup) if warmup else None
    after: LRScheduler = (
        CosineAnnealingLR(optimizer, total - warmup)
        if options.schedule == "cosine"
        else StepLR(optimizer, options.decay_epochs * steps, options.decay_factor)
    )
    return after if begin is None else SequentialLR(optimizer, [begin, after], [warmup])


def classification_loss(output: Any, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the loss of the main head, and of auxiliary heads where the model has them.

    Parameters
    ----------
    output : Tensor or named tuple of Tensor
        Logits ``(N, C)``; auxiliary heads may be None.
    labels : Tensor
        Integers ``(N,)`` for cross-entropy, or floating 0 and 1 ``(N, C)`` for binary cross-entropy of each label.
    smoothing : float, default 0.0
        Share of a label's weight that all classes have alike, or both answers where each class is a label of its own.

    Returns
    -------
    Tensor
        A scalar.
    """
    main, *others = output if isinstance(output, tuple) else (output,)

    def loss(logits: Tensor) -> Tensor:
        if labels.is_floating_point():
            return F.binary_cross_entropy_with_logits(logits.float(), labels * (1 - smoothing) + smoothing / 2)
        return F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)

    total = loss(main)
    for auxiliary in others:
        if auxiliary is not None:
            total = total + AUXILIARY_WEIGHT * loss(auxiliary)
    return total


def gradient_norm(model: nn.Module, highest: float) -> Tensor:
    """Clip the gradients to a norm (0: leave them alone) and return the norm that they had."""
    return nn.utils.clip_grad_norm_(model.parameters(), highest or float("inf"))
