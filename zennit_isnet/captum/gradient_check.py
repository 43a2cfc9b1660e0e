"""Whether heatmaps of somebody else's making are differentiable functions of the parameters."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from zennit_isnet.errors import InvalidValueError

STEPS = (1e-4, 1e-5, 1e-6)
"""One step must agree: large ones can cross a kink of a ReLU, small ones drown in single precision."""

TOLERANCE = 1e-2
"""Relative; a term that is missing from the gradient is rarely smaller."""


def check_parameter_gradient(
    heatmap_of: Callable[[nn.Module, Tensor, Tensor], Tensor], model: nn.Module, images: Tensor, seed: Tensor
) -> None:
    """Raise unless the gradient of ``Σ R²`` agrees with finite differences.

    Works on a float64 copy of the model on the CPU, with the first two images, and leaves the random states of
    PyTorch's CPU generator and of NumPy alone.

    Parameters
    ----------
    heatmap_of : callable
        ``heatmap_of(model, images, seed) -> R``.
    model : Module
        Never touched.
    images, seed : Tensor
        ``(N, C, …)`` and ``(N, C)``.

    Raises
    ------
    InvalidValueError
        If there is no gradient, or it disagrees.
    """
    twin = copy.deepcopy(model).to("cpu", torch.float64)
    few, its_seed = (value[:2].detach().to("cpu", torch.float64) for value in (images, seed))
    leaves = [parameter for parameter in twin.parameters() if parameter.requires_grad]

    def value() -> Tensor:
        with same_random_numbers():
            return heatmap_of(twin, few.clone().requires_grad_(), its_seed).square().sum()

    result = value()
    if result == 0 or not leaves:
        return
    gradients = _gradients(result, leaves)
    along = [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(gradients, leaves, strict=True)]
    direction = _mixed_with_random(along)
    analytic = _dot(along, direction)
    numeric = [_difference(value, leaves, direction, step) for step in STEPS]
    error = min(abs(analytic - n) / max(abs(analytic), abs(n), 1e-30) for n in numeric)
    if error > TOLERANCE:
        raise InvalidValueError(
            "the attribution's gradient with respect to the model's parameters is wrong: along one direction it is "
            f"{analytic:.4g}, and by finite differences {numeric[1]:.4g}. The attribution detaches something that "
            "depends on the parameters (as Captum's LayerIntegratedGradients does), or draws random numbers of its own; "
            "verify=False skips this check"
        )


def _gradients(result: Tensor, leaves: Sequence[Tensor]) -> Sequence[Tensor | None]:
    cause = None
    try:
        found = torch.autograd.grad(result, leaves, allow_unused=True) if result.requires_grad else ()
    except (AttributeError, RuntimeError, TypeError) as error:
        # hooks of the attribution, which do not expect a second backward pass
        found, cause = (), error
    if all(gradient is None for gradient in found):
        raise InvalidValueError(
            "the attribution is no differentiable function of the model's parameters, so it cannot be penalised; use "
            "one that is made of gradients, or one of zennit_isnet.attributions"
        ) from cause
    return found


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Give each block the same random numbers, and the generators their states back."""
    state = np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            np.random.seed(0)
            yield
    finally:
        np.random.set_state(state)


def _mixed_with_random(along: list[Tensor]) -> list[Tensor]:
    """Unit vector halfway between the gradient, along which it says most, and a random direction."""
    generator = torch.Generator().manual_seed(0)
    noise = [torch.randn(part.shape, generator=generator, dtype=part.dtype) for part in along]
    mixed = [a / _norm(along) + n / _norm(noise) for a, n in zip(along, noise, strict=True)]
    return [part / _norm(mixed) for part in mixed]


def _difference(
    value: Callable[[], Tensor], leaves: Sequence[Tensor], direction: Sequence[Tensor], step: float
) -> float:
    """Central difference of ``value``, which reads the leaves; they get their values back."""
    origins = [leaf.detach().clone() for leaf in leaves]

    def move(distance: float) -> None:
        with torch.no_grad():
            for leaf, origin, part in zip(leaves, origins, direction, strict=True):
                leaf.copy_(origin + distance * part)

    move(step)
    ahead = value().item()
    move(-step)
    behind = value().item()
    move(0.0)
    return (ahead - behind) / (2 * step)


def _dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    return sum((a * b).sum().item() for a, b in zip(left, right, strict=True))


def _norm(vector: Sequence[Tensor]) -> float:
    return max(math.sqrt(_dot(vector, vector)), 1e-30)
