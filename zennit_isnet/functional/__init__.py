"""The heatmap loss and heatmap measures as pure functions, one formula each.

The loss is that of the ISNet papers [1]_ [2]_.

Index letters: N images, K heatmaps per image, C channels, then the spatial axes, ``(H, W)`` or ``(T, H, W)``. All
functions compute at least in float32, regardless of autocast and the dtype of the relevance. The loss functions are
differentiable with respect to the relevance and never synchronise an accelerator; a NaN in the relevance gives a NaN
loss. The measures (shares, ranks and group accuracies) read values, so a NaN is an error.

References
----------
.. [1] Bassi, P. R. A. S., Dertkigil, S. S. J., Cavalli, A. "Improving deep neural network generalization and robustness
   to background bias via layer-wise relevance propagation optimization". Nat. Commun. 15, 291 (2024).
.. [2] Bassi, P. R. A. S., Decherchi, S., Cavalli, A. "Faster ISNet for background bias mitigation on deep neural
   networks". IEEE Access 12, 155151 (2024). arXiv:2401.08409.
"""

from zennit_isnet.functional.groups import bias_gap, group_counts, worst_group_accuracy
from zennit_isnet.functional.heatmap import (
    background_loss,
    foreground_loss,
    gwrp,
    heatmap_loss,
    normalized_background,
    resize_foreground,
    total_relevance,
    validate_foreground,
)
from zennit_isnet.functional.measures import (
    background_share,
    energy_pointing_game,
    pointing_game,
    pool_channels,
    relevance_mass_accuracy,
    relevance_rank_accuracy,
    top_k_intersection,
)

__all__ = [
    "background_loss",
    "background_share",
    "bias_gap",
    "energy_pointing_game",
    "foreground_loss",
    "group_counts",
    "gwrp",
    "heatmap_loss",
    "normalized_background",
    "pointing_game",
    "pool_channels",
    "relevance_mass_accuracy",
    "relevance_rank_accuracy",
    "resize_foreground",
    "top_k_intersection",
    "total_relevance",
    "validate_foreground",
    "worst_group_accuracy",
]
