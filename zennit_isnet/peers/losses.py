"""Losses of other explanation-guided training methods, one formula each.

Index letters: N images, K heatmaps per image, C channels, then the spatial axes. ``R`` is the attribution and ``M``
the foreground mask, at the resolution of ``R``. All compute in float32 at least and are differentiable in the
attribution.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from zennit_isnet.functional.heatmap_inputs import align, as_heatmaps


def rrr_loss(attribution: Tensor, foreground: Tensor) -> Tensor:
    r"""Squared attribution on the background: "right for the right reasons".

    .. math::
        L_n = \frac1K \sum_{kchw} \bigl((1 - M_{nhw}) R_{nkchw}\bigr)^2

    Grows with the square of the attribution's scale, so its weight in the training loss depends on the model.

    Parameters
    ----------
    attribution : Tensor, shape (N, K, C, *spatial)
        In the paper the gradient of the summed log-probabilities with respect to the image: `InputGradient` with
        `LogProbabilities`.
    foreground : Tensor, shape (N, 1, *spatial) or (N, *spatial)
        1 on the object, 0 elsewhere; of any spatial size. The paper's mask ``A`` is its complement.

    Returns
    -------
    Tensor, shape (N,)
        At least 0; 0 for a mask without background.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If an argument has a wrong type or shape.

    References
    ----------
    Ross, Hughes, Doshi-Velez, "Right for the Right Reasons: Training Differentiable Models by Constraining their
    Explanations", IJCAI 2017, arXiv:1703.03717, the second term of the loss in section 2.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.peers import rrr_loss
    >>> foreground = torch.tensor([[[1, 0], [1, 0]]])
    >>> rrr_loss(torch.full((1, 1, 3, 2, 2), 0.5), foreground)
    tensor([1.5000])
    """
    attribution, foreground = align(attribution, foreground)
    return ((1 - foreground) * attribution).square().flatten(2).sum(dim=2).mean(dim=1)


def gradmask_loss(attribution: Tensor, foreground: Tensor) -> Tensor:
    r"""Euclidean norm of the attribution on the background.

    .. math::
        L_n = \frac1K \sum_k \sqrt{\sum_{chw} \bigl((1 - M_{nhw}) R_{nkchw}\bigr)^2}

    Grows with the attribution's scale. Where there is nothing on the background its gradient is taken as 0. The
    authors' code has the sum of squares in its place too, which is `rrr_loss`, and the sum of absolute values.

    Parameters
    ----------
    attribution : Tensor, shape (N, K, C, *spatial)
        In the paper the gradient of a contrast of logits with respect to the image: `InputGradient` with `Contrast`.
    foreground : Tensor, shape (N, 1, *spatial) or (N, *spatial)
        1 on the object, 0 elsewhere; of any spatial size.

    Returns
    -------
    Tensor, shape (N,)
        At least 0; 0 for a mask without background.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If an argument has a wrong type or shape.

    References
    ----------
    Simpson, Dutil, Bengio, Cohen, "GradMask: Reduce Overfitting by Regularizing Saliency", MIDL 2019,
    arXiv:1904.07478.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.peers import gradmask_loss
    >>> foreground = torch.tensor([[[1, 0], [1, 0]]])
    >>> gradmask_loss(torch.full((1, 1, 2, 2, 2), 3.0), foreground)
    tensor([6.])
    """
    attribution, foreground = align(attribution, foreground)
    background = ((1 - foreground) * attribution).flatten(2)
    norm: Tensor = torch.linalg.vector_norm(background, dim=2)
    return norm.mean(dim=1)


def energy_loss(attribution: Tensor, foreground: Tensor) -> Tensor:
    r"""Minus the share of the positive attribution that lies on the foreground.

    .. math::
        L_n = -\frac1K \sum_k \frac{\sum_{hw} M_{nhw} A^+_{nkhw}}{\sum_{hw} A^+_{nkhw}}, \qquad
        A^+_{nkhw} = \max\Bigl(0, \sum_c R_{nkchw}\Bigr)

    Blind to the attribution's scale. It is the negative of the energy-based pointing game.

    Maps that are smaller than the masks, those of inner layers, are enlarged to them, linearly. On a coarse map the
    mask of an object could be foreground everywhere, which would leave nothing to learn.

    Parameters
    ----------
    attribution : Tensor, shape (N, K, C, *spatial)
        In the paper that of the label's logit: `GradientTimesInput`, or `GradCAM` at a layer.
    foreground : Tensor, shape (N, 1, *spatial) or (N, *spatial)
        1 on the object, or in its bounding box, 0 elsewhere; of any spatial size.

    Returns
    -------
    Tensor, shape (N,)
        From −1, all on the foreground, to 0. A heatmap without positive attribution has none on the foreground, so
        it counts as 0, with zero gradient.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If an argument has a wrong type or shape.

    References
    ----------
    Rao, Böhle, Parchami-Araghi, Schiele, "Studying How to Efficiently and Effectively Guide Models with
    Explanations", ICCV 2023, arXiv:2303.11932, the energy loss; the measure is that of Wang et al., "Score-CAM",
    CVPR Workshops 2020, arXiv:1910.01279.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.peers import energy_loss
    >>> foreground = torch.tensor([[[1, 0], [1, 0]]])
    >>> energy_loss(torch.tensor([[3.0, 1.0], [-5.0, 0.0]]).reshape(1, 1, 1, 2, 2), foreground)
    tensor([-0.7500])
    """
    evidence = _enlarged(as_heatmaps(attribution).sum(dim=2), foreground).unsqueeze(2)
    evidence, foreground = align(evidence, foreground)
    positive = evidence.clamp(min=0)
    inside, total = (foreground * positive).flatten(2).sum(dim=2), positive.flatten(2).sum(dim=2)
    return -(inside / total.masked_fill(total == 0, 1)).mean(dim=1)


def _enlarged(maps: Tensor, foreground: Tensor) -> Tensor:
    """Maps (N, K, *spatial) at the resolution of masks that are larger; any other maps as they are."""
    spatial = maps.dim() - 2
    size = tuple(foreground.shape[-spatial:]) if isinstance(foreground, Tensor) else ()
    if len(size) != spatial or any(new < old for new, old in zip(size, maps.shape[2:], strict=True)):
        return maps
    return F.interpolate(maps, size, mode="bilinear" if spatial == 2 else "trilinear")
