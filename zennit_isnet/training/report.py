"""Test figures with intervals, and the scores of all images."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from zennit_isnet.training.callbacks import names_of, write_csv
from zennit_isnet.training.figures import figures

MOST_CLASSES = 20
"""Largest number of classes for an AUROC interval, which is slow."""

RESAMPLES = 200
"""Number of bootstrap samples of the groups, for the intervals."""

SHOWN = {
    "images": "images",
    "balanced_accuracy": "balanced accuracy",
    "swapped_balanced_accuracy": "… on backgrounds of other classes",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "macro_f1": "macro F1",
    "auroc": "AUROC",
    "background_share": "relevance on the background",
}


def with_intervals(logits: Tensor, labels: Tensor, groups: Sequence[str]) -> dict[str, list[float]]:
    """Return each of `figures` with its 95 % interval, by drawing groups with replacement.

    AUROC for many classes has no interval.

    Parameters
    ----------
    logits, labels : Tensor
        See `figures`.
    groups : sequence of str
        Group of each image, such as the patient.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        members[group].append(index)
    names, drawing = list(members), np.random.default_rng(0)
    values = figures(logits, labels)
    samples: dict[str, list[float]] = {name: [] for name in values}
    for _ in range(RESAMPLES):
        drawn = [index for i in drawing.integers(len(names), size=len(names)) for index in members[names[i]]]
        for name, value in figures(logits[drawn], labels[drawn], areas=logits.shape[1] <= MOST_CLASSES).items():
            if name in samples:
                samples[name].append(value)
    ends = {name: np.quantile(found, [0.025, 0.975]).tolist() if found else [] for name, found in samples.items()}
    return {name: [value, *ends[name]] for name, value in values.items()}


def write_results(folder: Path, results: Mapping[str, Mapping[str, Tensor]], data: Any) -> dict[str, Any]:
    """Write ``tests.json``, ``tests.md`` and ``scores.csv`` of the test sets.

    Parameters
    ----------
    folder : path
        Output folder.
    results : mapping
        `ISNetClassifier.results` after a test, by name of the set.
    data : MaskedData
        The tested data.

    Returns
    -------
    dict
        The content of ``tests.json``: each figure with the ends of its interval, by test set.
    """
    found: dict[str, dict[str, Any]] = {}
    scores = []
    for name, result in results.items():
        images = data.describe(name, result["indices"].tolist())
        logits, labels, changed = result["logits"], result["labels"], result["changed"]
        groups = [group for _, group in images]
        swapped_groups = [group for group, is_changed in zip(groups, changed.tolist(), strict=True) if is_changed]
        rows: dict[str, Any] = {"images": len(labels), **with_intervals(logits, labels, groups)}
        if "sensitivity" in rows or "specificity" in rows:
            rows["positive_class"] = data.classes[1]
        swapped = with_intervals(result["swapped"][changed], labels[changed], swapped_groups) if changed.any() else {}
        rows |= {f"swapped_{key}": value for key, value in swapped.items()}
        share = result["share"].nanmean()
        if share.isfinite():
            rows["background_share"] = share.item()
        found[name] = rows
        probabilities = logits.sigmoid() if labels.is_floating_point() else logits.softmax(1)
        for (file, group), label, row in zip(images, labels, probabilities.tolist(), strict=True):
            of_classes = {f"p({one})": f"{value:.6f}" for one, value in zip(data.classes, row, strict=True)}
            label_text = names_of(label, data.classes)
            scores.append({"test": name, "image": file, "group": group, "label": label_text, **of_classes})
    write_csv(folder / "scores.csv", scores)
    (folder / "tests.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (folder / "tests.md").write_text(table(found), encoding="utf-8")
    return found


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return figures by test set as Markdown, in percent, with their intervals in brackets."""
    columns = {key: title for key, title in SHOWN.items() if any(key in row for row in found.values())}
    lines = [["test", *columns.values()], ["---", *["---:"] * len(columns)]]
    lines += [[name, *(_cell(row.get(key)) for key in columns)] for name, row in found.items()]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
    positive = {row["positive_class"] for row in found.values() if "positive_class" in row}
    return text + "".join(f"\nSensitivity is the recall of {name}.\n" for name in sorted(positive))


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, list):
        interval = f" ({100 * value[1]:.1f} to {100 * value[2]:.1f})" if len(value) > 1 else ""
        return f"{100 * value[0]:.1f}{interval}"
    return str(value) if isinstance(value, int) else f"{100 * value:.1f}"
