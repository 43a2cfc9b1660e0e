"""What the two processes run, one after the other; tests compare it with one process that has all images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ddp_steps
import synchronized_steps
import torch
from synchronized_nets import CASES

SCENARIOS: dict[str, Callable[[int, int], Any]] = {
    **{case: synchronized_steps.step(case, torch.float64) for case in CASES},
    "float32": synchronized_steps.step("LRPFlex", torch.float32),
    "unequal shards": synchronized_steps.statistics_of_unequal_shards,
    "eval mode": synchronized_steps.eval_mode,
    "refusals": synchronized_steps.refusals,
    **{step.__name__: ddp_steps.in_ddp(step) for step in ddp_steps.STEPS},
    "unused layer": ddp_steps.unused_layer,
    "balanced": ddp_steps.balanced,
    "balanced, bare model": ddp_steps.balanced_unwrapped,
    "shared optimizer": ddp_steps.shared_optimizer,
    "refused models": ddp_steps.refusals,
    "heatmap in one process": ddp_steps.heatmap_in_one_process,
    "calibration": ddp_steps.calibrated,
}


def run(rank: int, world: int) -> dict[str, Any]:
    """Run all of them."""
    return {name: scenario(rank, world) for name, scenario in SCENARIOS.items()}
