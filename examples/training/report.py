"""The report of a run, as Markdown and as one HTML file."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from training.checkpoints import write_atomically
from training.evaluation import Outcome
from training.pictures import save_picture

COLUMNS = {
    "accuracy": "accuracy",
    "swapped_accuracy": "accuracy, swapped backgrounds",
    "average_precision": "average precision",
    "swapped_average_precision": "average precision, swapped backgrounds",
    "background_share": "relevance on the background",
}
"""Figures of a data set in the report, with their headings."""

ABOVE_CHANCE = 1.5
"""Times the accuracy by chance from which the report compares backgrounds."""

SHOWN_SETTINGS = (
    "model", "weights", "data", "size", "formulation", "layers", "box", "epsilon", "epsilon_ratio", "reference",
    "decay", "background_scale", "weight", "swap_probability", "label_smoothing",
    "plain_epochs", "calibrate_on", "epochs", "batch_size", "accumulate", "process_count", "optimizer", "lr",
    "weight_decay", "schedule", "warmup_epochs", "clip", "amp", "every", "every_start", "seed",
)  # fmt: skip


@dataclass
class Picture:
    """A picture with the text for those who cannot see it."""

    name: str
    figure: Figure
    caption: str
    alternative: str
    data: str = field(default="", init=False)


def write_report(
    folder: Path,
    outcomes: Mapping[str, Outcome],
    classes: Sequence[str],
    settings: Mapping[str, Any],
    pictures: Sequence[Picture],
) -> None:
    """Write ``report.md``, ``report.html`` and the pictures.

    Parameters
    ----------
    folder : Path
        Where to.
    outcomes : mapping of str to Outcome
        By name of the data set; the table of classes is that of the first.
    classes : sequence of str
        Their names.
    settings : mapping
        Of the run.
    pictures : sequence of Picture
        Drawn in this order.
    """
    for picture in pictures:
        path = folder / "pictures" / f"{picture.name}.png"
        save_picture(picture.figure, path)
        picture.data = base64.b64encode(path.read_bytes()).decode()
    figures = {name: outcome.figures() for name, outcome in outcomes.items()}
    first = next(iter(outcomes))
    content = {
        "columns": {key: text for key, text in COLUMNS.items() if any(key in row for row in figures.values())},
        "figures": figures,
        "first": first,
        "classes": dict(zip(classes, outcomes[first].by_class(), strict=True)),
        "gap": figures[first]["accuracy"] - figures[first]["swapped_accuracy"],
        "several": outcomes[first].multi_label,
        "by_chance": not outcomes[first].multi_label and figures[first]["accuracy"] < ABOVE_CHANCE / len(classes),
        "settings": {name: settings[name] for name in SHOWN_SETTINGS if name in settings},
        "pictures": pictures,
        "versions": {name: version(name) for name in ("zennit-isnet", "torch", "torchvision", "zennit")},
    }
    for name, escaped in (("report.md", False), ("report.html", True)):
        write_atomically(folder / name, _environment(escaped).get_template(name).render(content).encode())


def percent(value: float) -> str:
    """Return a share as percent; a dash for what is undefined."""
    return "–" if math.isnan(value) else f"{100 * value:.1f} %"


def setting(value: Any) -> str:
    """Return a setting as a reader who does not know Python reads it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) or "–" if isinstance(value, list) else "–" if value is None else str(value)


def _environment(escaped: bool) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=escaped,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["percent"] = percent
    environment.filters["setting"] = setting
    # a bar would end a cell of a Markdown table
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|").replace("\n", " ")
    return environment
