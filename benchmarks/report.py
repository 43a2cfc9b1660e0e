"""Tables and plot of the measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from steps import Case

LIMIT = 2.0
"""What the arithmetic allows for one heatmap: 6 convolutions for each 3 of a plain step."""


def table(results: dict[str, Any]) -> str:
    """All ratios, and the peaks of memory, as Markdown."""
    lines = [
        f"Device: {results['device']}; torch {results['torch']}; {results['threads']} thread(s).",
        f"Command: `{results['command']}`",
        "",
        "Time of a training step (forward, loss, backward, update) in units of the plain step that was measured right "
        "before it: median and quartiles over the rounds.",
        "",
        "| case | variant | ratio | quartiles |",
        "| --- | --- | ---: | --- |",
    ]
    for entry in results["times"]:
        case = Case(**entry["case"])
        for name, row in entry["ratios"].items():
            lines.append(f"| {case} | {name} | **{row['ratio']:.2f}** | {row['low']:.2f} to {row['high']:.2f} |")
    if results["memory"]:
        lines += [
            "",
            "Peak memory of a step above the idle model, each in a process of its own.",
            "",
            "| case | variant | MiB | ratio to plain |",
            "| --- | --- | --- | --- |",
        ]
    for entry in results["memory"]:
        plain = entry["peaks"]["plain"]
        for name, peak in entry["peaks"].items():
            lines.append(f"| {Case(**entry['case'])} | {name} | {peak:.0f} | {peak / plain:.2f} |")
    return "\n".join(lines) + "\n"


def plot(results: dict[str, Any], path: Path) -> None:
    """Ratio against the number of classes, with the limit."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    points: dict[str, list[tuple[int, float, float, float]]] = {}
    for entry in results["times"]:
        if entry["case"]["model"] == "resnet18" and not (entry["case"]["bf16"] or entry["case"]["channels_last"]):
            for name, row in entry["ratios"].items():
                points.setdefault(name, []).append((entry["case"]["classes"], row["ratio"], row["low"], row["high"]))
    for name, rows in points.items():
        classes, ratios, low, high = zip(*sorted(rows), strict=True)
        spread = [
            [r - lo for r, lo in zip(ratios, low, strict=True)],
            [hi - r for r, hi in zip(ratios, high, strict=True)],
        ]
        axes.errorbar(classes, ratios, spread, marker="o", capsize=3, label=name)
    axes.axhline(LIMIT, color="black", linestyle="--", label=f"limit of one heatmap, {LIMIT}")
    axes.set(xscale="log", yscale="log", xlabel="classes", ylabel="time in plain steps", title="ResNet-18")
    axes.set_yticks([1, 2, 3, 5, 10], ["1", "2", "3", "5", "10"])
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)
    plt.close(figure)
