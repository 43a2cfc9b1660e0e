"""The heatmap loss as pure functions, one formula each.

Index letters: N images, K heatmaps per image, C channels, then the spatial axes, ``(H, W)`` or ``(T, H, W)``.
All functions compute in float32 at least, whatever the autocast state or the dtype of the relevance, are
differentiable in the relevance, and never wait for an accelerator. A NaN in the relevance gives a NaN loss.

References
----------
.. [1] Bassi, P. R. A. S., Dertkigil, S. S. J., Cavalli, A. "Improving deep neural network generalization and
   robustness to background bias via layer-wise relevance propagation optimization". Nat. Commun. 15, 291 (2024).
.. [2] Bassi, P. R. A. S., Decherchi, S., Cavalli, A. "Faster ISNet for background bias mitigation on deep neural
   networks". IEEE Access 12, 155151 (2024). arXiv:2401.08409.
"""

from zennit_isnet.functional.background import background_loss, normalized_background
from zennit_isnet.functional.foreground import foreground_loss
from zennit_isnet.functional.heatmap import heatmap_loss, total_relevance
from zennit_isnet.functional.masks import resize_foreground, validate_foreground
from zennit_isnet.functional.pooling import gwrp

__all__ = [
    "background_loss",
    "foreground_loss",
    "gwrp",
    "heatmap_loss",
    "normalized_background",
    "resize_foreground",
    "total_relevance",
    "validate_foreground",
]
