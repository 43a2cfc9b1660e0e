"""The softmax score of the highest class."""

from __future__ import annotations

from torch import Tensor

from zennit_isnet.formulations.base import Formulation, one_hot


class SoftmaxGradient(Formulation):
    """Gradient of the softmax score ``p_c`` of the highest class; one heatmap per image. An ablation.

    It vanishes where the classifier is certain.

    References
    ----------
    Bassi, Dertkigil, Cavalli, Nat. Commun. 15 (2024) 291, ISNet Grad*Input.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.formulations import SoftmaxGradient
    >>> SoftmaxGradient()(torch.zeros(1, 2))
    tensor([[[ 0.2500, -0.2500]]])
    """

    def seeds(self, logits: Tensor) -> Tensor:
        """Return ``p_c (1_c − p)`` of shape (N, 1, C)."""
        probabilities = logits.softmax(1)
        highest = logits.argmax(1, keepdim=True)
        score = probabilities.gather(1, highest)
        return (score * (one_hot(highest, logits) - probabilities)).unsqueeze(1)
