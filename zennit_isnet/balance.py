"""Balancing two losses: the norms of their gradients, and a factor that limits the penalty's gradient."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from zennit_isnet.checks import check_state
from zennit_isnet.errors import GradientRatioWarning, InvalidTypeError, InvalidValueError

FAR = 10.0
"""At a ratio of gradient norms this far from 1, one loss dominates the other."""

PATIENCE = 3
"""Consecutive measurements that must be that far off before a warning."""

SETTLED = 0.1, math.log(2)
"""Classification loss and penalty below which there is little left to learn: ``-log p`` of a correct and confident
classifier, and ``-log(1 − b)`` of a background as faint as the loss requires."""

_POWER = 2.0**10
"""Losses are multiplied by this before differentiation, so that small gradients survive float16."""


class GradientNorms(NamedTuple):
    """Gradient norms over all trainable parameters, for each unweighted loss.

    Attributes
    ----------
    classification, penalty : float
        Norm of each gradient.
    """

    classification: float
    penalty: float

    @property
    def ratio(self) -> float:
        """The penalty's norm divided by the classification loss's; infinite if that is zero."""
        return self.penalty / self.classification if self.classification else math.inf


def gradient_norms(
    model: nn.Module, classification: Tensor, penalty: Tensor, *, everywhere: bool = False
) -> GradientNorms:
    """Measure the norm of each loss's gradient; see `ISNetRegularizer.gradient_norms`.

    With several processes, of the gradient averaged over them, which is the one that the optimizer gets. With
    `everywhere`, all processes call this although the model is not wrapped, as in Lightning.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    for name, loss in (("classification", classification), ("penalty", penalty)):
        if not isinstance(loss, Tensor):
            raise InvalidTypeError(f"{name} must be a scalar Tensor; got {type(loss).__name__}")
        if loss.numel() != 1:
            raise InvalidValueError(f"{name} must be a scalar; got shape {tuple(loss.shape)}; reduce it to its mean")
    norms = []
    for loss in (classification, penalty):
        gradient = _gradient(loss, parameters)
        if everywhere or isinstance(model, DistributedDataParallel):
            group = model.process_group if isinstance(model, DistributedDataParallel) else None
            distributed.all_reduce(gradient, group=group)
            gradient /= distributed.get_world_size(group)
        norms.append(torch.linalg.vector_norm(gradient) / _POWER)
    return GradientNorms(*torch.stack(norms).tolist())


def _gradient(loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Return the gradient of a loss times `_POWER` as one vector, with zeros for parameters that it does not depend on.

    All processes need the same parameters in it, even if one has no mask in its batch.
    """
    found: Sequence[Tensor | None] = [None] * len(parameters)
    if loss.requires_grad:
        found = torch.autograd.grad(loss.sum() * _POWER, parameters, retain_graph=True, allow_unused=True)
    # not every accelerator supports float64
    dtype = torch.promote_types(loss.dtype, torch.float32)
    parts = [
        loss.new_zeros(p.numel(), dtype=dtype) if gradient is None else gradient.flatten().to(loss.device, dtype)
        for p, gradient in zip(parameters, found, strict=True)
    ]
    return torch.cat(parts) if parts else loss.new_zeros(1, dtype=dtype)


class LossBalance:
    """Factor ``λ`` that keeps the penalty's gradient within a limit, measured at every n-th step.

    ``λ = min(1, limit · m / ‖∇penalty‖)`` with ``m`` the mean of ``‖∇classification‖`` over all measurements. The mean
    is used instead of the latest value because a classifier that has learned a shortcut has almost no gradient left,
    and needs the penalty most.

    Parameters
    ----------
    limit : float
        Largest ratio of the two norms.
    every : int
        Steps between measurements. A measurement costs about as much as a penalised step.

    Attributes
    ----------
    everywhere : bool
        See `gradient_norms`; initially False.
    """

    def __init__(self, limit: float, every: int) -> None:
        self.limit, self.every = limit, every
        self.calls, self.measurements, self.mean, self.factor = 0, 0, 0.0, 1.0
        self.norms: GradientNorms | None = None
        self.everywhere = False
        self._watch = RatioWatch()

    def __call__(self, model: nn.Module, classification: Tensor, penalty: Tensor, *, stacklevel: int = 2) -> float:
        """Count a step, measure if due, and return the factor."""
        if self.calls % self.every == 0:
            norms = gradient_norms(model, classification, penalty, everywhere=self.everywhere)
            # the factor is kept after a half-precision overflow, and if no image of the batch has a mask
            if all(map(math.isfinite, norms)) and norms.penalty > 0:
                self.norms = norms
                self.measurements += 1
                self.mean += (norms.classification - self.mean) / self.measurements
                self.factor = min(1.0, self.limit * self.mean / norms.penalty) if self.mean else 1.0
                usual = GradientNorms(self.mean, self.factor * norms.penalty)
                losses = classification.item(), penalty.item()
                self._watch.see(usual.ratio, losses, f"{self.every * PATIENCE} steps", stacklevel + 1)
        self.calls += 1
        return self.factor

    def state_dict(self) -> dict[str, float]:
        """Return the state that a resumed training needs."""
        return {name: getattr(self, name) for name in ("calls", "measurements", "mean", "factor")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        check_state(self, state)
        for name, value in state.items():
            setattr(self, name, type(getattr(self, name))(value))


class RatioWatch:
    """Warns if one gradient has dominated the other in consecutive measurements.

    Losses that are already small are ignored: their gradient should be small.
    """

    def __init__(self) -> None:
        self._high = self._low = 0

    def see(self, ratio: float, losses: tuple[float, float], span: str, stacklevel: int) -> None:
        """Count a ratio of the penalty's norm to the classification loss's; `span` is the period named in a warning."""
        self._high = self._high + 1 if ratio > FAR and losses[0] > SETTLED[0] else 0
        self._low = self._low + 1 if ratio < 1 / FAR and losses[1] > SETTLED[1] else 0
        if PATIENCE not in (self._high, self._low):
            return
        if self._high:
            loud, quiet, factor = "penalty", "classification loss", ratio
            remedy = "combine them with regularizer.balanced(…), or use a smaller weight P"
        else:
            loud, quiet, factor = "classification loss", "penalty", 1 / ratio if ratio else math.inf
            remedy = "use a larger weight P, and look for a VanishedRelevanceWarning"
        found = f"for {span} the gradient of the {loud} has had over {FAR:g} times the norm of the {quiet}'s gradient"
        message = f"{found} ({factor:.3g} times now), so the {quiet} has almost no effect: {remedy}"
        warnings.warn(message, GradientRatioWarning, stacklevel=stacklevel + 1)
