"""Attention: the weights are held constant in the signal pass, and the signal goes through the values.

PyTorch's fused kernels have no second derivative with respect to queries and keys, so attention is computed step by
step; outputs differ from the fused kernel by rounding.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from zennit_isnet.lrp.signal.linear import held_constant
from zennit_isnet.lrp.signal.mode import FrozenGateMode, tensors_in

SAFE_SOFTMAX: Callable[[Tensor, int], Tensor] = torch._safe_softmax
"""Softmax of `scaled_dot_product_attention`: a row of −∞ becomes 0, not NaN."""


def scaled_dot_product_attention(
    mode: FrozenGateMode,
    func: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``softmax(q kᵀ · scale + mask) v`` with held weights."""
    if attn_mask is not None and (is_causal or not _is_mask(attn_mask)):
        return _refused(mode, func, query, key, value, attn_mask, dropout_p, is_causal, scale=scale)
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
        with mode:
            value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
    if is_causal:
        attn_mask = _causal(query, key)
    bias = None if attn_mask is None else _additive(attn_mask, query)
    weights = attention_weights(query, key, bias, scale, softmax=SAFE_SOFTMAX)
    held = held_constant(mode, weights, tensors_in((query, key, bias)))
    with mode:
        return torch.matmul(F.dropout(held, dropout_p), value) if dropout_p > 0 else torch.matmul(held, value)


def attention_weights(
    query: Tensor,
    key: Tensor,
    bias: Tensor | None,
    scale: float | None = None,
    softmax: Callable[[Tensor, int], Tensor] = torch.softmax,
) -> Tensor:
    """``softmax(q kᵀ · scale + bias)``.

    Parameters
    ----------
    query, key : Tensor
        ``(…, L, E)`` and ``(…, S, E)``.
    bias : Tensor, optional
        Added to the scores, broadcastable to ``(…, L, S)``.
    scale : float, optional
        If None, ``1/√E``.
    softmax : callable, optional
        Determines rows whose bias is −∞ everywhere: NaN, or 0 with `SAFE_SOFTMAX`.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = torch.matmul(query * scale, key.transpose(-2, -1))
    return scores.softmax(-1) if bias is None else softmax(scores + bias, -1)


def multi_head_attention(mode: FrozenGateMode, func: Any, /, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    """Multi-head attention as `torch.nn.MultiheadAttention` calls it: ``(L, N, E)``, or ``(L, E)`` for one sample."""
    call = inspect.signature(func).bind(*args, **kwargs)
    call.apply_defaults()
    given = SimpleNamespace(**call.arguments)
    query, key = given.query, given.key
    if given.static_k is not None or given.static_v is not None:
        mode.report(func, "is given keys or values that are already projected", "pass static_k=None, static_v=None")
    batched = query.ndim == 3
    if _is_refused(given, batched):
        return _refused(mode, func, *args, **kwargs)
    # if no weights are returned, PyTorch uses `scaled_dot_product_attention`, with the is_causal hint as the mask
    hint = given.is_causal and given.key_padding_mask is None and not given.need_weights
    with mode:
        separate = (given.q_proj_weight, given.k_proj_weight, given.v_proj_weight)
        weights = separate if given.use_separate_proj_weight else given.in_proj_weight.chunk(3)
        biases = (None,) * 3 if given.in_proj_bias is None else given.in_proj_bias.chunk(3)

    def heads(projected: Tensor, extra: Tensor | None) -> Tensor:
        """Return ``(N, heads, S, E/heads)`` of ``(S, N, E)``, with the learned and the zero position appended."""
        projected = projected if batched else projected.unsqueeze(1)
        if extra is not None:
            projected = torch.cat([projected, extra.expand(1, projected.shape[1], -1)])
        if given.add_zero_attn:
            projected = F.pad(projected, (0, 0, 0, 0, 0, 1))
        return projected.unflatten(-1, (given.num_heads, -1)).permute(1, 2, 0, 3)

    queries = F.linear(query, weights[0], biases[0])
    queries = (queries if batched else queries.unsqueeze(1)).unflatten(-1, (given.num_heads, -1)).permute(1, 2, 0, 3)
    keys = heads(F.linear(key, weights[1], biases[1]), given.bias_k)
    masks = given.attn_mask, given.key_padding_mask
    bias = _additive(_causal(queries, keys), queries) if hint else _merged_masks(*masks, queries, keys)
    softmax = torch.softmax if given.need_weights else SAFE_SOFTMAX
    held = held_constant(mode, attention_weights(queries, keys, bias, softmax=softmax), tensors_in((query, key)))
    with mode:
        values = heads(F.linear(given.value, weights[2], biases[2]), given.bias_v)
        dropped = F.dropout(held, given.dropout_p) if given.training and given.dropout_p > 0 else held
        mixed = torch.matmul(dropped, values).permute(2, 0, 1, 3).flatten(2)
        output = F.linear(mixed, given.out_proj_weight, given.out_proj_bias)
        output = output if batched else output.squeeze(1)
    if not given.need_weights:
        return output, None
    with mode:
        shown = dropped.mean(1) if given.average_attn_weights else dropped
        return output, shown if batched else shown.squeeze(0)


def _is_mask(mask: Tensor) -> bool:
    return mask.dtype == torch.bool or mask.is_floating_point()


def _refused(mode: FrozenGateMode, func: Any, *args: Any, **kwargs: Any) -> Any:
    """Raise PyTorch's own error, which some versions and kernels do not raise."""
    mode.refuse(func, "is given a mask that PyTorch does not allow", "pass a boolean or floating mask of a legal shape")
    return func(*args, **kwargs)


def _is_refused(given: SimpleNamespace, batched: bool) -> bool:
    """Whether PyTorch raises for these masks; shapes that it refuses could broadcast here."""
    mask, padding = given.attn_mask, given.key_padding_mask
    length, batch = given.query.shape[0], given.query.shape[1] if batched else 1
    keys = given.key.shape[0]
    shapes = [(length, keys), (batch * given.num_heads, length, keys)]
    return (
        (given.is_causal and mask is None)
        or (mask is not None and not (_is_mask(mask) and tuple(mask.shape) in shapes))
        or (padding is not None and not (_is_mask(padding) and padding.shape == (batch, keys)[not batched :]))
    )


def _causal(query: Tensor, key: Tensor) -> Tensor:
    return torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()


def _additive(mask: Tensor, like: Tensor, *, keeps: bool = True) -> Tensor:
    """Return a mask as an additive score; True in a boolean mask keeps a position, or blocks it."""
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    blocked = ~mask if keeps else mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(blocked, float("-inf"))


def _merged_masks(attn_mask: Tensor | None, padding: Tensor | None, queries: Tensor, keys: Tensor) -> Tensor | None:
    """Sum of both masks, ``(N or 1, heads or 1, L or 1, S)``; appended positions are never blocked."""
    parts = []
    if attn_mask is not None:
        added = _additive(attn_mask, queries, keeps=False)
        parts.append(added.view(-1, queries.shape[1], *added.shape[-2:]) if added.ndim == 3 else added[None, None])
    if padding is not None:
        added = _additive(padding, queries, keeps=False)
        parts.append(added.view(-1, 1, 1, added.shape[-1]))
    if not parts:
        return None
    bias = parts[0] if len(parts) == 1 else parts[0] + parts[1]
    return F.pad(bias, (0, keys.shape[-2] - bias.shape[-1]))
