"""The formulations that explain one logit of each image: that of its label, or of the predicted class."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from zennit_isnet.errors import InvalidValueError
from zennit_isnet.formulations.base import Formulation, one_hot
from zennit_isnet.formulations.one_hot import Target


class Label(Formulation):
    """The logit of each image's label; one heatmap per image. The labels are given for a block of code.

    Outside of a block there are no labels, so those of an earlier batch are never explained by mistake.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.formulations import Label
    >>> formulation = Label()
    >>> with formulation.context(torch.tensor([2, 0])):
    ...     formulation(torch.randn(2, 3))
    tensor([[[0., 0., 1.]],
    <BLANKLINE>
            [[1., 0., 0.]]])
    """

    def __init__(self) -> None:
        self._target: Target | None = None

    @contextmanager
    def context(self, labels: Tensor) -> Iterator[None]:
        """Explain the logits of these labels inside of the block.

        Parameters
        ----------
        labels : Tensor of shape (N,)
            Class of each image of the batch, an integer counted from 0. Their values are read: labels on the CPU, as
            a loader gives them, keep the block from waiting for an accelerator.

        Raises
        ------
        InvalidTypeError
            If `labels` is not an integer tensor.
        InvalidValueError
            If `labels` has another shape or negative entries.
        """
        before, self._target = self._target, Target(labels)
        try:
            yield
        finally:
            self._target = before

    def seeds(self, logits: Tensor) -> Tensor:
        """Return the seeds of shape (N, 1, C)."""
        if self._target is None:
            raise InvalidValueError(
                "no labels are given: call within `with formulation.context(labels):`, or explain the predicted class "
                "with Predicted()"
            )
        return self._target.seeds(logits)


class Predicted(Formulation):
    """The highest logit; one heatmap per image.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.formulations import Predicted
    >>> Predicted()(torch.tensor([[1.0, 3.0, 2.0]]))
    tensor([[[0., 1., 0.]]])
    """

    def seeds(self, logits: Tensor) -> Tensor:
        """Return the seeds of shape (N, 1, C)."""
        return one_hot(logits.argmax(dim=1, keepdim=True), logits).unsqueeze(1)
