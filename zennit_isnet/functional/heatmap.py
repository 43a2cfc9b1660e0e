"""The heatmap loss, and the quantity that its range is measured on."""

from torch import Tensor

from zennit_isnet.functional.background import background_loss
from zennit_isnet.functional.foreground import foreground_loss
from zennit_isnet.functional.heatmap_inputs import align, as_heatmaps
from zennit_isnet.functional.options import ForegroundVariant, Normalization, check_loss_options, check_relevance_range


def heatmap_loss(
    relevance: Tensor,
    foreground: Tensor,
    c1: float | Tensor,
    c2: float | Tensor,
    *,
    background_weight: float = 1.0,
    foreground_weight: float = 1.0,
    decay: float = 0.99,
    background_scale: float = 0.01,
    foreground_variant: ForegroundVariant = "hybrid",
    normalization: Normalization = "absolute_first",
    stabilizer: float = 0.0,
) -> Tensor:
    """Weighted sum of `background_loss` and `foreground_loss`, one value per image.

    A low value says where relevance lies, not that the model ignores the background; only a test that changes the
    background can say that.

    Parameters
    ----------
    relevance, foreground, decay, normalization, stabilizer
        As for `normalized_background`.
    c1, c2 : float or Tensor of shape ()
        As for `foreground_loss`.
    background_weight, foreground_weight : float, default=1.0
        Weights of the two losses, at least 0.
    background_scale : float, default=0.01
        As for `background_loss`.
    foreground_variant : {"hybrid", "squared"}, default="hybrid"
        The `variant` of `foreground_loss`.

    Returns
    -------
    Tensor, shape (N,)

    Raises
    ------
    InvalidTypeError, InvalidValueError
        As for `background_loss` and `foreground_loss`, and if a weight is negative.

    References
    ----------
    .. [1] Bassi, P. R. A. S., Dertkigil, S. S. J., Cavalli, A. "Improving deep neural network generalization and
       robustness to background bias via layer-wise relevance propagation optimization". Nat. Commun. 15, 291 (2024).

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
    check_loss_options(
        background_weight=background_weight,
        foreground_weight=foreground_weight,
        decay=decay,
        background_scale=background_scale,
        foreground_variant=foreground_variant,
        normalization=normalization,
        stabilizer=stabilizer,
    )
    check_relevance_range(c1, c2)
    relevance, foreground = align(relevance, foreground)
    foreground = foreground.squeeze(1)
    outside = background_loss(
        relevance,
        foreground,
        decay=decay,
        background_scale=background_scale,
        normalization=normalization,
        stabilizer=stabilizer,
    )
    inside = foreground_loss(relevance, foreground, c1, c2, variant=foreground_variant)
    return background_weight * outside + foreground_weight * inside


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
