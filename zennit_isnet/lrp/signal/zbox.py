"""The z^B rule of a convolution that reads images with known bounds."""

from __future__ import annotations

import torch
from torch import Tensor

from zennit_isnet.lrp.signal.convolution import Geometry, TransposedSignal
from zennit_isnet.lrp.signal.substitute import stabilize

aten = torch.ops.aten


def zbox_relevance(
    relevance: Tensor,
    images: Tensor,
    preactivation: Tensor,
    weight: Tensor,
    geometry: Geometry,
    low: Tensor,
    high: Tensor,
    epsilon: float,
) -> Tensor:
    r"""z^B rule of a convolution: ``R_i = Σ_k (x_i w_ik − l_i w⁺_ik − h_i w⁻_ik) R_k / stab(z_k)``.

    Parameters
    ----------
    relevance : Tensor
        ``R_k``, shape ``(N, K, …)``.
    images : Tensor
        ``x``, shape ``(N, C, …)``, inside of the box.
    preactivation : Tensor
        ``Σ_i x_i w_ik`` without bias, shape ``(N, K, …)``; the forward pass has it already.
    weight : Tensor
        ``w``, BatchNorm folded in.
    geometry : Geometry
        Stride, padding and the like.
    low, high : Tensor
        Bounds ``l`` and ``h``, broadcastable to ``(1, C, …)``.
    epsilon : float
        Stabilizer of the denominator.

    Returns
    -------
    Tensor
        ``R_i``, shape of `images`. With ``s = R/stab(z)`` it is ``(x−l) ⊙ W⁺ᵀs + (x−h) ⊙ W⁻ᵀs``, because
        ``w = w⁺ + w⁻``.

    References
    ----------
    Montavon et al., "Explaining nonlinear classification decisions with deep Taylor decomposition", Pattern
    Recognition 65 (2017), eq. 18.
    """
    positive, negative = weight.clamp(min=0), weight.clamp(max=0)
    one_image = images[:1].shape
    lower = aten.convolution(low.expand(one_image), positive, None, *geometry)
    upper = aten.convolution(high.expand(one_image), negative, None, *geometry)
    share = relevance / stabilize(preactivation - lower - upper, epsilon)
    through_positive: Tensor = TransposedSignal.apply(share, positive, images, geometry)
    through_negative: Tensor = TransposedSignal.apply(share, negative, images, geometry)
    return (images - low) * through_positive + (images - high) * through_negative
