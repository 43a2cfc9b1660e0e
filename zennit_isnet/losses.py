"""The losses of several layers as one."""

from collections.abc import Mapping

import torch
from torch import Tensor

from zennit_isnet.functional import gwrp


def combined_loss(losses: Mapping[str, Tensor], decay: float) -> Tensor:
    """Mean over composites of the ranked mean of the layers' losses.

    Parameters
    ----------
    losses : mapping of str to Tensor
        Scalars by ``"layer"`` or ``"layer/composite"``.
    decay : float
        Decay of the ranked mean (`gwrp`), in (0, 1].

    Returns
    -------
    Tensor
        A scalar.
    """
    groups: dict[str, list[Tensor]] = {}
    for name, loss in losses.items():
        groups.setdefault(name.partition("/")[2], []).append(loss)
    return torch.stack([gwrp(torch.stack(group), decay) for group in groups.values()]).mean()
