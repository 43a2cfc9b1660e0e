"""The heatmap loss: its foreground part, the range that this has, and the sum of both parts."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from zennit_isnet.checks import check_choice, check_number
from zennit_isnet.errors import InvalidValueError
from zennit_isnet.functional.background import BACKGROUND_SCALE, DECAY, Normalization, background_loss
from zennit_isnet.functional.masks import align, as_heatmaps

ForegroundVariant = Literal["hybrid", "squared"]
"""How the foreground loss grows above its range: linearly in the end, or always with the square."""


def foreground_loss(
    relevance: Tensor,
    foreground: Tensor,
    c1: float | Tensor,
    c2: float | Tensor,
    *,
    variant: ForegroundVariant = "hybrid",
) -> Tensor:
    r"""Penalty on a total foreground relevance outside of its natural range, against vanishing and exploding heatmaps.

    .. math::
        L_n = \frac1K \sum_k
        \Bigl(\min\bigl(\tfrac{F_{nk}}{C_1}, 1\bigr) - 1\Bigr)^2
        + \Bigl(\max\bigl(\tfrac{F_{nk}}{C_1}, \tfrac{C_2}{C_1}\bigr) - \tfrac{C_2}{C_1}\Bigr)^2,
        \qquad F_{nk} = \sum_{chw} |R_{nkchw}| M_{nhw}

    The hybrid variant replaces the second square by :math:`1 + |F - (C_1 + C_2)|` once :math:`F > C_1 + C_2`, so that
    one exploding heatmap cannot take over the batch.

    Parameters
    ----------
    relevance, foreground
        As for `normalized_background`.
    c1, c2 : float or Tensor of shape ()
        Range of the total relevance in which there is no penalty, ``0 < c1 < c2``; the regularizer's `calibrate`
        measures it. The values of tensors are not checked.
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
    total = (relevance.abs() * foreground).flatten(2).sum(dim=2)
    too_little = ((total / c1).clamp(max=1) - 1).square()
    excess = (total - c2) / c1
    if variant == "squared":
        too_much = excess.clamp(min=0).square()
    else:
        # Beyond C1 + C2 the square stays at its value there, 1, and the line goes on from it.
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


def check_relevance_range(c1: float | Tensor, c2: float | Tensor) -> None:
    """Raise unless ``0 < c1 < c2``, as far as that can be seen without a device synchronisation.

    Values of tensors are not read: whoever makes the tensors answers for them.

    Parameters
    ----------
    c1, c2 : float or Tensor
        Ends of the natural range of the total relevance; tensors must have no dimension.

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
    """Penalty on background relevance, and on foreground relevance outside of its natural range.

    The weighted sum of `zennit_isnet.functional.background_loss` and `zennit_isnet.functional.foreground_loss`, one
    value per image, with its options.

    The range ``(c1, c2)`` belongs to the layer that the heatmaps come from and is an argument of the call.

    A low value says where relevance lies, not that the model ignores the background; only a test that changes the
    background can say that.

    Parameters
    ----------
    background_weight, foreground_weight : float, default=1.0
        Weights of the two losses, at least 0.
    decay : float, default=0.99
        Decay of the rank weights in the pooling of the background, in (0, 1]. Near 0 the loss sees the hottest
        background cells only, at 1 their mean; 0.99 counts about a hundred. The papers have 0, 0.9 and 0.996.
    background_scale : float, default=0.01
        The normalised background at which ``b`` is one half in ``-log(1 - b)``: the level, in units of the mean
        foreground relevance, below which the loss hardly pushes. The papers have 1 and 10, which leaves a shortcut
        that is spread over the background.
    foreground_variant : {"hybrid", "squared"}, default="hybrid"
        Growth above the range: linear in the end, so that one exploding heatmap cannot take over, or always squared.
    normalization : {"absolute_first", "normalize_first"}, default="absolute_first"
        Whether heatmaps are divided by the foreground's mean of absolute or of signed relevance. The latter can
        cancel.
    stabilizer : float, default=0.0
        Added to that mean; zero keeps the background loss blind to the scale of the heatmaps.

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

    def __call__(self, relevance: Tensor, foreground: Tensor, c1: float | Tensor, c2: float | Tensor) -> Tensor:
        """Loss of each image.

        Parameters
        ----------
        relevance : Tensor, shape (N, K, C, *spatial)
            Heatmaps, signed.
        foreground : Tensor, shape (N, 1, *spatial) or (N, *spatial)
            1 on the object, 0 elsewhere; of any spatial size.
        c1, c2 : float or Tensor of shape ()
            Range of the total foreground relevance in which there is no foreground penalty.

        Returns
        -------
        Tensor, shape (N,)

        Raises
        ------
        InvalidTypeError, InvalidValueError
            If an argument is not allowed.
        """
        relevance, foreground = align(relevance, foreground)
        foreground = foreground.squeeze(1)
        outside = background_loss(
            relevance,
            foreground,
            decay=self.decay,
            background_scale=self.background_scale,
            normalization=self.normalization,
            stabilizer=self.stabilizer,
        )
        inside = foreground_loss(relevance, foreground, c1, c2, variant=self.foreground_variant)
        return self.background_weight * outside + self.foreground_weight * inside


def heatmap_loss(
    relevance: Tensor, foreground: Tensor, c1: float | Tensor, c2: float | Tensor, **options: Any
) -> Tensor:
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
