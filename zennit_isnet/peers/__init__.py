"""Other methods of explanation-guided training, under the regularizer's interface, to compare with.

Each constructor returns an `ISNetRegularizer` with the attribution, the explained quantity and the loss of one paper.
Their losses have no natural range, so there is nothing to calibrate.
"""

from zennit_isnet.peers.regularizers import (
    RangeFreeLoss,
    energy,
    energy_loss,
    gradcam_guided,
    gradmask,
    gradmask_loss,
    rrr,
    rrr_loss,
)

__all__ = [
    "RangeFreeLoss",
    "energy",
    "energy_loss",
    "gradcam_guided",
    "gradmask",
    "gradmask_loss",
    "rrr",
    "rrr_loss",
]
