"""LayerNorm, GroupNorm and the like: centring stays, ``σ`` is held constant in the signal pass, times ``γ``.

They differ from BatchNorm in that mean and ``σ`` belong to one sample, so no statistics of the batch are involved.
With ``σ`` constant the map is linear up to its bias: ``y = γ (x − mean x)/σ + β``, and ``G_x = c − mean c`` with
``c = γ G_y/σ``. As a function of the parameters ``σ`` is alive.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from zennit_isnet.lrp.signal.mode import FrozenGateMode
from zennit_isnet.lrp.signal.rules import batch_norm
from zennit_isnet.lrp.signal.substitute import Substitute


def layer_norm(
    mode: FrozenGateMode,
    func: Any,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """LayerNorm: ``G_x = c − mean c``, ``c = γ G_y/σ``, over the last dimensions."""
    dims = tuple(range(-len(normalized_shape), 0))

    def rule(signal: Tensor, input: Tensor, weight: Tensor | None) -> tuple[Tensor, None]:
        scaled = signal if weight is None else signal * weight
        return centred_and_scaled(scaled, input.to(signal.dtype), dims, eps).to(input.dtype), None

    output = func(input, normalized_shape, weight, bias, eps)
    result: Tensor = Substitute.apply(mode.settings, rule, output, input, weight)
    return result


def rms_norm(
    mode: FrozenGateMode,
    func: Any,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """RMSNorm: ``G_x = γ G_y / rms x``, over the last dimensions."""
    dims = tuple(range(-len(normalized_shape), 0))
    shift = torch.finfo(input.dtype).eps if eps is None else eps

    def rule(signal: Tensor, input: Tensor, weight: Tensor | None) -> tuple[Tensor, None]:
        scaled = signal if weight is None else signal * weight
        values = input.to(signal.dtype)
        return (scaled * (values.square().mean(dims, keepdim=True) + shift).rsqrt()).to(input.dtype), None

    output = func(input, normalized_shape, weight, eps)
    result: Tensor = Substitute.apply(mode.settings, rule, output, input, weight)
    return result


def group_norm(
    mode: FrozenGateMode,
    func: Any,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """GroupNorm: ``G_x = c − mean c``, ``c = γ G_y/σ``, over each group of channels."""
    return _grouped(mode, func(input, num_groups, weight, bias, eps), input, num_groups, weight, eps)


def instance_norm(
    mode: FrozenGateMode,
    func: Any,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """InstanceNorm: a GroupNorm with one channel a group, or a BatchNorm in eval mode with running statistics."""
    if not use_input_stats:
        # the same affine map, by the same kernel
        result: Tensor = batch_norm(
            mode, torch.nn.functional.batch_norm, input, running_mean, running_var, weight, bias, False, momentum, eps
        )
        return result
    output = func(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)
    return _grouped(mode, output, input, input.shape[1], weight, eps)


def centred_and_scaled(scaled: Tensor, input: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    """``(s − mean s)/σ`` with ``σ² = var x + eps``, both over `dims`."""
    inverse_std = (input.var(dims, unbiased=False, keepdim=True) + eps).rsqrt()
    return (scaled - scaled.mean(dims, keepdim=True)) * inverse_std


def _grouped(
    mode: FrozenGateMode, output: Tensor, input: Tensor, groups: int, weight: Tensor | None, eps: float
) -> Tensor:
    def rule(signal: Tensor, input: Tensor, weight: Tensor | None) -> tuple[Tensor, None]:
        scaled = signal if weight is None else signal * weight.view(-1, *(1,) * (signal.ndim - 2))
        # (N, C, …) -> (N, groups, C/groups, …)
        scaled, values = (t.unflatten(1, (groups, -1)) for t in (scaled, input.to(signal.dtype)))
        result = centred_and_scaled(scaled, values, tuple(range(2, scaled.ndim)), eps)
        return result.flatten(1, 2).to(input.dtype), None

    result: Tensor = Substitute.apply(mode.settings, rule, output, input, weight)
    return result
