"""Table of operations and their handlers, with PyTorch's names, such as ``relu_`` or ``max_pool2d``."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from zennit_isnet.lrp.signal import activation, attention, convolution, linear, normalization
from zennit_isnet.lrp.signal.substitute import Handler, substitute

OWNERS = MappingProxyType({"torch": torch, "Tensor": Tensor, "F": F, "special": torch.special, "linalg": torch.linalg})

NAMES: tuple[tuple[Handler, str], ...] = (
    # sums, and maxima: the winner takes all
    (linear.linear, "add add_ __add__ __iadd__ __radd__ sub sub_ subtract subtract_ rsub __sub__ __isub__ __rsub__"),
    (linear.linear, "neg neg_ negative negative_ positive __neg__ __pos__ sum mean cumsum cumsum_"),
    (linear.linear, "amax amin max min maximum minimum fmax fmin topk sort msort kthvalue tril tril_ triu triu_"),
    (linear.linear, "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d"),
    (linear.linear, "max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d"),
    (linear.linear, "max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices"),
    (linear.linear, "adaptive_max_pool1d_with_indices adaptive_max_pool2d_with_indices"),
    (linear.linear, "adaptive_max_pool3d_with_indices fold unfold interpolate upsample pad"),
    (linear.linear, "pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle"),
    (linear.lerp, "lerp lerp_"),
    # shapes and types
    (linear.concatenate, "cat concat concatenate"),
    (linear.linear, "stack hstack vstack dstack chunk split tensor_split split_with_sizes"),
    (linear.linear, "unbind narrow select diagonal flip fliplr flipud"),
    (linear.linear, "rot90 roll flatten unflatten reshape view ravel squeeze squeeze_ unsqueeze unsqueeze_ permute"),
    (linear.linear, "transpose transpose_ swapaxes swapaxes_ swapdims swapdims_ movedim moveaxis t t_ adjoint"),
    (linear.linear, "expand repeat repeat_interleave tile broadcast_to clone contiguous copy_"),
    (linear.linear, "to type float __float__ double half bfloat16 cpu cuda requires_grad_"),
    (linear.shaped, "expand_as reshape_as view_as type_as"),
    # choices, by indices and by masks
    (linear.select, "__getitem__ index_select gather take_along_dim masked_select"),
    (linear.select, "index_add index_add_ scatter_add scatter_add_"),
    (linear.fill, "where masked_fill masked_fill_ __setitem__"),
    (linear.grid_sample, "F.grid_sample"),
    # products and quotients
    (linear.product, "mul mul_ multiply multiply_ __mul__ __imul__ __rmul__ matmul __matmul__ __rmatmul__ bmm mm mv"),
    (linear.product, "einsum tensordot inner outer dot"),
    (linear.added_product, "addcmul addcmul_ addmm addmm_ addmv addmv_ addbmm addbmm_ baddbmm baddbmm_"),
    (linear.quotient, "div div_ divide divide_ true_divide true_divide_ __div__ __idiv__ __itruediv__"),
    (linear.quotient, "__rdiv__ __rtruediv__"),
    # layers
    (linear.affine, "linear conv_transpose1d conv_transpose2d conv_transpose3d"),
    (linear.dropout, "F.dropout F.dropout1d F.dropout2d F.dropout3d"),
    (linear.glu, "F.glu"),
    (linear.normalize, "F.normalize"),
    (linear.local_response_norm, "F.local_response_norm"),
    (convolution.convolution, "conv1d conv2d conv3d"),
    (normalization.batch_norm, "F.batch_norm"),
    (normalization.layer_norm, "F.layer_norm"),
    (normalization.rms_norm, "F.rms_norm"),
    (normalization.group_norm, "F.group_norm"),
    (normalization.instance_norm, "F.instance_norm"),
    (attention.scaled_dot_product_attention, "scaled_dot_product_attention"),
    (attention.multi_head_attention, "multi_head_attention_forward"),
    # elementwise
    (activation.relu, "relu relu_"),
    (activation.activation, "F.celu celu_ F.elu F.elu_ F.gelu F.hardswish F.leaky_relu F.leaky_relu_ F.mish F.prelu"),
    (activation.activation, "F.relu6 F.rrelu F.rrelu_ F.selu selu_ F.silu hardshrink F.softshrink F.softsign"),
    (activation.activation, "tanh tanh_ F.tanhshrink torch.celu torch.selu square square_ sqrt sqrt_"),
    (activation.hardtanh, "hardtanh hardtanh_"),
    (activation.clamp, "clamp clamp_ clip clip_"),
    (activation.clamp_min, "clamp_min clamp_min_"),
    (activation.clamp_max, "clamp_max clamp_max_"),
    (activation.threshold, "threshold threshold_"),
    (activation.power, "pow pow_ __pow__ __ipow__"),
    (activation.lp_pool, "F.lp_pool1d F.lp_pool2d F.lp_pool3d"),
    (linear.hold, "sigmoid sigmoid_ hardsigmoid softmax softmin log_softmax norm vector_norm var std"),
    # without a gradient
    (linear.constant, "detach detach_ size dim numel"),
)
"""Handlers, and the names of their functions in all `OWNERS`, or in the one in the name."""


def functions_of(name: str) -> list[Any]:
    """Return the functions with a name, in all `OWNERS` or in the one in the name."""
    owner, _, function = name.rpartition(".")
    found = [getattr(place, function, None) for key, place in OWNERS.items() if owner in ("", key)]
    return [function for function in found if callable(function)]


HANDLERS: Mapping[Any, Handler] = MappingProxyType(
    {func: handler for handler, names in NAMES for name in names.split() for func in functions_of(name)}
    | {getattr(Tensor, name).__get__: linear.linear for name in ("T", "mT", "H", "mH")}
    | {substitute: linear.alias}
)
"""Handlers of PyTorch operations; a composite may add others."""
