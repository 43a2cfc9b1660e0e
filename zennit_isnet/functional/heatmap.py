"""The heatmap loss: mask resizing, background loss, foreground loss, and their sum."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from zennit_isnet.checks import as_floats, check_choice, check_number
from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.parts import parts

_NAMED_IMAGES = 16

_BLOCK = 2**16
"""Values that are ranked at once, so that the memory for it stays small."""


def resize_foreground(foreground: Tensor, size: Sequence[int]) -> Tensor:
    """Resize a foreground mask without ever turning foreground into background.

    A cell of the result is background only if no foreground pixel overlaps it (adaptive max pooling, for both smaller
    and larger sizes). With interpolation, thin foreground could vanish, and the heatmap loss would then penalise
    relevance on the object itself.

    Parameters
    ----------
    foreground : Tensor, shape (N, 1, *spatial) or (N, *spatial)
        1 (or True) on the object, 0 elsewhere; bool, integer or floating.
    size : sequence of 2 or 3 ints
        Spatial size of the result: ``(H, W)`` for images, ``(T, H, W)`` for videos.

    Returns
    -------
    Tensor, shape (N, 1, *size)
        Floating point: float64 is kept, everything else becomes float32.

    Raises
    ------
    InvalidTypeError
        If `foreground` is not a real tensor.
    InvalidValueError
        If `size` does not have two or three positive entries, or the shape of `foreground` does not match it.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.functional import resize_foreground
    >>> foreground = torch.zeros(1, 4, 4, dtype=torch.bool)
    >>> foreground[0, 0, 1] = True
    >>> resize_foreground(foreground, (2, 2))
    tensor([[[[1., 0.],
              [0., 0.]]]])
    """
    size = tuple(size)
    if len(size) not in (2, 3) or min(size) < 1:
        raise InvalidValueError(f"size must be (H, W) or (T, H, W) with positive entries; got {size}")
    check_real(foreground)
    shape = tuple(foreground.shape)
    if foreground.dim() == len(size) + 1:
        foreground = foreground.unsqueeze(1)
    if foreground.dim() != len(size) + 2 or foreground.shape[1] != 1 or min(foreground.shape[2:]) < 1:
        names = "T, H, W" if len(size) == 3 else "H, W"
        legal = f"shape (N, 1, {names}) or (N, {names}) with pixels, for heatmaps of size {size}"
        raise InvalidValueError(f"foreground must have {legal}; got {shape}")
    foreground = foreground if foreground.dtype == torch.float64 else foreground.to(torch.float32)
    if tuple(foreground.shape[2:]) == size:
        return foreground
    pool = F.adaptive_max_pool2d if len(size) == 2 else F.adaptive_max_pool3d
    resized: Tensor = pool(foreground, size)
    return resized


def validate_foreground(foreground: Tensor) -> None:
    """Raise unless every mask consists of 0 and 1 and has some foreground.

    Reads the values, which synchronises an accelerator once. The loss functions of `zennit_isnet.functional` never do
    that; without this check they return a NaN loss for an all-background mask. A mask without background is allowed.

    Parameters
    ----------
    foreground : Tensor, shape (N, ...)
        One mask per image.

    Raises
    ------
    InvalidTypeError
        If `foreground` is not a real tensor.
    InvalidValueError
        If `foreground` has no batch dimension, has a value other than 0 and 1 (NaN included), or is background
        everywhere in some image; the message names the images by their index in the batch.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.functional import validate_foreground
    >>> validate_foreground(torch.ones(2, 1, 4, 4))
    >>> validate_foreground(torch.zeros(2, 1, 4, 4))
    Traceback (most recent call last):
        ...
    zennit_isnet.errors.InvalidValueError: no foreground in the masks of images 0, 1 of 2; ...
    """
    check_real(foreground)
    if foreground.dim() < 2:
        raise InvalidValueError(f"foreground must be (N, ...), one mask per image; got {tuple(foreground.shape)}")
    flat = foreground.detach().flatten(1)
    is_foreground = flat == 1
    illegal = ~(is_foreground | (flat == 0)).all(dim=1)
    empty = ~is_foreground.any(dim=1)
    some_illegal, some_empty = torch.stack([illegal, empty]).any(dim=1).tolist()
    if some_illegal:
        # as text, because NaN does not equal itself
        examples = sorted(set(map(str, flat[~is_foreground & (flat != 0)][:1000].tolist())))[:5]
        problem = f"the masks of {named_images(illegal)} have other values, such as {', '.join(examples)}"
        legal, remedy = "1 on the object and 0 elsewhere", "threshold them first, for example by `foreground > 0`"
        raise InvalidValueError(f"foreground must be {legal}; {problem}; {remedy}")
    if some_empty:
        reason = "each mask needs at least one foreground pixel, as a reference for the background"
        problem = f"no foreground in the masks of {named_images(empty)}"
        raise InvalidValueError(f"{problem}; {reason} (a mask without background is allowed)")


def check_real(foreground: Tensor) -> None:
    """Raise `InvalidTypeError` unless masks are a tensor of bool, integer or floating dtype."""
    if not isinstance(foreground, Tensor):
        raise InvalidTypeError(f"foreground must be a tensor; got {type(foreground).__name__}")
    if foreground.is_complex():
        raise InvalidTypeError(f"foreground must be bool, integer or floating; got {foreground.dtype}")


def named_images(flags: Tensor) -> str:
    """Name the images of a batch with a flag, (N, ...), for messages."""
    named = flags.reshape(len(flags), -1).any(dim=1).nonzero().flatten().tolist()
    more = ", ..." if len(named) > _NAMED_IMAGES else ""
    shown = ", ".join(map(str, named[:_NAMED_IMAGES]))
    return f"image{'s' if len(named) > 1 else ''} {shown}{more} of {len(flags)}"


def as_heatmaps(relevance: Tensor) -> Tensor:
    """Check heatmaps of shape (N, K, C, *spatial), and return them in float32 or float64."""
    relevance = as_floats("relevance", relevance)
    if relevance.dim() not in (5, 6) or min(relevance.shape[1:]) < 1:
        legal = "shape (N, K, C, H, W) or (N, K, C, T, H, W) with at least one heatmap, channel and cell"
        raise InvalidValueError(f"relevance must have {legal}; got {tuple(relevance.shape)}")
    return relevance


def align(relevance: Tensor, foreground: Tensor) -> tuple[Tensor, Tensor]:
    """Check both, and bring the foreground to the dtype of the relevance and to shape (N, 1, 1, *spatial)."""
    relevance = as_heatmaps(relevance)
    foreground = resize_foreground(foreground, relevance.shape[3:])
    if len(foreground) != len(relevance):
        raise InvalidValueError(
            f"foreground must have a mask for each of {len(relevance)} images; got {len(foreground)}"
        )
    return relevance, foreground.to(relevance.dtype).unsqueeze(1)


Normalization = Literal["absolute_first", "normalize_first"]
"""Whether the mean foreground relevance is taken over absolute or signed relevance."""

DECAY = 0.99
"""Weight of each background rank relative to the previous one: about the 100 hottest cells count."""

BACKGROUND_SCALE = 0.01
"""The normalised background at which the loss starts to have a strong gradient."""

SMALLEST_COMPLEMENT = 1e-7
"""The background loss is ``-log(1 - b)`` with ``1 - b`` never below this, so it is at most 16.1."""


def gwrp(values: Tensor, decay: float, dim: int = -1) -> Tensor:
    r"""Global weighted rank pooling: the weighted mean of the values in descending order.

    .. math:: \frac{\sum_{i=0}^{n-1} d^i v_{(i)}}{\sum_{i=0}^{n-1} d^i}, \qquad v_{(0)} \ge v_{(1)} \ge \dots

    Only ranks whose weight is significant in the dtype are computed (151 of any number for ``decay=0.9`` in float32),
    and none for ``decay=1``. The total weight of the other ranks is below the rounding error of the result.

    Parameters
    ----------
    values : Tensor
        Floating point; half precision is pooled in float32.
    decay : float
        Weight :math:`d` of each rank relative to the previous one, in (0, 1]: near 0 the maximum, at 1 the mean.
    dim : int, default=-1
        The axis to pool.

    Returns
    -------
    Tensor
        Shape of `values` without `dim`.

    Raises
    ------
    InvalidTypeError
        If `values` is not a floating tensor, or `decay` is not a number.
    InvalidValueError
        If `decay` lies outside (0, 1], or `values` has no such axis or is empty along it.

    References
    ----------
    .. [1] Kolesnikov, A., Lampert, C. H. "Seed, expand and constrain: three principles for weakly-supervised image
       segmentation". ECCV 2016.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.functional import gwrp
    >>> values = torch.tensor([1.0, 4.0, 2.0])
    >>> gwrp(values, 0.5)
    tensor(3.)
    >>> gwrp(values, 1.0) == values.mean()
    tensor(True)
    """
    check_number("decay", decay, high=1.0)
    values = as_floats("values", values)
    shape = tuple(values.shape)
    if not -len(shape) <= dim < len(shape) or shape[dim] == 0:
        raise InvalidValueError(f"values must have at least one entry along dim={dim}; got shape {shape}")
    values = values.movedim(dim, -1)
    if decay == 1:
        return values.mean(dim=-1)
    weights = _rank_weights(decay, values)
    return (values.gather(-1, _highest(values, len(weights))) * weights).sum(dim=-1)


def _rank_weights(decay: float, values: Tensor) -> Tensor:
    """Weights of the ranks along the last axis whose weight is significant in the dtype; all weights sum to 1."""
    log_decay, ranks = math.log(decay), values.shape[-1]
    # The weights from rank k on sum to about d^k of the total.
    counting = min(ranks, max(1, math.ceil(math.log(torch.finfo(values.dtype).eps) / log_decay)))
    weights = torch.exp(log_decay * torch.arange(counting, dtype=values.dtype, device=values.device))
    return weights * ((1 - decay) / -math.expm1(ranks * log_decay))


def _highest(values: Tensor, count: int) -> Tensor:
    """Indices of the highest values along the last axis, in descending order."""
    if values.dtype != torch.float32 or not values.is_cpu:
        return values.topk(count, dim=-1).indices
    size = values.shape[-1]
    rows = values.detach().reshape(-1, size).numpy()
    places = np.empty((len(rows), count), np.int64)
    step, index = max(1, _BLOCK // size), np.arange(size)

    def rank(start: int) -> None:
        # NumPy sorts integers several times as fast as PyTorch sorts values together with their indices. So one integer
        # holds both: the value in its upper half, the index in its lower half. The bits of a float are in the order of
        # the values once those of negative values are inverted.
        block = rows[start : start + step]
        bits = block.view(np.int32)
        ordered = bits >> 31
        ordered &= 0x7FFFFFFF
        ordered ^= bits
        np.copyto(ordered, 0x7FFFFFFF, where=np.isnan(block))
        keys = ordered.astype(np.int64)
        keys <<= 32
        keys |= index
        if count < size:
            keys.partition(size - count, axis=-1)
        highest = keys[:, size - count :]
        highest.sort(axis=-1)
        places[start : start + step] = highest[:, ::-1] & 0xFFFFFFFF

    starts = range(0, len(rows), step)
    threads = min(torch.get_num_threads(), len(starts))
    if threads < 2:
        for start in starts:
            rank(start)
    else:
        with ThreadPoolExecutor(threads) as pool:  # NumPy releases the interpreter's lock
            for _ in pool.map(rank, starts):
                pass
    return torch.from_numpy(places).view(*values.shape[:-1], count)


class _Pooling(Function):
    r"""Absolute relevance on the background, pooled by rank, and its total on the foreground.

    .. math::
        \bar B_{nkc} = \mathrm{gwrp}_{hw}\bigl(|R_{nkchw}| (1 - M_{nhw})\bigr), \qquad
        F_{nk} = \sum_{chw} |R_{nkchw}| M_{nhw}

    As one function, because each pass over the maps of all layers costs about a hundredth of a training step.
    """

    @staticmethod
    def forward(ctx: Any, relevance: Tensor, foreground: Tensor, decay: float) -> tuple[Tensor, Tensor]:
        values, inside = relevance.flatten(3), foreground.flatten(3)
        outside, pooled, total = 1 - inside, torch.empty_like(values[..., 0]), torch.empty_like(values[..., 0, 0])
        ranked = None if decay == 1 else _rank_weights(decay, values)
        # the weight of each value by its rank, or of all
        weights = outside / values.shape[-1] if ranked is None else torch.empty_like(values)
        for v, i, o, w, p, t in parts(values, inside, outside, weights, pooled, total):
            absolute = v.abs()
            torch.sum(absolute * i, (-2, -1), out=t)
            if ranked is None:
                torch.sum(absolute.mul_(w), -1, out=p)
                continue
            places = _highest(absolute.mul_(o), len(ranked))
            w.zero_().scatter_(-1, places, ranked.expand_as(places))
            torch.sum(absolute.mul_(w), -1, out=p)
            w.mul_(o)
        ctx.save_for_backward(relevance, inside, weights)
        return pooled, total

    @staticmethod
    def backward(ctx: Any, grad_pooled: Tensor, grad_total: Tensor) -> tuple[Tensor, None, None]:
        relevance, inside, weights = ctx.saved_tensors
        slope = torch.addcmul(inside * grad_total[..., None, None], weights, grad_pooled.unsqueeze(-1))
        return slope.view(relevance.shape).mul_(relevance.detach().sgn()), None, None


def normalized_background(
    relevance: Tensor,
    foreground: Tensor,
    decay: float = DECAY,
    *,
    normalization: Normalization = "absolute_first",
    stabilizer: float = 0.0,
    ceiling: float = math.inf,
) -> Tensor:
    r"""Absolute background relevance, pooled by rank and divided by the heatmap's mean foreground relevance.

    .. math::
        \bar B_{nkc} = \frac{\mathrm{gwrp}_{hw}\bigl(|R_{nkchw}| (1 - M_{nhw})\bigr)}{\bar F_{nk}}, \qquad
        \bar F_{nk} = \frac{\sum_{chw} |R_{nkchw}| M_{nhw}}{\sum_{chw} M_{nhw}}

    With ``normalization="normalize_first"`` the mean is that of the signed relevance, :math:`\bar F_{nk} = |\sum R M| /
    \sum M`. This mean can cancel, which makes the result large and sensitive to rounding.

    Parameters
    ----------
    relevance : Tensor, shape (N, K, C, *spatial)
        Heatmaps, signed.
    foreground : Tensor, shape (N, 1, *spatial) or (N, *spatial)
        1 on the object, 0 elsewhere; of any spatial size, see `resize_foreground`.
    decay : float, default=0.99
        Weight of each rank relative to the previous one, in (0, 1], see `gwrp`: about the 100 hottest cells count. The
        papers have 0, 0.9 and 0.996.
    normalization : {"absolute_first", "normalize_first"}, default="absolute_first"
        Whether the absolute value is taken before or after dividing by the foreground mean. The default is more stable.
    stabilizer : float, default=0.0
        Added to the foreground mean. Zero makes the result independent of the relevance scale. The implementation of
        [1]_ uses 1e-10, which matters if a signed mean nearly cancels.
    ceiling : float, default=inf
        Larger results become `ceiling`, with zero gradient. A loss that saturates must set this, because the gradient
        of the division can only be kept finite before dividing.

    Returns
    -------
    Tensor, shape (N, K, C)
        Zero where neither the background nor the foreground has relevance.

    Raises
    ------
    InvalidTypeError
        If a tensor has a dtype, or a number a type, that is not allowed.
    InvalidValueError
        If shapes do not fit, or an option lies outside its range.

    References
    ----------
    .. [1] Bassi, P. R. A. S., Decherchi, S., Cavalli, A. "Faster ISNet for background bias mitigation on deep neural
       networks". IEEE Access 12, 155151 (2024). arXiv:2401.08409.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.functional import normalized_background
    >>> foreground = torch.tensor([[[1, 0], [1, 0]]])
    >>> relevance = torch.tensor([[2.0, 1.0], [2.0, -1.0]]).reshape(1, 1, 1, 2, 2)
    >>> normalized_background(relevance, foreground, decay=1.0)
    tensor([[[0.2500]]])
    """
    check_choice("normalization", normalization, Normalization)
    check_number("stabilizer", stabilizer, include_low=True)
    if not ceiling > 0:
        check_number("ceiling", ceiling)
    check_number("decay", decay, high=1.0)
    pooled, mean, _ = _pooled(relevance, foreground, decay, normalization)
    return _saturating_ratio(pooled, mean + stabilizer, ceiling)


def _pooled(
    relevance: Tensor, foreground: Tensor, decay: float, normalization: Normalization
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the pooled background ``(N, K, C)``, and mean ``(N, K, 1)`` and total ``(N, K)`` of the foreground."""
    relevance, foreground = align(relevance, foreground)
    background, total = _Pooling.apply(relevance, foreground, decay)
    reference = total if normalization == "absolute_first" else (relevance * foreground).flatten(2).sum(-1).abs()
    cells = relevance.shape[2] * foreground.flatten(1).sum(-1, keepdim=True)
    return background, (reference / cells).unsqueeze(-1), total


def background_loss(
    relevance: Tensor,
    foreground: Tensor,
    *,
    decay: float = DECAY,
    background_scale: float = BACKGROUND_SCALE,
    normalization: Normalization = "absolute_first",
    stabilizer: float = 0.0,
) -> Tensor:
    r"""Penalty on relevance outside the object, independent of the heatmap's scale.

    .. math::
        L_n = \frac{1}{KC} \sum_{kc} -\log(1 - b_{nkc}), \qquad
        b_{nkc} = \frac{\bar B_{nkc}}{\bar B_{nkc} + E} \in [0, 1 - 10^{-7}]

    with :math:`\bar B` from `normalized_background`. It is computed as ``log1p(B / E)``, which is equal and precise for
    small and large backgrounds.

    Parameters
    ----------
    relevance, foreground, decay, normalization, stabilizer
        As for `normalized_background`.
    background_scale : float, default=0.01
        The :math:`E` of the papers: the normalised background at which ``b`` is one half; below it the gradient is
        small. The papers use 1 and 10, which is lenient: relevance spread over the background remains.

    Returns
    -------
    Tensor, shape (N,)
        Between 0 (no relevance on the background) and 16.1 (no relevance on the foreground).

    Raises
    ------
    InvalidTypeError, InvalidValueError
        As for `normalized_background`.

    References
    ----------
    .. [1] Bassi, P. R. A. S., Dertkigil, S. S. J., Cavalli, A. "Improving deep neural network generalization and
       robustness to background bias via layer-wise relevance propagation optimization". Nat. Commun. 15, 291 (2024).

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.functional import background_loss
    >>> foreground = torch.tensor([[[1, 0], [1, 0]]])
    >>> relevance = torch.tensor([[2.0, 0.0], [2.0, 0.0]]).reshape(1, 1, 1, 2, 2)
    >>> background_loss(relevance, foreground)
    tensor([0.])
    >>> background_loss(relevance.flip(-1), foreground)
    tensor([16.1181])
    """
    check_choice("normalization", normalization, Normalization)
    check_number("background_scale", background_scale)
    check_number("stabilizer", stabilizer, include_low=True)
    check_number("decay", decay, high=1.0)
    pooled, mean, _ = _pooled(relevance, foreground, decay, normalization)
    return _background_loss(pooled, mean + stabilizer, background_scale)


def _background_loss(pooled: Tensor, mean: Tensor, background_scale: float) -> Tensor:
    ceiling = background_scale * (1 / SMALLEST_COMPLEMENT - 1)
    return torch.log1p(_saturating_ratio(pooled, mean, ceiling) / background_scale).mean(dim=(1, 2))


def _saturating_ratio(numerator: Tensor, denominator: Tensor, ceiling: float) -> Tensor:
    """Divide; ``0 / 0`` gives 0 and large results give `ceiling`, both with zero gradient. Subnormals count as zero.

    Somewhat larger numbers also count as zero if the ceiling is low: the loss that saturates there is steeper.
    """
    tiny = torch.finfo(numerator.dtype).tiny * max(1.0, 1 / (ceiling * SMALLEST_COMPLEMENT))
    # Common factors cancel, so a constant one can scale both near 1, where intermediate gradients cannot overflow.
    total = (numerator + denominator).detach()
    nothing, zero_denominator = total < tiny, denominator < tiny
    scale = total.masked_fill(nothing, 1.0)
    numerator, denominator = numerator / scale, denominator / scale
    saturated = zero_denominator | (denominator <= numerator / ceiling)
    # Also replace the divisor where the quotient is replaced: 0 times the infinite gradient of x / 0 is NaN.
    quotient = numerator / denominator.masked_fill(saturated | nothing, 1.0)
    return quotient.masked_fill(saturated, ceiling).masked_fill(nothing, 0.0)


RangeEnd = float | Tensor
"""One end of the range of the total relevance: a number, or a tensor of shape ()."""

ForegroundVariant = Literal["hybrid", "squared"]
"""Growth of the foreground loss above its range: eventually linear, or always quadratic."""


def foreground_loss(
    relevance: Tensor, foreground: Tensor, c1: RangeEnd, c2: RangeEnd, *, variant: ForegroundVariant = "hybrid"
) -> Tensor:
    r"""Penalty on a total foreground relevance outside its natural range, to prevent vanishing and exploding heatmaps.

    .. math::
        L_n = \frac1K \sum_k
        \Bigl(\min\bigl(\tfrac{F_{nk}}{C_1}, 1\bigr) - 1\Bigr)^2
        + \Bigl(\max\bigl(\tfrac{F_{nk}}{C_1}, \tfrac{C_2}{C_1}\bigr) - \tfrac{C_2}{C_1}\Bigr)^2,
        \qquad F_{nk} = \sum_{chw} |R_{nkchw}| M_{nhw}

    The hybrid variant replaces the second square by :math:`1 + |F - (C_1 + C_2)|` once :math:`F > C_1 + C_2`, so that
    one exploding heatmap cannot dominate the batch.

    Parameters
    ----------
    relevance, foreground
        As for `normalized_background`.
    c1, c2 : float or Tensor of shape ()
        Range of the total relevance without a penalty, ``0 < c1 < c2``; measured by the regularizer's `calibrate`.
        Values of tensors are not checked.
    variant : {"hybrid", "squared"}, default="hybrid"
        Growth above the range.

    Returns
    -------
    Tensor, shape (N,)

    Raises
    ------
    InvalidTypeError, InvalidValueError
        As for `normalized_background`, and if ``0 < c1 < c2`` does not hold for numbers.

    References
    ----------
    .. [1] Bassi, P. R. A. S., Dertkigil, S. S. J., Cavalli, A. "Improving deep neural network generalization and
       robustness to background bias via layer-wise relevance propagation optimization". Nat. Commun. 15, 291 (2024).

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.functional import foreground_loss
    >>> relevance = torch.tensor([0.5, 5.0, 13.0]).reshape(3, 1, 1, 1, 1)
    >>> foreground_loss(relevance, torch.ones(3, 1, 1), c1=1.0, c2=10.0)
    tensor([0.2500, 0.0000, 3.0000])
    """
    check_choice("variant", variant, ForegroundVariant)
    check_relevance_range(c1, c2)
    relevance, foreground = align(relevance, foreground)
    return _foreground_loss((relevance.abs() * foreground).flatten(2).sum(dim=2), c1, c2, variant)


def _foreground_loss(total: Tensor, c1: RangeEnd, c2: RangeEnd, variant: ForegroundVariant) -> Tensor:
    too_little = ((total / c1).clamp(max=1) - 1).square()
    excess = (total - c2) / c1
    if variant == "squared":
        too_much = excess.clamp(min=0).square()
    else:
        # Beyond C1 + C2 the square keeps its value there, 1, and the linear term is added to it.
        too_much = excess.clamp(min=0, max=1).square() + (total - (c1 + c2)).clamp(min=0)
    return (too_little + too_much).mean(dim=1)


def total_relevance(relevance: Tensor) -> Tensor:
    r"""Total absolute relevance of an image, :math:`\frac1K \sum_{kchw} |R_{nkchw}|`.

    Its distribution over a dataset gives the range ``(c1, c2)`` of `foreground_loss`.

    Parameters
    ----------
    relevance : Tensor, shape (N, K, C, *spatial)
        Heatmaps, signed.

    Returns
    -------
    Tensor, shape (N,)

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If `relevance` is not floating or has another number of dimensions.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.functional import total_relevance
    >>> total_relevance(torch.tensor([-1.0, 3.0]).reshape(1, 2, 1, 1, 1))
    tensor([2.])
    """
    return as_heatmaps(relevance).abs().flatten(2).sum(dim=2).mean(dim=1)


def check_relevance_range(c1: RangeEnd, c2: RangeEnd) -> None:
    """Raise unless ``0 < c1 < c2``, as far as this can be checked without synchronising a device.

    Values of tensors are not read: the caller must ensure that they are valid.

    Parameters
    ----------
    c1, c2 : float or Tensor
        Ends of the natural range of the total relevance; tensors must be scalars.

    Raises
    ------
    InvalidTypeError
        If one is neither a number nor a tensor.
    InvalidValueError
        If a tensor is not a scalar, or the numbers are not an increasing positive range.
    """
    for name, value in (("c1", c1), ("c2", c2)):
        if not isinstance(value, Tensor):
            check_number(name, value)
        elif value.dim() != 0:
            raise InvalidValueError(f"{name} must be a number or a tensor of shape (); got shape {tuple(value.shape)}")
    if not isinstance(c1, Tensor) and not isinstance(c2, Tensor) and c1 >= c2:
        raise InvalidValueError(f"c1 must be less than c2; got c1={c1!r} and c2={c2!r}")


@dataclass(frozen=True, kw_only=True)
class HeatmapLoss:
    """Penalty on background relevance, and on foreground relevance outside its natural range.

    The weighted sum of `zennit_isnet.functional.background_loss` and `zennit_isnet.functional.foreground_loss`, one
    value per image, with its options.

    The range ``(c1, c2)`` belongs to the layer that the heatmaps come from and is an argument of the call.

    A low value shows where relevance lies, not that the model ignores the background. Only a test with changed
    backgrounds can show that.

    Parameters
    ----------
    background_weight, foreground_weight : float, default=1.0
        Weights of the two losses, at least 0.
    decay : float, default=0.99
        Decay of the rank weights in the pooling of the background, in (0, 1]. Near 0 only the hottest background cells
        count, at 1 all of them equally; at 0.99 about a hundred. The papers use 0, 0.9 and 0.996.
    background_scale : float, default=0.01
        The normalised background at which ``b`` is one half in ``-log(1 - b)``: the level, relative to the mean
        foreground relevance, below which the gradient is small. The papers use 1 and 10, which leaves shortcuts that
        are spread over the background.
    foreground_variant : {"hybrid", "squared"}, default="hybrid"
        Growth above the range: eventually linear, so that one exploding heatmap cannot dominate, or always quadratic.
    normalization : {"absolute_first", "normalize_first"}, default="absolute_first"
        Whether heatmaps are divided by the mean absolute or mean signed foreground relevance. The latter can cancel.
    stabilizer : float, default=0.0
        Added to that mean; zero keeps the background loss independent of the heatmaps' scale.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If an option is not legal.

    References
    ----------
    .. [1] Bassi, P. R. A. S., Dertkigil, S. S. J., Cavalli, A. "Improving deep neural network generalization and
       robustness to background bias via layer-wise relevance propagation optimization". Nat. Commun. 15, 291 (2024).

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet import HeatmapLoss
    >>> loss = HeatmapLoss(decay=0.996)
    >>> loss(torch.ones(4, 1, 3, 8, 8), torch.ones(4, 1, 8, 8), c1=1.0, c2=1000.0)
    tensor([0., 0., 0., 0.])
    """

    background_weight: float = 1.0
    foreground_weight: float = 1.0
    decay: float = DECAY
    background_scale: float = BACKGROUND_SCALE
    foreground_variant: ForegroundVariant = "hybrid"
    normalization: Normalization = "absolute_first"
    stabilizer: float = 0.0

    def __post_init__(self) -> None:
        for name in ("background_weight", "foreground_weight", "stabilizer"):
            check_number(name, getattr(self, name), include_low=True)
        check_number("decay", self.decay, high=1.0)
        check_number("background_scale", self.background_scale)
        check_choice("foreground_variant", self.foreground_variant, ForegroundVariant)
        check_choice("normalization", self.normalization, Normalization)

    def __call__(self, relevance: Tensor, foreground: Tensor, c1: RangeEnd, c2: RangeEnd) -> Tensor:
        """Return the loss of each image.

        Parameters
        ----------
        relevance : Tensor, shape (N, K, C, *spatial)
            Heatmaps, signed.
        foreground : Tensor, shape (N, 1, *spatial) or (N, *spatial)
            1 on the object, 0 elsewhere; of any spatial size.
        c1, c2 : float or Tensor of shape ()
            Range of the total foreground relevance without a foreground penalty.

        Returns
        -------
        Tensor, shape (N,)

        Raises
        ------
        InvalidTypeError, InvalidValueError
            If an argument is not allowed.
        """
        check_relevance_range(c1, c2)
        pooled, mean, total = _pooled(relevance, foreground, self.decay, self.normalization)
        outside = _background_loss(pooled, mean + self.stabilizer, self.background_scale)
        inside = _foreground_loss(total, c1, c2, self.foreground_variant)
        return self.background_weight * outside + self.foreground_weight * inside


def heatmap_loss(relevance: Tensor, foreground: Tensor, c1: RangeEnd, c2: RangeEnd, **options: Any) -> Tensor:
    """Weighted sum of `background_loss` and `foreground_loss`, one value per image.

    Parameters
    ----------
    relevance, foreground
        As for `normalized_background`.
    c1, c2 : float or Tensor of shape ()
        As for `foreground_loss`.
    **options
        Those of `zennit_isnet.HeatmapLoss`, which checks them once and not on every call.

    Returns
    -------
    Tensor, shape (N,)

    Raises
    ------
    InvalidTypeError, InvalidValueError
        As for `background_loss` and `foreground_loss`, and if a weight is negative.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.functional import heatmap_loss
    >>> foreground = torch.zeros(2, 1, 8, 8)
    >>> foreground[..., 2:6, 2:6] = 1
    >>> relevance = torch.ones(2, 1, 3, 8, 8, requires_grad=True)
    >>> loss = heatmap_loss(relevance, foreground, c1=1.0, c2=25.0)
    >>> loss.shape
    torch.Size([2])
    >>> loss.mean().backward()
    """
    return HeatmapLoss(**options)(relevance, foreground, c1, c2)
