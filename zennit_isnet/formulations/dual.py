"""The Dual formulation: all logits at once, through two sets of rules."""

from __future__ import annotations

import torch
from torch import Tensor

from zennit_isnet.errors import InvalidTypeError
from zennit_isnet.formulations.base import Formulation
from zennit_isnet.lrp.relevance.composite import DifferentiableComposite
from zennit_isnet.lrp.relevance.papers import ZPlus


class Dual(Formulation):
    """The sum of all logits, once by the regularizer's composite and once by a z⁺ composite.

    Two heatmaps an image whatever the number of classes. In the ε heatmap evidence for one class can cancel evidence
    for another; in the z⁺ heatmap nothing cancels.

    Parameters
    ----------
    positive : DifferentiableComposite, optional
        Rules of the second heatmap. Default `ZPlus` without a box.

    Raises
    ------
    InvalidTypeError
        If `positive` does not propagate relevance.

    References
    ----------
    Bassi, Decherchi, Cavalli, IEEE Access 12 (2024) 155151, Dual ISNet.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.formulations import Dual
    >>> Dual()(torch.randn(1, 3))
    tensor([[[1., 1., 1.]]])
    """

    def __init__(self, positive: DifferentiableComposite | None = None) -> None:
        if not (positive is None or isinstance(positive, DifferentiableComposite)):
            raise InvalidTypeError(
                "positive must be a composite that propagates relevance, such as ZPlus() or differentiable(…); "
                f"got {type(positive).__name__}"
            )
        self.positive = ZPlus() if positive is None else positive

    def seeds(self, logits: Tensor) -> Tensor:
        """Return ones of shape (N, 1, C), the same for both composites."""
        return torch.ones_like(logits).unsqueeze(1)

    def __repr__(self) -> str:
        return f"Dual(positive={type(self.positive).__name__})"
