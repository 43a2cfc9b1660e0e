"""Canonizers of this package: requests to a differentiable composite, which rewrite nothing."""

from __future__ import annotations

from torch import nn
from zennit.canonizers import Canonizer

from zennit_isnet.errors import UnsupportedModelError


class _Request(Canonizer):
    """Asks a differentiable composite for something that Zennit's own composites cannot do."""

    def apply(self, root_module: nn.Module) -> list[Canonizer]:
        """Refuse to be applied by a composite that does not know the request."""
        raise UnsupportedModelError(
            f"{type(self).__name__} works in differentiable(composite, canonizers=[…]) only; use Zennit's own "
            "canonizers with Zennit's own composites"
        )

    def register(self) -> None:
        """Do nothing."""

    def remove(self) -> None:
        """Do nothing."""


class FuseBatchNorm(_Request):
    """Fold each BatchNorm into the layer whose output it reads, or else into the layer that reads it.

    Into the layer behind it only where that is exact: not where a convolution pads with zeros, which the BatchNorm does
    not shift, and not for transposed convolutions. There it keeps its own rule, usually Pass. torchvision's
    `FrozenBatchNorm2d` is folded too.

    Uses the statistics of the forward pass (the batch's in train mode, the running ones in eval mode), finds pairs by
    the tensors that flow instead of by the order of the modules, and writes to no parameter.

    Examples
    --------
    >>> from torchvision.models import resnet18
    >>> from zennit.composites import EpsilonPlus
    >>> from zennit_isnet import differentiable
    >>> from zennit_isnet.lrp import FuseBatchNorm
    >>> composite = differentiable(EpsilonPlus(), canonizers=[FuseBatchNorm()])
    >>> with composite.context(resnet18()):
    ...     composite.fuse_batch_norm
    True
    """


class MakeFunctionsVisible(_Request):
    """Give functional calls (sums of two branches, activations, average pooling) the rules of their module types.

    Sums get the rule of `zennit.layer.Sum`. Replaces the canonizers that rewrite the ``forward`` of known blocks.

    Examples
    --------
    >>> from zennit.composites import EpsilonPlus
    >>> from zennit_isnet import differentiable
    >>> from zennit_isnet.lrp import FuseBatchNorm, MakeFunctionsVisible
    >>> composite = differentiable(EpsilonPlus(), canonizers=[FuseBatchNorm(), MakeFunctionsVisible()])
    >>> composite.visible_functions
    True
    """
