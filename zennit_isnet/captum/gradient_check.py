"""Whether heatmaps of somebody else's making are differentiable functions of the parameters."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from zennit_isnet.errors import InvalidValueError

STEPS = (1e-5, 1e-6, 1e-7, 1e-8, 1e-4)
"""One step must agree: large ones can cross a kink of a ReLU, small ones drown in rounding."""

TOLERANCE = 1e-4
"""Relative."""


def check_parameter_gradient(
    heatmap_of: Callable[[nn.Module, Tensor, Tensor], Tensor], model: nn.Module, images: Tensor, seed: Tensor
) -> bool:
    """Raise unless the gradient of ``Σ R²`` agrees with finite differences.

    Works on a float64 copy of the model, and leaves the random states of PyTorch and NumPy alone.

    Parameters
    ----------
    heatmap_of : callable
        ``heatmap_of(model, images, seed) -> R``.
    model : Module
        Never touched.
    images, seed : Tensor
        ``(N, C, …)`` and ``(N, C)``.

    Returns
    -------
    bool
        Whether there was something to compare: a heatmap that is not zero, and parameters that are trained.

    Raises
    ------
    InvalidValueError
        If there is no gradient, or it disagrees.
    """
    # MPS has no double precision
    device = torch.device("cpu") if images.device.type == "mps" else images.device
    twin = copy.deepcopy(model).to(device, torch.float64)
    images, seed = (value.detach().to(device, torch.float64) for value in (images, seed))
    leaves = [parameter for parameter in twin.parameters() if parameter.requires_grad]

    def value() -> Tensor:
        with same_random_numbers(device):
            return heatmap_of(twin, images.clone().requires_grad_(), seed).square().sum()

    if not leaves:
        return False
    result = value()
    gradients = _gradients(result, leaves)
    if result == 0:
        return False
    along = [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(gradients, leaves, strict=True)]
    for direction in (_unit(along), _random(along)):
        _check_along(direction, value, leaves, along)
    return True


def _check_along(
    direction: Sequence[Tensor], value: Callable[[], Tensor], leaves: Sequence[Tensor], gradients: Sequence[Tensor]
) -> None:
    analytic, numeric = _dot(gradients, direction), []
    for step in STEPS:
        numeric.append(_difference(value, leaves, direction, step))
        if abs(analytic - numeric[-1]) <= TOLERANCE * max(abs(analytic), abs(numeric[-1])):
            return
    raise InvalidValueError(
        "the attribution's gradient with respect to the model's parameters is wrong: along one direction it is "
        f"{analytic:.6g}, and by finite differences {', '.join(f'{n:.6g}' for n in numeric)}. The attribution detaches "
        "something that depends on the parameters (as Captum's LayerIntegratedGradients does), or draws random numbers "
        "of its own; verify=False skips this check"
    )


def _gradients(result: Tensor, leaves: Sequence[Tensor]) -> Sequence[Tensor | None]:
    cause: Exception | None = None
    try:
        found = torch.autograd.grad(result, leaves, allow_unused=True) if result.requires_grad else ()
    except (AttributeError, RuntimeError, TypeError) as error:
        # hooks of the attribution, which do not expect a second backward pass
        found, cause = (), error
    if all(gradient is None for gradient in found):
        raise InvalidValueError(
            "the attribution is no differentiable function of the model's parameters, so it cannot be penalised; use "
            "one that is made of gradients, or one of zennit_isnet.gradients"
            + (f" ({type(cause).__name__}: {cause})" if cause else "")
        ) from cause
    return found


@contextmanager
def same_random_numbers(device: torch.device) -> Iterator[None]:
    """Give each block the same random numbers, and the generators their states back."""
    state = np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            # not torch.manual_seed, which reaches all devices
            torch.default_generator.manual_seed(0)
            if device.type == "cuda":
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(0)
            np.random.seed(0)
            yield
    finally:
        np.random.set_state(state)


def _unit(vector: Sequence[Tensor]) -> list[Tensor]:
    """Direction of a gradient, along which it says most."""
    norm = max(math.sqrt(_dot(vector, vector)), 1e-30)
    return [part / norm for part in vector]


def _random(like: Sequence[Tensor]) -> list[Tensor]:
    """Direction in which each parameter has the same share, also one that the gradient has forgotten."""
    with same_random_numbers(like[0].device):
        return [functional.normalize(torch.randn_like(part).flatten(), dim=0).view_as(part) for part in like]


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
