"""Background part of the heatmap loss, and the pooling by rank that it is made of."""

import math
from typing import Literal

import torch
from torch import Tensor

from zennit_isnet.checks import as_floats, check_choice, check_number
from zennit_isnet.errors import InvalidValueError
from zennit_isnet.functional.masks import align

Normalization = Literal["absolute_first", "normalize_first"]
"""Whether the mean relevance of the foreground is taken of absolute or of signed relevance."""

DECAY = 0.99
"""Weight of each rank of the background relative to the one before: about the 100 hottest cells count."""

BACKGROUND_SCALE = 0.01
"""The normalised background at which the loss begins to push."""

SMALLEST_COMPLEMENT = 1e-7
"""The background loss is ``-log(1 - b)`` with ``1 - b`` never below this, so it is at most 16.1."""


def gwrp(values: Tensor, decay: float, dim: int = -1) -> Tensor:
    r"""Global weighted rank pooling: the weighted mean of the values in descending order.

    .. math:: \frac{\sum_{i=0}^{n-1} d^i v_{(i)}}{\sum_{i=0}^{n-1} d^i}, \qquad v_{(0)} \ge v_{(1)} \ge \dots

    Only the ranks whose weight counts in the dtype are looked for (151 of any number for ``decay=0.9`` in float32),
    and none of them for ``decay=1``. The ranks left out weigh less than the rounding of the result together.

    Parameters
    ----------
    values : Tensor
        Floating; half precision is pooled in float32.
    decay : float
        Weight :math:`d` of each rank relative to the one before, in (0, 1]. Near 0 this is the maximum, 1 the mean.
    dim : int, default=-1
        The axis that is pooled.

    Returns
    -------
    Tensor
        Shape of `values` without `dim`.

    Raises
    ------
    InvalidTypeError
        If `values` is not a floating tensor, or `decay` not a number.
    InvalidValueError
        If `decay` lies outside of (0, 1], or `values` has no such axis or nothing along it.

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
    if decay == 1:
        return values.mean(dim=dim)
    log_decay = math.log(decay)
    ranks = shape[dim]
    # The weights from rank k on sum to about d^k of all.
    counting = min(ranks, max(1, math.ceil(math.log(torch.finfo(values.dtype).eps) / log_decay)))
    weights = torch.exp(log_decay * torch.arange(counting, dtype=values.dtype, device=values.device))
    weights = weights * ((1 - decay) / -math.expm1(ranks * log_decay))
    return (values.movedim(dim, -1).topk(counting, dim=-1).values * weights).sum(dim=-1)


def normalized_background(
    relevance: Tensor,
    foreground: Tensor,
    decay: float = DECAY,
    *,
    normalization: Normalization = "absolute_first",
    stabilizer: float = 0.0,
    ceiling: float = math.inf,
) -> Tensor:
    r"""Absolute background relevance, pooled by rank, in units of the mean foreground relevance of its heatmap.

    .. math::
        \bar B_{nkc} = \frac{\mathrm{gwrp}_{hw}\bigl(|R_{nkchw}| (1 - M_{nhw})\bigr)}{\bar F_{nk}}, \qquad
        \bar F_{nk} = \frac{\sum_{chw} |R_{nkchw}| M_{nhw}}{\sum_{chw} M_{nhw}}

    With ``normalization="normalize_first"`` the mean is that of the signed relevance,
    :math:`\bar F_{nk} = |\sum R M| / \sum M`. It can cancel, which makes the result large and sensitive to rounding.

    Parameters
    ----------
    relevance : Tensor, shape (N, K, C, *spatial)
        Heatmaps, signed.
    foreground : Tensor, shape (N, 1, *spatial) or (N, *spatial)
        1 on the object, 0 elsewhere; of any spatial size, see `resize_foreground`.
    decay : float, default=0.99
        Weight of each rank relative to the one before, in (0, 1], see `gwrp`: about the 100 hottest cells count. The
        papers have 0, 0.9 and 0.996.
    normalization : {"absolute_first", "normalize_first"}, default="absolute_first"
        Whether the absolute value is taken before or after the division by the mean of the foreground. The default
        is the stable one.
    stabilizer : float, default=0.0
        Added to the mean of the foreground. Zero makes the result independent of the scale of the relevance. The
        implementation of [1]_ has 1e-10, which shows where a signed mean nearly cancels.
    ceiling : float, default=inf
        Results above become `ceiling`, with zero gradient. A loss that saturates says so here, because a finite
        gradient through the division can only be had before the division.

    Returns
    -------
    Tensor, shape (N, K, C)
        Zero where neither the background nor the foreground has relevance.

    Raises
    ------
    InvalidTypeError
        If a tensor has a dtype, or a number a type, that is not allowed.
    InvalidValueError
        If shapes do not fit, or an option lies outside of its range.

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
    if ceiling != math.inf:
        check_number("ceiling", ceiling)
    relevance, foreground = align(relevance, foreground)
    channels, spatial = relevance.shape[2], tuple(range(3, relevance.dim()))
    absolute = relevance.abs()
    background = gwrp((absolute * (1 - foreground)).flatten(3), decay)
    inside = (absolute if normalization == "absolute_first" else relevance) * foreground
    mean = inside.sum(dim=(2, *spatial)) / (channels * foreground.sum(dim=(2, *spatial)))
    return _saturating_ratio(background, mean.abs().unsqueeze(-1) + stabilizer, ceiling)


def background_loss(
    relevance: Tensor,
    foreground: Tensor,
    *,
    decay: float = DECAY,
    background_scale: float = BACKGROUND_SCALE,
    normalization: Normalization = "absolute_first",
    stabilizer: float = 0.0,
) -> Tensor:
    r"""Penalty on relevance outside of the object, blind to the scale of the heatmap.

    .. math::
        L_n = \frac{1}{KC} \sum_{kc} -\log(1 - b_{nkc}), \qquad
        b_{nkc} = \frac{\bar B_{nkc}}{\bar B_{nkc} + E} \in [0, 1 - 10^{-7}]

    with :math:`\bar B` from `normalized_background`. It is computed as ``log1p(B / E)``, which is the same and keeps
    its precision for small and for large backgrounds.

    Parameters
    ----------
    relevance, foreground, decay, normalization, stabilizer
        As for `normalized_background`.
    background_scale : float, default=0.01
        The :math:`E` of the papers: the normalised background at which ``b`` is one half, below which the loss hardly
        pushes. The papers have 1 and 10, which is lenient: a background spread over the image stays.

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
    check_number("background_scale", background_scale)
    ceiling = background_scale * (1 / SMALLEST_COMPLEMENT - 1)
    background = normalized_background(
        relevance, foreground, decay, normalization=normalization, stabilizer=stabilizer, ceiling=ceiling
    )
    return torch.log1p(background / background_scale).mean(dim=(1, 2))


def _saturating_ratio(numerator: Tensor, denominator: Tensor, ceiling: float) -> Tensor:
    """Divide; ``0 / 0`` is 0 and large is `ceiling`, both with zero gradient. Subnormal numbers count as zero.

    So do somewhat larger ones where the ceiling is low: the loss that saturates there has as much steeper a slope.
    """
    tiny = torch.finfo(numerator.dtype).tiny * max(1.0, 1 / (ceiling * SMALLEST_COMPLEMENT))
    # Any common factor cancels, so a constant one may bring both near 1, where no gradient can overflow on its way.
    total = (numerator + denominator).detach()
    nothing, zero_denominator = total < tiny, denominator < tiny
    scale = total.masked_fill(nothing, 1.0)
    numerator, denominator = numerator / scale, denominator / scale
    saturated = zero_denominator | (denominator <= numerator / ceiling)
    # The divisor is replaced where the quotient is: zero times the infinite gradient of a division by zero is NaN.
    quotient = numerator / denominator.masked_fill(saturated | nothing, 1.0)
    return quotient.masked_fill(saturated, ceiling).masked_fill(nothing, 0.0)
