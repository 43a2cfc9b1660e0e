"""What a classifier does on images it was not trained on, with their own and with swapped backgrounds."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multilabel_accuracy,
    multilabel_average_precision,
)

from training.optimization import classification_loss
from training.processes import Processes
from zennit_isnet import LRPAttribution
from zennit_isnet.functional import background_share
from zennit_isnet.model import eval_mode
from zennit_isnet.swap import BackgroundSwap

SWAP_SEED = 0
"""Each evaluation swaps the same backgrounds, so that epochs can be compared."""


@dataclass(frozen=True)
class Outcome:
    """Results for n images, on the CPU.

    Parameters
    ----------
    logits, swapped_logits : Tensor
        ``(n, C)``, for the images and for the same objects on other backgrounds.
    labels : Tensor
        Integers ``(n,)``, or 0 and 1 ``(n, C)``.
    swapped : Tensor
        Whether the image got another background (it has a mask, and so has another image of its batch), ``(n,)``.
    share : Tensor
        Share of the labels' |relevance| on the background, NaN where that is undefined, ``(n,)``.
    """

    logits: Tensor
    swapped_logits: Tensor
    labels: Tensor
    swapped: Tensor
    share: Tensor

    @property
    def multi_label(self) -> bool:
        """Whether an image can have several labels."""
        return self.labels.is_floating_point()

    def figures(self) -> dict[str, float]:
        """Return the means over all images; NaN for what is undefined.

        ``score`` decides which epoch is the best: accuracy, or mean average precision with several labels, on swapped
        backgrounds where there are any. A clean heatmap alone would be no evidence.
        """
        swapped = self.swapped
        figures = {
            "loss": classification_loss(self.logits, self.labels).item(),
            **_quality(self.logits, self.labels, ""),
            **_quality(self.swapped_logits[swapped], self.labels[swapped], "swapped_"),
            "background_share": self.share.nanmean().item(),
        }
        best = "average_precision" if self.multi_label else "accuracy"
        candidates = figures[f"swapped_{best}"], figures[best], figures["accuracy"]
        return {**figures, "score": next(score for score in candidates if not math.isnan(score))}

    def by_class(self) -> list[dict[str, float]]:
        """Return the figures of each class over its images."""
        rows = []
        for index in range(self.logits.shape[1]):
            members = self.labels[:, index] > 0 if self.multi_label else self.labels == index
            right, right_swapped = (self._found(logits, index) for logits in (self.logits, self.swapped_logits))
            rows.append(
                {
                    "images": int(members.sum()),
                    "accuracy": right[members].float().mean().item(),
                    "swapped_accuracy": right_swapped[members & self.swapped].float().mean().item(),
                    "background_share": self.share[members].nanmean().item(),
                }
            )
        return rows

    def _found(self, logits: Tensor, index: int) -> Tensor:
        return logits[:, index] > 0 if self.multi_label else logits.argmax(1) == index


def _quality(logits: Tensor, labels: Tensor, prefix: str) -> dict[str, float]:
    classes = logits.shape[1]
    if not labels.is_floating_point():
        accuracy = multiclass_accuracy(logits, labels, classes, average="micro") if len(labels) else torch.nan
        return {f"{prefix}accuracy": float(accuracy)}
    accuracy, precision = torch.nan, torch.nan
    if len(labels):
        accuracy = multilabel_accuracy(logits.sigmoid(), labels.long(), classes, average="micro")
        precision = multilabel_average_precision(logits.sigmoid(), labels.long(), classes, average=None).nanmean()
    return {f"{prefix}accuracy": float(accuracy), f"{prefix}average_precision": float(precision)}


class LabelLogits:
    """The formulation that explains the sum of the labels' logits, which is one logit where an image has one label."""

    def __init__(self, labels: Tensor, classes: int) -> None:
        self.weights = labels if labels.is_floating_point() else F.one_hot(labels, classes)

    def __call__(self, logits: Tensor) -> Tensor:
        """Return the seeds ``(N, 1, C)``."""
        return self.weights.to(logits).unsqueeze(1)


def evaluate(
    model: nn.Module, batches: Iterable[Any], classes: int, attribution: LRPAttribution, processes: Processes
) -> Outcome:
    """Return the outcome over the batches of all processes. The model runs in eval mode and gets its modes back.

    Parameters
    ----------
    model : Module
        Not in `DistributedDataParallel`.
    batches : iterable
        Images, masks, labels and ``has_mask`` of this process.
    classes : int
        Number of classes.
    attribution : LRPAttribution
        How the labels are explained.
    processes : Processes
        Those that share the images; each gets the outcome of all.
    """
    swap = BackgroundSwap(probability=1.0, generator=torch.Generator().manual_seed(SWAP_SEED))
    parts: list[tuple[Tensor, ...]] = []
    with eval_mode(model), torch.no_grad():
        for images, masks, labels, has_mask in batches:
            images, masks, has_mask = (
                part.to(processes.device, non_blocking=True) for part in (images, masks, has_mask)
            )
            output, relevance = attribution(model, images, LabelLogits(labels, classes), create_graph=False)
            share = background_share(relevance["input"].detach()[:, 0], masks, undefined="skip")
            swapped_images, donors = swap.with_donors(images, masks, has_mask)
            swapped = donors != torch.arange(len(images), device=donors.device)
            found = _main(output), _main(model(swapped_images)), labels, swapped, share.where(has_mask, torch.nan)
            parts.append(tuple(part.detach().cpu() for part in found))
    collected = [torch.cat(column) for column in zip(*parts, strict=True)] if parts else None
    shards = [shard for shard in processes.gather(collected) if shard is not None]
    return Outcome(*(torch.cat(column) for column in zip(*shards, strict=True)))


def _main(output: Any) -> Tensor:
    """Logits in float32, without auxiliary heads, which inception has in training mode only."""
    logits: Tensor = output[0] if isinstance(output, tuple) else output
    return logits.float()
