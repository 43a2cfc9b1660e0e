"""Weights of a layer and a BatchNorm in one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from zennit.types import ConvolutionTranspose

from zennit_isnet.lrp.signal.normalization import BatchStatistics, SynchronizedStatistics, synchronizes


class Affine:
    """``y ↦ scale · y + shift``, what a BatchNorm did in one forward pass.

    Parameters
    ----------
    norm : Module
        The BatchNorm. Its mode is read now, its parameters and the statistics of the batch when they are needed:
        they are functions of its parameters and of its input.
    """

    def __init__(self, norm: nn.Module) -> None:
        self.norm: Any = norm
        # torchvision's FrozenBatchNorm2d has a mode, and no use for it
        follows_mode = isinstance(norm, nn.modules.batchnorm._BatchNorm)
        self.by_batch = follows_mode and (norm.training or norm.running_mean is None)
        self.synchronized = synchronizes(norm)

    def __call__(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``γ/σ`` and ``β − γμ/σ`` for the BatchNorm's input; running statistics are not touched."""
        norm = self.norm
        if self.synchronized:
            mean, inverse_std = SynchronizedStatistics.apply(input, norm.eps, norm.process_group)
        elif self.by_batch:
            mean, inverse_std = BatchStatistics.apply(input, norm.eps)
        else:
            mean, inverse_std = norm.running_mean, torch.rsqrt(norm.running_var + norm.eps)
        scale = inverse_std if norm.weight is None else norm.weight * inverse_std
        return scale, -mean * scale if norm.bias is None else norm.bias - mean * scale

    def folded_after(
        self, module: Any, parameters: Mapping[str, Tensor | None], input: Tensor
    ) -> dict[str, Tensor | None]:
        """Return the parameters of `module` followed by the BatchNorm, whose input is `input`."""
        scale, shift = self(input)
        weight, bias = parameters["weight"], parameters.get("bias")
        assert weight is not None
        by_output = _of_groups(scale, weight, module.groups) if _transposed(module) else _of_rows(scale, weight)
        return {**parameters, "weight": weight * by_output, "bias": shift if bias is None else bias * scale + shift}

    def folded_before(
        self, module: Any, parameters: Mapping[str, Tensor | None], input: Tensor
    ) -> dict[str, Tensor | None]:
        """Return the parameters of `module` after the BatchNorm, whose input is `input`; see `exact_before`."""
        scale, shift = self(input)
        weight, bias = parameters["weight"], parameters.get("bias")
        assert weight is not None
        groups = getattr(module, "groups", 1)
        constant = (weight * _of_groups(shift, weight, groups)).flatten(1).sum(1)
        return {
            **parameters,
            "weight": weight * _of_groups(scale, weight, groups),
            "bias": constant if bias is None else bias + constant,
        }

    @staticmethod
    def channels(values: Tensor, like: Tensor) -> Tensor:
        """Give values of the channels the shape that broadcasts to ``(N, C, …)``."""
        return values.view(1, -1, *(1,) * (like.ndim - 2))


def exact_before(module: Any, input: Tensor) -> bool:
    """Whether a shift of each of the input's channels is a shift of the output's.

    Zeros that a convolution pads with are not shifted, and a transposed one adds fewer terms at the border.
    """
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or input.ndim != weight.ndim or _transposed(module):
        return False
    if isinstance(module, nn.Linear):
        return True
    if not isinstance(module, nn.modules.conv._ConvNd):
        return False
    # on both sides of each dimension, whatever `padding` was given as
    return module.padding_mode != "zeros" or not any(module._reversed_padding_repeated_twice)


def _transposed(module: nn.Module) -> bool:
    return isinstance(module, ConvolutionTranspose)


def _of_rows(values: Tensor, weight: Tensor) -> Tensor:
    """Values of the first dimension of a weight."""
    return values.view(-1, *(1,) * (weight.ndim - 1))


def _of_groups(values: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Values of channels that a weight ``(rows, channels / groups, …)`` has in its second dimension."""
    rows = weight.shape[0] // groups
    spread = values.view(groups, 1, -1).expand(-1, rows, -1).reshape(weight.shape[:2])
    return spread.view(*weight.shape[:2], *(1,) * (weight.ndim - 2))
