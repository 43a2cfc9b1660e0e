"""Which operation has which rule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from zennit_isnet.lrp.signal import attention, normalization, rules
from zennit_isnet.lrp.signal.mode import VALUE_FREE, Rule
from zennit_isnet.lrp.signal.substitute import substitute

LINEAR = (
    *("add", "sub", "subtract", "neg", "negative", "rsub", "sum", "mean", "cumsum", "clone", "contiguous", "positive"),
    *("cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack", "chunk", "split", "tensor_split"),
    *("split_with_sizes", "unbind", "narrow", "select", "index_select", "gather", "take_along_dim", "masked_fill"),
    *("flatten", "unflatten", "reshape", "view", "ravel", "squeeze", "unsqueeze"),
    *("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "adjoint", "roll", "flip", "fliplr"),
    *("flipud", "rot90", "expand", "repeat", "repeat_interleave", "tile", "broadcast_to", "tril", "triu"),
    *("diagonal", "unfold", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle"),
    *("to", "type", "float", "double", "half", "bfloat16", "cpu", "cuda", "requires_grad_"),
    *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d"),
    *("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "max_pool1d", "max_pool2d", "max_pool3d"),
    *("max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices", "pad", "interpolate"),
    *("adaptive_max_pool1d_with_indices", "adaptive_max_pool2d_with_indices", "adaptive_max_pool3d_with_indices"),
    *("upsample", "fold", "amax", "max", "maximum", "where"),
)
"""Operations whose plain gradient is the rule (maxima: the winner takes all)."""

SHAPED = ("expand_as", "reshape_as", "view_as", "type_as")
PRODUCT = ("mul", "multiply", "matmul", "bmm", "mm", "mv", "einsum", "baddbmm", "addmm", "__matmul__", "__rmatmul__")
QUOTIENT = ("div", "divide", "true_divide")
GATES = ("sigmoid", "hardsigmoid", "softmax", "log_softmax")
AFFINE = (F.linear, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d)
RELUS = (F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)
CONSTANTS = (
    *("detach", "argmax", "argmin", "eq", "ne", "lt", "le", "gt", "ge", "isnan", "isinf", "isfinite", "any", "all"),
    *("numel", "size", "dim"),
    *VALUE_FREE,
)
"""Operations whose result has no gradient."""


def _named(names: Iterable[str]) -> Iterator[Any]:
    """Yield the functions, methods, operators and in-place variants that carry one of the names."""
    for name in names:
        variants = (name, f"{name}_", f"__{name}__", f"__r{name}__", f"__i{name}__")
        for owner in (torch, Tensor, F, torch.special):
            yield from (getattr(owner, v) for v in variants if callable(getattr(owner, v, None)))


def _table(entries: Iterable[tuple[Iterable[Any], Callable[..., Any]]]) -> Mapping[Any, Rule]:
    return MappingProxyType({func: rule for funcs, rule in entries for func in funcs})


RULES: Mapping[Any, Rule] = _table(
    [
        (_named(LINEAR), rules.linear),
        ([Tensor.__getitem__], rules.linear),
        ([Tensor.__setitem__], rules.assignment),
        (_named(SHAPED), rules.shaped),
        (_named(PRODUCT), rules.product),
        (_named(("addcmul",)), rules.addcmul),
        (_named(QUOTIENT), rules.quotient),
        (_named(GATES), rules.hold),
        (_named(CONSTANTS), rules.constant),
        (AFFINE, rules.affine),
        (CONVOLUTIONS, rules.convolution),
        (DROPOUTS, rules.dropout),
        ([F.batch_norm], rules.batch_norm),
        ([F.layer_norm], normalization.layer_norm),
        ([F.rms_norm], normalization.rms_norm),
        ([F.group_norm], normalization.group_norm),
        ([F.instance_norm], normalization.instance_norm),
        ([F.scaled_dot_product_attention], attention.scaled_dot_product_attention),
        ([F.multi_head_attention_forward], attention.multi_head_attention),
        ([substitute], rules.alias),
        (RELUS, rules.relu),
        (rules.ELEMENTWISE, rules.activation),
        (rules.IN_PLACE_ACTIVATIONS, rules.activation),
        ([F.hardtanh], rules.hardtanh),
    ]
)
"""Rules of the operations of PyTorch; a composite may add others."""
