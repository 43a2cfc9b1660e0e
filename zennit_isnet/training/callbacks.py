"""Output during training: figures of each epoch, and heatmaps."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from zennit_isnet.model import eval_mode
from zennit_isnet.plotting import heatmap_panel, training_curves
from zennit_isnet.training.classifier import labels_of

CURVES = {
    "loss": {"classification": "classification", "penalty": "penalty"},
    "balanced accuracy, validation": {
        "own backgrounds": "val_balanced_accuracy",
        "of other classes": "val_swapped_balanced_accuracy",
    },
    "relevance on the background": {"validation": "val_background_share"},
}


class Best(ModelCheckpoint):
    """``best.ckpt``: the best epoch on backgrounds from other classes.

    Of equally good epochs the later one is kept, because the penalty has acted longer.

    Parameters
    ----------
    folder : path
        Output folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "best", monitor="val_score", mode="max", enable_version_counter=False)

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Whether the epoch is at least as good as the best one."""
        known = self.best_model_score
        equal = known is not None and current is not None and bool(current == known)
        return equal or bool(super().check_monitor_top_k(trainer, current))


def checkpoints(folder: Path) -> list[Callback]:
    """Return the callbacks that write ``best.ckpt`` and, after each epoch, ``last.ckpt``, to resume from."""
    last = ModelCheckpoint(folder, "last", save_on_train_epoch_end=True, enable_version_counter=False)
    return [Best(folder), last]


class History(Callback):
    """Records the figures of each epoch, also across interruptions, in ``log.csv`` and ``curves.png``.

    Parameters
    ----------
    folder : path
        Output folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add an epoch."""
        found = {name: float(value) for name, value in trainer.callback_metrics.items() if not name.endswith("_step")}
        wanted = {name: value for name, value in found.items() if not name.endswith("_epoch")}
        self.rows = [*self.rows[: trainer.current_epoch], {"epoch": trainer.current_epoch, **wanted}]
        if trainer.is_global_zero:
            write_csv(self.folder / "log.csv", self.rows)
            panels = {
                title: {name: [row.get(key, math.nan) for row in self.rows] for name, key in lines.items()}
                for title, lines in CURVES.items()
            }
            training_curves(panels).savefig(self.folder / "curves.png", dpi=120)

    def state_dict(self) -> dict[str, Any]:
        """Return the recorded epochs."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them."""
        self.rows = state_dict["rows"]


class Heatmaps(Callback):
    """Draws validation images with their masks and heatmaps after each epoch.

    Parameters
    ----------
    folder : path
        Output folder for ``epoch-000.png`` and so on.
    count : int
        Number of images to draw; 0 for none.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the images."""
        if not (self.count and trainer.is_global_zero):
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        classifier: Any = pl_module
        parts: list[tuple[Tensor, ...]] = []
        for images, masks, labels, has_mask, _ in data.calibration_dataloader():
            parts += zip(images[has_mask], masks[has_mask], labels[has_mask], strict=True)
            if len(parts) >= self.count:
                break
        if not parts:
            return
        images, masks, labels = (torch.stack(part) for part in zip(*parts[: self.count], strict=True))
        with eval_mode(classifier.model), torch.no_grad():
            shown = images.to(pl_module.device)
            seeds = labels_of(labels.to(pl_module.device))
            _, relevance = classifier.explainer()(classifier.model, shown, seeds, create_graph=False)
        heatmaps = relevance["input"].detach().sum((1, 2)).float().cpu()
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (data.mean, data.std))
        titles = [names_of(label, data.classes) for label in labels]
        panel = heatmap_panel((images * std + mean).clamp(0, 1), masks, {"relevance": heatmaps}, titles)
        self.folder.mkdir(parents=True, exist_ok=True)
        panel.savefig(self.folder / f"epoch-{trainer.current_epoch:03}.png", dpi=120)


def names_of(label: Tensor, classes: Sequence[str]) -> str:
    """Return the name of a class, or the names of several labels."""
    if not label.is_floating_point():
        return classes[int(label)]
    return ", ".join(classes[index] for index in label.nonzero()[:, 0].tolist()) or "none"


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with all their columns; an interruption keeps the previous file."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(part, path)
