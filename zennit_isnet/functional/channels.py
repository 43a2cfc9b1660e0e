"""How the channels of a heatmap become one value for each pixel."""

from typing import Literal

import torch
from torch import Tensor

from zennit_isnet.checks import check_choice
from zennit_isnet.errors import InvalidTypeError, InvalidValueError

ChannelPooling = Literal["sum", "sum_pos", "sum_abs", "l1_norm", "l2_norm", "l2_norm_sq", "max_norm"]
"""Ways to pool channels; all but ``"sum"`` give nothing negative."""

NonNegativePooling = Literal["sum_pos", "sum_abs", "l1_norm", "l2_norm", "l2_norm_sq", "max_norm"]
"""Ways to pool channels into shares of a total."""


def pool_channels(heatmaps: Tensor, pooling: ChannelPooling) -> Tensor:
    r"""Pool the channels :math:`R_c` of each pixel.

    ============== =================================
    pooling        value
    ============== =================================
    ``sum``        :math:`\sum_c R_c`, signed
    ``sum_pos``    :math:`\max(0, \sum_c R_c)`
    ``sum_abs``    :math:`|\sum_c R_c|`
    ``l1_norm``    :math:`\sum_c |R_c|`
    ``l2_norm``    :math:`\sqrt{\sum_c R_c^2}`
    ``l2_norm_sq`` :math:`\sum_c R_c^2`
    ``max_norm``   :math:`\max_c |R_c|`
    ============== =================================

    Parameters
    ----------
    heatmaps : Tensor, shape (..., C, H, W)
        Signed.
    pooling : ChannelPooling
        The first column of the table.

    Returns
    -------
    Tensor, shape (..., H, W)
        In float32 or float64.

    Raises
    ------
    InvalidTypeError
        If `heatmaps` is no floating tensor.
    InvalidValueError
        If `pooling` is unknown, or `heatmaps` has fewer than three dimensions or no channel.

    References
    ----------
    Arras, Osman, Samek, "CLEVR-XAI: A benchmark dataset for the ground truth evaluation of neural network
    explanations", Information Fusion 81 (2022) 14, arXiv:2003.07258, on pooling; all but ``sum``.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.functional.channels import pool_channels
    >>> pool_channels(torch.tensor([1.0, -3.0]).reshape(2, 1, 1), "l1_norm")
    tensor([[4.]])
    """
    check_choice("pooling", pooling, ChannelPooling)
    if not isinstance(heatmaps, Tensor) or not heatmaps.is_floating_point():
        kind = heatmaps.dtype if isinstance(heatmaps, Tensor) else type(heatmaps).__name__
        raise InvalidTypeError(f"heatmaps must be a floating tensor; got {kind}")
    if heatmaps.dim() < 3 or heatmaps.shape[-3] == 0:
        raise InvalidValueError(f"heatmaps must have shape (..., C, H, W) with C >= 1; got {tuple(heatmaps.shape)}")
    pools = {
        "sum": lambda r: r.sum(dim=-3),
        "sum_pos": lambda r: r.sum(dim=-3).clamp(min=0),
        "sum_abs": lambda r: r.sum(dim=-3).abs(),
        "l1_norm": lambda r: r.abs().sum(dim=-3),
        "l2_norm": lambda r: r.square().sum(dim=-3).sqrt(),
        "l2_norm_sq": lambda r: r.square().sum(dim=-3),
        "max_norm": lambda r: r.abs().amax(dim=-3),
    }
    pooled: Tensor = pools[pooling](heatmaps if heatmaps.dtype == torch.float64 else heatmaps.to(torch.float32))
    return pooled
