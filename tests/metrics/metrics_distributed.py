"""What the processes of the distributed test run; a module of its own, so that spawned processes can import it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from metric_data import METRICS, data
from torch import Tensor
from torchmetrics import MetricCollection

from zennit_isnet.metrics import BiasGap, SwapGap, WorstGroupAccuracy

IMAGES = 7
"""Odd: the processes get different numbers of images."""


def heatmaps_with_a_gap() -> tuple[Tensor, Tensor]:
    """The same heatmaps and masks in every process; one image without foreground."""
    heatmaps, foreground = data(torch.Generator().manual_seed(0), images=IMAGES)
    foreground[-1] = 0
    return heatmaps, foreground


def classes() -> tuple[Tensor, Tensor, Tensor]:
    """Predictions, labels and groups of the images; each of two processes gets one group."""
    return torch.arange(IMAGES) % 3, torch.arange(IMAGES) % 2, torch.arange(IMAGES) % 2


def logits() -> Tensor:
    """Logits of the images before and after a swap, (2, N, 2)."""
    return torch.randn(2, IMAGES, 2, generator=torch.Generator().manual_seed(1))


def values(shard: slice) -> dict[str, Tensor]:
    """Values of all metrics, and the number of skipped heatmaps, from the images of one shard."""
    collection = MetricCollection({name: make(undefined="skip") for name, make in METRICS.items()})
    heatmaps, foreground = heatmaps_with_a_gap()
    collection.update(heatmaps[shard], foreground[shard])
    predictions, labels, groups = (tensor[shard] for tensor in classes())
    worst, gap = WorstGroupAccuracy(2, undefined="skip"), BiasGap(undefined="skip")
    worst.update(predictions, labels, groups)
    gap.update(predictions, labels, groups == 1)
    swap = SwapGap(2, undefined="skip")
    swap.update(*logits()[:, shard], labels)
    found = {**collection.compute(), "worst": worst.compute(), "gap": gap.compute(), **swap.compute()}
    share = collection["background_share"]
    with share.sync_context(should_sync=dist.is_initialized()):
        found["skipped"] = share.skipped.clone()
    return found


def distributed_values(rank: int, world: int, folder: str) -> None:
    """Join a group of `world` processes and save what this one computes with its share of the images."""
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder) / "store"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    try:
        torch.save(values(slice(rank, None, world)), Path(folder) / f"values{rank}.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()
