"""Gradients against central finite differences, along the gradient and three random directions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

STEPS = (1e-5, 3e-6, 1e-6, 3e-7, 1e-7, 1e-8)
"""One step must agree: large ones can cross a kink of a ReLU or a maximum, small ones drown in rounding."""

TOLERANCE = 1e-6
RANDOM_DIRECTIONS = 3

LEAST_COSINE = 1e-3
"""A direction nearer to a right angle is drawn again: its difference is lost in the rounding of the values."""


def worst_relative_error(
    evaluate: Callable[[], float], leaves: Sequence[Tensor], gradients: Sequence[Tensor], generator: torch.Generator
) -> float:
    """Largest error over the directions, each at the step where it is smallest.

    ``evaluate`` reads the leaves, which are moved in place and get their exact values back.
    """
    return max(
        smallest_relative_error(evaluate, leaves, gradients, direction)
        for direction in directions(gradients, generator)
    )


def directions(gradients: Sequence[Tensor], generator: torch.Generator) -> Iterator[list[Tensor]]:
    """Unit vectors in the space of all leaves together: the gradient's own, then random ones."""
    along = normalised(gradients)
    yield along
    left = RANDOM_DIRECTIONS
    while left:
        direction = normalised([torch.randn(g.shape, generator=generator, dtype=g.dtype) for g in gradients])
        if abs(dot(along, direction)) >= LEAST_COSINE:
            left -= 1
            yield direction


def normalised(vector: Sequence[Tensor]) -> list[Tensor]:
    norm = dot(vector, vector) ** 0.5
    assert norm > 0, "a zero gradient says nothing"
    return [part / norm for part in vector]


def dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    return sum((a * b).sum().item() for a, b in zip(left, right, strict=True))


def smallest_relative_error(
    evaluate: Callable[[], float], leaves: Sequence[Tensor], gradients: Sequence[Tensor], direction: Sequence[Tensor]
) -> float:
    """Error of the directional derivative at the best of the steps; stops at the first that is good enough."""
    analytic, errors = dot(gradients, direction), []
    for step in STEPS:
        numeric = central_difference(evaluate, leaves, direction, step)
        errors.append(abs(analytic - numeric) / max(abs(analytic), abs(numeric)))
        if errors[-1] <= TOLERANCE:
            break
    return min(errors)


@torch.no_grad()
def central_difference(
    evaluate: Callable[[], float], leaves: Sequence[Tensor], direction: Sequence[Tensor], step: float
) -> float:
    origins = [leaf.detach().clone() for leaf in leaves]

    def at(distance: float) -> float:
        for leaf, origin, part in zip(leaves, origins, direction, strict=True):
            leaf.copy_(origin + distance * part)
        with torch.enable_grad():
            return evaluate()

    difference = (at(step) - at(-step)) / (2 * step)
    for leaf, origin in zip(leaves, origins, strict=True):
        leaf.copy_(origin)
    return difference


def backward_gradients(value: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    """What ``value.backward()`` leaves in ``.grad``, zero where it leaves nothing."""
    for leaf in leaves:
        leaf.grad = None
    value.backward()
    return [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad.clone() for leaf in leaves]
