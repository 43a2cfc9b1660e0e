"""What all metrics have in common."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zennit_isnet.arguments import check_choice
from zennit_isnet.functional.measured import Undefined
from zennit_isnet.optional import import_optional

import_optional("torchmetrics", package="torchmetrics", extra="metrics")

from torchmetrics import Metric  # noqa: E402


class SeparateMetric(Metric):
    """A metric that `MetricCollection` never takes for another one.

    The collection shares states among metrics whose states are equal after the first batch. Here equal numbers say
    nothing: two pointing games can agree on one batch. A constant state made of the settings tells metrics apart.

    Parameters
    ----------
    *settings : object
        What the value depends on; their ``repr`` counts.
    undefined : {"error", "skip"}
        What happens to undefined values.
    **kwargs
        Options of `torchmetrics.Metric`.
    """

    is_differentiable = False
    full_state_update = False

    settings: Tensor

    def __init__(self, *settings: object, undefined: Undefined, **kwargs: Any) -> None:
        check_choice("undefined", undefined, Undefined)
        super().__init__(**kwargs)
        self.undefined: Undefined = undefined
        fingerprint = repr((type(self).__name__, *settings, undefined)).encode()
        self.add_state("settings", torch.tensor(list(fingerprint)), dist_reduce_fx="max")
