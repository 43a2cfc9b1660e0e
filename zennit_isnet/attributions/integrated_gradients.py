"""Gradients on the way from a baseline to the images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zennit_isnet.arguments import check_number
from zennit_isnet.attribution import INPUT
from zennit_isnet.attributions.gradient import as_source, gradient, seeds_of
from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.preservation import buffers_restored, unwrapped
from zennit_isnet.validation import main_logits


class IntegratedGradients:
    """``R = (x − x₀) ⊙ ∫₀¹ ∂q/∂x (x₀ + α(x − x₀)) dα``, by Gauss-Legendre quadrature.

    ``ΣR = q(x) − q(x₀)`` up to the error of the quadrature, for the quantity ``q = Σ_c s_c y_c`` whose seed ``s``
    the formulation chose at the images. Captum's `IntegratedGradients`, differentiable.

    Each step costs a forward pass and a double backward pass, and keeps its activations until the loss's backward
    pass. Only the forward pass of the images themselves moves BatchNorm statistics; in train mode the others use
    those of their own batch.

    Parameters
    ----------
    steps : int, default 8
        Points of the quadrature. Captum's 50 are meant for explaining; in training each of them costs a step.
    baseline : float or Tensor, default 0.0
        ``x₀``: a number, or a tensor that broadcasts to the images. 0 is the mean colour of normalised images.

    Raises
    ------
    InvalidTypeError
        If `steps` is no int or `baseline` neither a number nor a tensor.
    InvalidValueError
        If `steps` is smaller than 1, or `baseline` not finite.

    References
    ----------
    Sundararajan, Taly, Yan, "Axiomatic Attribution for Deep Networks", ICML 2017, equations 1 and 3.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet import Target
    >>> from zennit_isnet.attributions import IntegratedGradients
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 4), torch.nn.Tanh(), torch.nn.Flatten())
    >>> images = torch.rand(2, 1, 4, 4)
    >>> logits, relevance = IntegratedGradients()(model, images, Target(1))
    >>> relevance["input"].shape
    torch.Size([2, 1, 1, 4, 4])
    >>> difference = logits[:, 1] - model(torch.zeros_like(images))[:, 1]
    >>> torch.allclose(relevance["input"].flatten(1).sum(1), difference, atol=1e-5)
    True
    """

    def __init__(self, steps: int = 8, baseline: float | Tensor = 0.0) -> None:
        if isinstance(steps, bool) or not isinstance(steps, int):
            raise InvalidTypeError(f"steps must be an int of at least 1; got {type(steps).__name__}: {steps!r}")
        if steps < 1:
            raise InvalidValueError(f"steps must be at least 1; got {steps}")
        if not isinstance(baseline, Tensor):
            check_number("baseline", baseline, low=-float("inf"))
        self.steps = steps
        self.baseline = baseline

    def __call__(
        self, model: nn.Module, images: Tensor, formulation: Callable[[Tensor], Tensor], *, create_graph: bool = True
    ) -> tuple[Any, dict[str, Tensor]]:
        """Run the model on the images, then on each point between the baseline and them.

        Parameters, returns and errors are those of `InputGradient`.

        Raises
        ------
        InvalidValueError
            Also if the baseline does not broadcast to the images.
        """
        source = as_source(images)
        baseline = self._baseline_of(images)
        nodes, weights = np.polynomial.legendre.leggauss(self.steps)
        with torch.enable_grad():
            output = model(source.clone())
            seeds = seeds_of(formulation, main_logits(output, len(source)))
            way = source - baseline
            integrals = [torch.zeros_like(source)] * len(seeds)
            with buffers_restored(inner := unwrapped(model)):
                for alpha, weight in zip((1 + nodes) / 2, weights / 2, strict=True):
                    point = baseline + float(alpha) * way
                    logits = main_logits(inner(point.clone()), len(source))
                    integrals = [
                        integral + float(weight) * gradient(logits, seed, point, create_graph)
                        for integral, seed in zip(integrals, seeds, strict=True)
                    ]
            relevance = torch.stack([way * integral for integral in integrals], dim=1)
        return output, {INPUT: relevance if create_graph else relevance.detach()}

    def _baseline_of(self, images: Tensor) -> Tensor:
        baseline = torch.as_tensor(self.baseline, dtype=images.dtype, device=images.device)
        try:
            return baseline.expand_as(images)
        except RuntimeError as error:
            raise InvalidValueError(
                f"baseline must broadcast to images of shape {tuple(images.shape)}, got {tuple(baseline.shape)}"
            ) from error
