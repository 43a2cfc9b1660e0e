"""Test figures with intervals, and the scores of all images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from zennit_isnet.training.callbacks import names_of, write_csv
from zennit_isnet.training.intervals import with_intervals

MOST_CLASSES = 20
"""Largest number of classes whose images are counted in the table."""

SHOWN = {
    "images": "images",
    "balanced_accuracy": "balanced accuracy",
    "swapped_balanced_accuracy": "… on backgrounds of other classes",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "recall": "recall of the only class",
    "swapped_sensitivity": "sensitivity on backgrounds of other classes",
    "swapped_specificity": "specificity on backgrounds of other classes",
    "swapped_recall": "recall on backgrounds of other classes",
    "macro_f1": "macro F1",
    "auroc": "AUROC",
    "background_share": "relevance on the background",
}


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
        The content of ``tests.json``: each figure with the ends of its interval, by test set; the numbers of images, of
        those of each class, and of those that were also tested on a swapped background.
    """
    found: dict[str, dict[str, Any]] = {}
    scores = []
    for name, result in results.items():
        images = data.describe(name, result["indices"].tolist())
        logits, labels, changed = result["logits"], result["labels"], result["changed"]
        groups = [group for _, group in images]
        swapped_groups = [group for group, is_changed in zip(groups, changed.tolist(), strict=True) if is_changed]
        of_class = labels if labels.is_floating_point() else F.one_hot(labels, len(data.classes))
        counts = dict(zip(data.classes, map(int, of_class.sum(0)), strict=True))
        rows: dict[str, Any] = {"images": len(labels), "images_of_class": counts}
        rows |= with_intervals(logits, labels, groups)
        if "sensitivity" in rows or "specificity" in rows:
            rows["positive_class"] = data.classes[1]
        swapped = with_intervals(result["swapped"][changed], labels[changed], swapped_groups) if changed.any() else {}
        rows |= {f"swapped_{key}": value for key, value in {"images": len(swapped_groups), **swapped}.items()}
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
    lines += [[name, *(_cell(row, key) for key in columns)] for name, row in found.items()]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
    for name, row in found.items():
        if 0 < len(counts := row.get("images_of_class", {})) <= MOST_CLASSES:
            text += f"\nImages in {name}: {', '.join(f'{count} {one}' for one, count in counts.items())}.\n"
    positive = {row["positive_class"] for row in found.values() if "positive_class" in row}
    return text + "".join(f"\nSensitivity is the recall of {name}.\n" for name in sorted(positive))


def _cell(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if value is None:
        return "–"
    if isinstance(value, list):
        interval = f" ({100 * value[1]:.1f} to {100 * value[2]:.1f})" if len(value) > 1 else ""
        # only images with a mask and a donor
        among = f", {row['swapped_images']} images" if key.startswith("swapped_") and "swapped_images" in row else ""
        return f"{100 * value[0]:.1f}{interval}{among}"
    return str(value) if isinstance(value, int) else f"{100 * value:.1f}"
