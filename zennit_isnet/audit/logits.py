"""Predictions of classifiers of one label: a single logit is for class 1 and against class 0."""

from collections.abc import Sequence

import torch
from torch import Tensor

from zennit_isnet.errors import InvalidValueError
from zennit_isnet.formulations import Target


def for_both_classes(logits: Tensor) -> Tensor:
    """Return logits ``(N, C)`` for two classes at least, from ``(N, C)`` or a single one ``(N, 1)``."""
    return logits if logits.shape[1] > 1 else torch.cat([-logits, logits], dim=1)


def probabilities(logits: Tensor) -> Tensor:
    """Return the probabilities ``(N, C)`` of two classes at least, from the same logits."""
    return logits.softmax(1) if logits.shape[1] > 1 else for_both_classes(logits).sigmoid()


def seeds_for(classes: Tensor, logits: Tensor) -> Tensor:
    """Explain the classes ``(N,)``; evidence against a single logit is evidence for class 0."""
    if logits.shape[1] > 1:
        return Target(classes)(logits)
    return (2 * classes - 1).to(logits).view(-1, 1, 1)


def check_names(names: Sequence[str], count: int) -> None:
    """Raise `InvalidValueError` unless there is a name for each of the model's classes."""
    if len(names) != count:
        raise InvalidValueError(f"classes must name the model's {count} classes; got {len(names)} names")
