"""Foreground part of the heatmap loss."""

from torch import Tensor

from zennit_isnet.checks import check_choice
from zennit_isnet.functional.heatmap_inputs import align
from zennit_isnet.functional.options import ForegroundVariant, check_relevance_range


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
