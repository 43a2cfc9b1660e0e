"""The shell that gives a loss without a range the signature of the heatmap loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor


@dataclass(frozen=True)
class RangeFreeLoss:
    """A loss of attribution and foreground, callable as `ISNetRegularizer` calls its loss; the range is ignored.

    Parameters
    ----------
    function : callable
        ``function(attribution (N, K, C, H, W), foreground (N, 1, H, W)) -> (N,)``.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.peers import RangeFreeLoss, rrr_loss
    >>> RangeFreeLoss(rrr_loss)(torch.ones(2, 1, 3, 4, 4), torch.ones(2, 1, 4, 4), c1=1.0, c2=25.0)
    tensor([0., 0.])
    """

    function: Callable[[Tensor, Tensor], Tensor]

    needs_range: ClassVar[bool] = False
    """Tells `ISNetRegularizer` that there is no range to calibrate, hence none to warn of."""

    def __call__(self, attribution: Tensor, foreground: Tensor, c1: Any = None, c2: Any = None) -> Tensor:
        """Loss of each image, shape (N,)."""
        return self.function(attribution, foreground)
