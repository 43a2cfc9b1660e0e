"""Pictures of a run: heatmaps and curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from training.evaluation import LabelLogits
from training.sets import Sets
from zennit_isnet import LRPAttribution
from zennit_isnet.model import eval_mode
from zennit_isnet.plotting import heatmap_panel, training_curves

LOOKED_AT = 4
"""Images looked at for each that is drawn: some may have no mask."""


def heatmap_picture(
    model: nn.Module, attribution: LRPAttribution, sets: Sets, count: int, device: torch.device
) -> Figure | None:
    """Draw the relevance of the labels of validation images that have masks; None if there are none."""
    images, masks, labels = _examples(sets.validation, count)
    if not images:
        return None
    batch, targets = torch.stack(images).to(device), torch.stack(labels)
    with eval_mode(model), torch.no_grad():
        explained = LabelLogits(targets, len(sets.classes))
        _, relevance = attribution(model, batch, explained, create_graph=False)
    heatmaps = relevance["input"].detach().sum((1, 2)).float().cpu()
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (sets.mean, sets.std))
    pictures = (torch.stack(images) * std + mean).clamp(0, 1)
    titles = [label_name(label, sets.classes) for label in targets]
    return heatmap_panel(pictures, torch.stack(masks), {"relevance": heatmaps}, titles)


def save_picture(picture: Figure, path: Path) -> None:
    """Write a picture as PNG, and make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, dpi=120)


def label_name(label: Tensor, classes: Sequence[str]) -> str:
    """Return the name of a class, or the names of several labels."""
    if not label.is_floating_point():
        return classes[int(label)]
    return ", ".join(classes[int(index)] for index in label.nonzero()[:, 0]) or "none"


def curves(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw losses, accuracies and background shares over the epochs of the phase with the penalty."""
    rows = [row for row in history if row["phase"] == "isnet"]
    panels = {
        "classification loss": ("classification", "val_loss"),
        "penalty": ("penalty",),
        "validation accuracy": ("val_accuracy", "val_swapped_accuracy"),
        "background share": ("background_share", "val_background_share"),
    }
    names = {"val_accuracy": "own backgrounds", "val_swapped_accuracy": "swapped backgrounds"}
    names |= dict.fromkeys(("classification", "penalty", "background_share"), "training")
    names |= dict.fromkeys(("val_loss", "val_background_share"), "validation")
    return training_curves(
        {
            label: {names[key]: [row.get(key, torch.nan) for row in rows] for key in keys}
            for label, keys in panels.items()
        }
    )


def _examples(data: Any, count: int) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return images, masks and labels: the first that have a mask, in an order that mixes the classes."""
    images, masks, labels = [], [], []
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    for index in order[: LOOKED_AT * count].tolist():
        image, mask, label, *has_mask = data[index]
        if len(images) < count and all(has_mask):
            images.append(image.as_subclass(Tensor))
            masks.append(mask.as_subclass(Tensor))
            labels.append(torch.as_tensor(label))
    return images, masks, labels
