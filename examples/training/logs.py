"""What a run writes down while it trains: a CSV file and TensorBoard."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from torchvision.io import ImageReadMode, read_image

from training.checkpoints import write_atomically


class Logs:
    """The log files of a run, in its folder.

    Parameters
    ----------
    folder : Path
        Gets ``log.csv`` and ``tensorboard/``.
    step : int
        Optimizer steps before now; what TensorBoard has of later ones, from before an interruption, is hidden.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        self.folder = folder
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step)

    def step(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        """Add values of a training step."""
        self._scalars(f"{phase}, step", step, values)

    def epoch(self, history: Sequence[Mapping[str, Any]], step: int, picture: Path | None) -> None:
        """Add the last epoch of the history, and a PNG file of heatmaps."""
        row = history[-1]
        values = {name: value for name, value in row.items() if isinstance(value, float)}
        self._scalars(f"{row['phase']}, epoch", step, values)
        if picture is not None:
            self.writer.add_image(f"{row['phase']}, heatmaps", read_image(str(picture), ImageReadMode.RGB), step)
        self.writer.flush()
        write_atomically(self.folder / "log.csv", as_csv(history).encode())

    def close(self) -> None:
        """Write what is pending."""
        self.writer.close()

    def _scalars(self, tag: str, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            if math.isfinite(value):
                self.writer.add_scalar(f"{tag}/{name}", value, step)


def as_csv(history: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV; NaN, for what is undefined, becomes an empty cell."""
    columns = list(dict.fromkeys(name for row in history for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in history:
        writer.writerow({name: "" if value != value else value for name, value in row.items()})
    return text.getvalue()


def read_csv(path: Path) -> list[dict[str, Any]]:
    """Return what `as_csv` wrote; numbers as numbers, empty cells as NaN."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{name: _value(text) for name, text in row.items()} for row in csv.DictReader(file)]


def _value(text: str) -> Any:
    if not text:
        return math.nan
    try:
        return float(text)
    except ValueError:
        return text
