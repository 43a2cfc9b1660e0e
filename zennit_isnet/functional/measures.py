"""Localization measures: shares of the relevance, and measures of the pixels with the highest relevance.

Pixels with equal relevance are tied. Each rank measure is the expected value over all orders of tied pixels, so it
depends neither on the device nor on pixel positions.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from zennit_isnet.checks import as_floats, check_choice, check_count
from zennit_isnet.errors import InvalidValueError
from zennit_isnet.functional.heatmap import check_real, named_images, validate_foreground

ChannelPooling = Literal["sum", "sum_pos", "sum_abs", "l1_norm", "l2_norm", "l2_norm_sq", "max_norm"]
"""Ways to pool channels; all but ``"sum"`` are nonnegative."""

SharePooling = Literal["sum_pos", "sum_abs", "l1_norm", "l2_norm", "l2_norm_sq", "max_norm"]
"""Ways to pool channels into shares of a total."""

Undefined = Literal["error", "skip"]
"""Whether an undefined value raises an error or gives NaN, which the metrics skip and count."""


def background_share(
    heatmaps: Tensor, foreground: Tensor, *, pooling: SharePooling = "l1_norm", undefined: Undefined = "error"
) -> Tensor:
    r"""Share of the relevance that lies on the background.

    .. math::
        \frac{\sum_p (1 - M_p) A_p}{\sum_p A_p}, \qquad A = \text{pooled } R

    Parameters
    ----------
    heatmaps : Tensor, shape (N, C, H, W), (N, K, C, H, W) or (N, H, W); (N, K, C, T, H, W) for videos
        Signed.
    foreground : Tensor, shape (N, 1, H, W) or (N, H, W), with T for videos
        1 on the object, 0 elsewhere, of the heatmaps' size and on their device.
    pooling : {"l1_norm", "sum_pos", "sum_abs", "l2_norm", "l2_norm_sq", "max_norm"}, default="l1_norm"
        How channels become one value, see `pool_channels`. The default is used in the heatmap loss; nothing cancels in
        it.
    undefined : {"error", "skip"}, default="error"
        Heatmaps without relevance (after pooling) and masks without foreground have no share: error or NaN.

    Returns
    -------
    Tensor, shape (N,) or (N, K)
        Between 0 and 1; lower is better.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If an argument is not allowed, or a share is undefined and `undefined` is ``"error"``.

    References
    ----------
    .. [1] Arras, L., Osman, A., Samek, W. "CLEVR-XAI: a benchmark dataset for the ground truth evaluation of neural
       network explanations". Inf. Fusion 81, 14 (2022). arXiv:2003.07258. This is 1 minus the paper's relevance mass
       accuracy.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.functional import background_share
    >>> background_share(torch.tensor([[[3.0, -1.0]]]), torch.tensor([[[1, 0]]]))
    tensor([0.2500])
    """
    check_choice("pooling", pooling, SharePooling)
    return _measured(heatmaps, foreground, pooling, undefined, lambda values, inside: _mass(values, ~inside))


def relevance_mass_accuracy(
    heatmaps: Tensor, foreground: Tensor, *, pooling: SharePooling = "sum_pos", undefined: Undefined = "error"
) -> Tensor:
    r"""Share of the relevance that lies on the foreground.

    .. math::
        \frac{\sum_p M_p A_p}{\sum_p A_p}, \qquad A = \text{pooled } R

    With the same pooling it is 1 minus the `background_share`.

    Parameters
    ----------
    heatmaps, foreground, undefined
        As for `background_share`.
    pooling : {"sum_pos", "sum_abs", "l1_norm", "l2_norm", "l2_norm_sq", "max_norm"}, default="sum_pos"
        How channels become one value. The paper compares these; the default counts evidence for the quantity.

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
    .. [1] Arras, L., Osman, A., Samek, W. "CLEVR-XAI: a benchmark dataset for the ground truth evaluation of neural
       network explanations". Inf. Fusion 81, 14 (2022). arXiv:2003.07258. Relevance mass accuracy.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.functional import relevance_mass_accuracy
    >>> relevance_mass_accuracy(torch.tensor([[[3.0, 1.0]]]), torch.tensor([[[1, 0]]]))
    tensor([0.7500])
    """
    check_choice("pooling", pooling, SharePooling)
    return _measured(heatmaps, foreground, pooling, undefined, _mass)


def energy_pointing_game(heatmaps: Tensor, foreground: Tensor, *, undefined: Undefined = "error") -> Tensor:
    r"""Share of the positive relevance in the foreground, or in the object's bounding box.

    .. math::
        \frac{\sum_p M_p A^+_p}{\sum_p A^+_p}, \qquad A^+_p = \max\Bigl(0, \sum_c R_{cp}\Bigr)

    It is the `relevance_mass_accuracy` with its default pooling, which has this name for boxes.

    Parameters
    ----------
    heatmaps, undefined
        As for `background_share`.
    foreground : Tensor, shape (N, 1, H, W) or (N, H, W), with T for videos
        1 in the object's bounding box, as in the paper, or on the object.

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
    .. [1] Wang, H. et al. "Score-CAM: score-weighted visual explanations for convolutional neural networks". CVPR
       Workshops 2020. arXiv:1910.01279. Section 4.3.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.functional import energy_pointing_game
    >>> energy_pointing_game(torch.tensor([[[3.0, -1.0, 1.0]]]), torch.tensor([[[1, 0, 0]]]))
    tensor([0.7500])
    """
    return relevance_mass_accuracy(heatmaps, foreground, pooling="sum_pos", undefined=undefined)


def relevance_rank_accuracy(
    heatmaps: Tensor, foreground: Tensor, *, pooling: ChannelPooling = "sum", undefined: Undefined = "error"
) -> Tensor:
    r"""Share of foreground among the K pixels with the highest relevance, where K is the foreground's size.

    .. math::
        \frac{|P_{\mathrm{top}\,K} \cap G|}{K}, \qquad K = |G|, \qquad G = \{p : M_p = 1\}

    Parameters
    ----------
    heatmaps, foreground, undefined
        As for `background_share`.
    pooling : {"sum", "sum_pos", "sum_abs", "l1_norm", "l2_norm", "l2_norm_sq", "max_norm"}, default="sum"
        How channels become one value, see `pool_channels`. The default ranks pixels by their evidence for the quantity;
        the paper uses the other poolings, which are nonnegative.

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
    .. [1] Arras, L., Osman, A., Samek, W. "CLEVR-XAI: a benchmark dataset for the ground truth evaluation of neural
       network explanations". Inf. Fusion 81, 14 (2022). arXiv:2003.07258. Relevance rank accuracy.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.functional import relevance_rank_accuracy
    >>> relevance_rank_accuracy(torch.tensor([[[3.0, 1.0, 2.0]]]), torch.tensor([[[1, 1, 0]]]))
    tensor([0.5000])
    """
    return _measured(heatmaps, foreground, pooling, undefined, _share_of_top)


def pointing_game(
    heatmaps: Tensor,
    foreground: Tensor,
    *,
    pooling: ChannelPooling = "sum",
    tolerance: int = 0,
    undefined: Undefined = "error",
) -> Tensor:
    """Whether the pixel with the highest relevance lies on the foreground, 1 or 0; between these for tied pixels.

    Parameters
    ----------
    heatmaps, foreground, undefined
        As for `background_share`.
    pooling
        As for `relevance_rank_accuracy`.
    tolerance : int, default=0
        Distance in pixels to the foreground that still counts as a hit. The paper uses 15.

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
    .. [1] Zhang, J. et al. "Top-down neural attention by excitation backprop". Int. J. Comput. Vis. 126, 1084 (2018).
       arXiv:1608.00507. Section 4.1.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.functional import pointing_game
    >>> heatmaps, foreground = torch.tensor([[[3.0, 1.0, 2.0]]]), torch.tensor([[[0, 1, 1]]])
    >>> pointing_game(heatmaps, foreground), pointing_game(heatmaps, foreground, tolerance=1)
    (tensor([0.]), tensor([1.]))
    """
    check_count("tolerance", tolerance, low=0)

    def hit(values: Tensor, inside: Tensor) -> Tensor:
        return _share_of_top(values, _grown(inside, heatmaps.shape[-2:], tolerance), k=1)

    return _measured(heatmaps, foreground, pooling, undefined, hit)


def top_k_intersection(
    heatmaps: Tensor, foreground: Tensor, *, k: int, pooling: ChannelPooling = "sum", undefined: Undefined = "error"
) -> Tensor:
    r"""Share of the k pixels with the highest relevance that lie on the foreground.

    .. math::
        \frac{|P_{\mathrm{top}\,k} \cap G|}{k}, \qquad G = \{p : M_p = 1\}

    Parameters
    ----------
    heatmaps, foreground, undefined
        As for `background_share`.
    k : int
        Number of pixels, from 1 to ``H·W``. Objects with fewer than k pixels cannot reach 1.
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
    .. [1] Theiner, J., Müller-Budack, E., Ewerth, R. "Interpretable semantic photo geolocation". WACV 2022.
       arXiv:2104.14995.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.functional import top_k_intersection
    >>> top_k_intersection(torch.tensor([[[3.0, 1.0, 2.0]]]), torch.tensor([[[1, 0, 0]]]), k=2)
    tensor([0.5000])
    """
    check_count("k", k)
    return _measured(heatmaps, foreground, pooling, undefined, partial(_share_of_top, k=k))


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
        If `heatmaps` is not a floating tensor.
    InvalidValueError
        If `pooling` is unknown, or `heatmaps` has fewer than three dimensions or no channel.

    References
    ----------
    .. [1] Arras, L., Osman, A., Samek, W. "CLEVR-XAI: a benchmark dataset for the ground truth evaluation of neural
       network explanations". Inf. Fusion 81, 14 (2022). arXiv:2003.07258. All poolings but ``sum``.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.functional import pool_channels
    >>> pool_channels(torch.tensor([1.0, -3.0]).reshape(2, 1, 1), "l1_norm")
    tensor([[4.]])
    """
    check_choice("pooling", pooling, ChannelPooling)
    heatmaps = as_floats("heatmaps", heatmaps)
    if heatmaps.dim() < 3 or heatmaps.shape[-3] == 0:
        raise InvalidValueError(f"heatmaps must have shape (..., C, H, W) with C >= 1; got {tuple(heatmaps.shape)}")
    pools: dict[str, Callable[[Tensor], Tensor]] = {
        "sum": lambda r: r.sum(dim=-3),
        "sum_pos": lambda r: r.sum(dim=-3).clamp(min=0),
        "sum_abs": lambda r: r.sum(dim=-3).abs(),
        "l1_norm": lambda r: r.abs().sum(dim=-3),
        "l2_norm": lambda r: r.square().sum(dim=-3).sqrt(),
        "l2_norm_sq": lambda r: r.square().sum(dim=-3),
        "max_norm": lambda r: r.abs().amax(dim=-3),
    }
    return pools[pooling](heatmaps)


def _measured(
    heatmaps: Tensor, foreground: Tensor, pooling: ChannelPooling, undefined: Undefined, score: Callable[..., Tensor]
) -> Tensor:
    """Check the arguments, pool the channels, and return the score of each heatmap.

    Parameters
    ----------
    heatmaps, foreground, pooling, undefined
        As for `background_share`, with any pooling.
    score : callable
        ``score(values (N, K, P), inside (N, 1, P)) -> (N, K)`` for pooled heatmaps and boolean masks with P pixels;
        arbitrary if there is no foreground or no relevance.
    """
    check_choice("undefined", undefined, Undefined)
    maps = _as_several(heatmaps)
    inside = _as_masks(foreground, maps).flatten(2)
    values = pool_channels(_scaled(maps).flatten(3, -2), pooling).flatten(2)
    no_foreground, no_relevance = ~inside.any(dim=2), (values == 0).all(dim=2)
    if undefined == "error":
        reasons = {"no foreground in the masks": no_foreground, "no relevance in the pooled heatmaps": no_relevance}
        found = [f"{reason} of {named_images(flags)}" for reason, flags in reasons.items() if bool(flags.any())]
        if found:
            raise InvalidValueError(
                f'the measure is undefined: {" and ".join(found)}; leave these images out, or pass undefined="skip"'
            )
    scores = score(values, inside).masked_fill(no_foreground | no_relevance, torch.nan)
    return scores if heatmaps.dim() >= 5 else scores.squeeze(1)


def _mass(values: Tensor, region: Tensor) -> Tensor:
    """Share of the values (N, K, P) in a region (N, 1, P), of shape (N, K)."""
    return (values * region).sum(dim=2) / values.sum(dim=2)


def _share_of_top(values: Tensor, inside: Tensor, k: int | None = None) -> Tensor:
    """Expected share of foreground among the k highest pixels, (N, K); if k is None, the foreground's size."""
    if k is not None and k > values.shape[2]:
        raise InvalidValueError(f"k must be at most {values.shape[2]}, the number of pixels of a heatmap; got {k}")
    count = inside.sum(dim=2).clamp(min=1)
    count = count if k is None else torch.full_like(count, k)
    ranked = values.sort(dim=2, descending=True).values
    threshold = ranked.gather(2, (count.unsqueeze(2) - 1).expand(-1, values.shape[1], 1))
    above, tied = values > threshold, values == threshold
    # pixels tied for the remaining ranks are included with equal probability
    places = count - above.sum(dim=2)
    hits = (above & inside).sum(dim=2) + places * (tied & inside).sum(dim=2) / tied.sum(dim=2)
    return hits / count


def _as_several(heatmaps: Tensor) -> Tensor:
    """Heatmaps as (N, K, C, *spatial) in float32 or float64."""
    heatmaps = as_floats("heatmaps", heatmaps)
    if heatmaps.dim() not in (3, 4, 5, 6) or heatmaps.numel() == 0:
        legal = "(N, C, H, W), (N, K, C, H, W) or (N, H, W), or (N, K, C, T, H, W) for videos, all sizes positive"
        raise InvalidValueError(f"heatmaps must have shape {legal}; got {tuple(heatmaps.shape)}")
    broken = ~heatmaps.isfinite()
    if bool(broken.any()):
        raise InvalidValueError(f"heatmaps must be finite; got NaN or Inf in {named_images(broken)}")
    return heatmaps if heatmaps.dim() >= 5 else heatmaps.reshape(len(heatmaps), 1, -1, *heatmaps.shape[-2:])


def _as_masks(foreground: Tensor, heatmaps: Tensor) -> Tensor:
    """Boolean masks (N, 1, *spatial) of the heatmaps' size."""
    check_real(foreground)
    size = tuple(heatmaps.shape[3:])
    masks = foreground.unsqueeze(1) if foreground.dim() == len(size) + 1 else foreground
    expected = (len(heatmaps), 1, *size)
    if masks.shape != expected or masks.device != heatmaps.device:
        raise InvalidValueError(
            f"foreground must have shape {expected} or without the 1, on {heatmaps.device}, for these heatmaps; got "
            f"{tuple(foreground.shape)} on {foreground.device}; resize masks by resize_foreground(foreground, "
            f"{size}); heatmaps of videos have shape (N, K, C, T, H, W)"
        )
    # masks without foreground are legal here: the measure decides whether that is an error
    empty = (masks == 0).flatten(1).all(dim=1)
    validate_foreground(torch.where(empty.view(-1, *(1,) * (masks.dim() - 1)), torch.ones_like(masks), masks))
    return masks == 1


def _scaled(heatmaps: Tensor) -> Tensor:
    """Scale heatmaps (N, K, C, *spatial) to maxima near 1: no measure depends on scale, and squares cannot overflow."""
    largest = heatmaps.detach().abs().flatten(2).amax(dim=2)
    # a power of two, which is exact
    most = 1000 if heatmaps.dtype == torch.float64 else 100
    scale = torch.exp2(-largest.log2().floor().clamp(-most, most))
    return heatmaps * scale.view(*scale.shape, *(1,) * (heatmaps.dim() - 2))


def _grown(inside: Tensor, size: Sequence[int], radius: int) -> Tensor:
    """Flat masks (N, 1, P) with every pixel of the same frame (H, W) within a distance of the foreground."""
    steps = torch.arange(-radius, radius + 1, device=inside.device)
    disc = (steps[:, None].square() + steps.square() <= radius**2).float()
    frames = inside.float().view(-1, 1, *size)
    return (F.conv2d(frames, disc[None, None], padding=radius) > 0.5).view_as(inside)
