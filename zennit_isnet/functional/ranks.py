"""Measures of localization that look at the pixels with the most relevance.

Pixels of equal relevance have no order. Each measure is the expected value over all orders of them, so it depends
neither on the device nor on where a pixel lies.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zennit_isnet.checks import check_count
from zennit_isnet.errors import InvalidValueError
from zennit_isnet.functional.channels import ChannelPooling
from zennit_isnet.functional.measured import MeasuredMaps, Undefined, measured_maps


def relevance_rank_accuracy(
    heatmaps: Tensor, foreground: Tensor, *, pooling: ChannelPooling = "sum", undefined: Undefined = "error"
) -> Tensor:
    r"""Share of the foreground among as many pixels of the highest relevance as the foreground has.

    .. math::
        \frac{|P_{\mathrm{top}\,K} \cap G|}{K}, \qquad K = |G|, \qquad G = \{p : M_p = 1\}

    Parameters
    ----------
    heatmaps, foreground, undefined
        As for `background_share`.
    pooling : {"sum", "sum_pos", "sum_abs", "l1_norm", "l2_norm", "l2_norm_sq", "max_norm"}, default="sum"
        How channels become one value, see `pool_channels`. The default ranks pixels by how much they speak for the
        quantity; the paper's poolings are the others, which give nothing negative.

    Returns
    -------
    Tensor, shape (N,) or (N, K)
        Between 0 and 1; higher is better.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        As for `background_share`.

    References
    ----------
    Arras, Osman, Samek, Information Fusion 81 (2022) 14, arXiv:2003.07258, relevance rank accuracy.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.functional import relevance_rank_accuracy
    >>> relevance_rank_accuracy(torch.tensor([[[3.0, 1.0, 2.0]]]), torch.tensor([[[1, 1, 0]]]))
    tensor([0.5000])
    """
    maps = measured_maps(heatmaps, foreground, pooling, ChannelPooling, undefined)
    count = maps.foreground.sum(dim=2).clamp(min=1)
    return maps.settled(_expected_hits(maps, count) / count, undefined)


def pointing_game(
    heatmaps: Tensor,
    foreground: Tensor,
    *,
    pooling: ChannelPooling = "sum",
    tolerance: int = 0,
    undefined: Undefined = "error",
) -> Tensor:
    """Whether the pixel of the highest relevance lies on the foreground, 1 or 0; between them for tied pixels.

    Parameters
    ----------
    heatmaps, foreground, undefined
        As for `background_share`.
    pooling
        As for `relevance_rank_accuracy`.
    tolerance : int, default=0
        Distance in pixels to the foreground that still is a hit. The paper has 15.

    Returns
    -------
    Tensor, shape (N,) or (N, K)
        Between 0 and 1; higher is better. Its mean over images of one class is the paper's accuracy.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        As for `background_share`, and if `tolerance` is not an int of at least 0.

    References
    ----------
    Zhang et al., "Top-Down Neural Attention by Excitation Backprop", Int. J. Comput. Vis. 126 (2018) 1084,
    arXiv:1608.00507, section 4.1.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.functional import pointing_game
    >>> heatmaps, foreground = torch.tensor([[[3.0, 1.0, 2.0]]]), torch.tensor([[[0, 1, 1]]])
    >>> pointing_game(heatmaps, foreground), pointing_game(heatmaps, foreground, tolerance=1)
    (tensor([0.]), tensor([1.]))
    """
    maps = measured_maps(heatmaps, foreground, pooling, ChannelPooling, undefined, tolerance)
    return maps.settled(_expected_hits(maps, torch.ones_like(maps.foreground[..., 0], dtype=torch.int64)), undefined)


def top_k_intersection(
    heatmaps: Tensor,
    foreground: Tensor,
    *,
    k: int,
    pooling: ChannelPooling = "sum",
    undefined: Undefined = "error",
) -> Tensor:
    r"""Share of the k pixels of the highest relevance that lies on the foreground.

    .. math::
        \frac{|P_{\mathrm{top}\,k} \cap G|}{k}, \qquad G = \{p : M_p = 1\}

    Parameters
    ----------
    heatmaps, foreground, undefined
        As for `background_share`.
    k : int
        Number of pixels, from 1 to ``H·W``. A fixed k is hard to reach for objects of fewer pixels.
    pooling
        As for `relevance_rank_accuracy`.

    Returns
    -------
    Tensor, shape (N,) or (N, K)
        Between 0 and 1; higher is better.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        As for `background_share`, and if `k` is not an int from 1 to the number of pixels.

    References
    ----------
    Theiner, Müller-Budack, Ewerth, "Interpretable Semantic Photo Geolocation", WACV 2022, arXiv:2104.14995.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.functional import top_k_intersection
    >>> top_k_intersection(torch.tensor([[[3.0, 1.0, 2.0]]]), torch.tensor([[[1, 0, 0]]]), k=2)
    tensor([0.5000])
    """
    check_count("k", k)
    maps = measured_maps(heatmaps, foreground, pooling, ChannelPooling, undefined)
    pixels = maps.values.shape[2]
    if k > pixels:
        raise InvalidValueError(f"k must be at most {pixels}, the number of pixels of a heatmap; got {k}")
    return maps.settled(
        _expected_hits(maps, torch.full_like(maps.foreground[..., 0], k, dtype=torch.int64)) / k, undefined
    )


def _expected_hits(maps: MeasuredMaps, count: Tensor) -> Tensor:
    """Expected number of foreground pixels among the `count` (N, 1) highest, of shape (N, K)."""
    values, foreground = maps.values, maps.foreground
    ranked = values.sort(dim=2, descending=True).values
    last = (count.unsqueeze(2) - 1).expand(-1, values.shape[1], 1)
    threshold = ranked.gather(2, last)
    above, tied = values > threshold, values == threshold
    # of the pixels that are tied for the remaining places, each takes part with the same probability
    places = count - above.sum(dim=2)
    return (above & foreground).sum(dim=2) + places * (tied & foreground).sum(dim=2) / tied.sum(dim=2)
