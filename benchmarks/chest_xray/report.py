"""Tables and plot of the chest film study: mean and worst seed, and each test with its interval.

python benchmarks/chest_xray/report.py
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from films import TESTS
from study import RESULTS
from ways import WAYS

Runs = list[dict[str, Any]]
"""Results of the runs of one training method and setting, one per seed."""


def read(folder: Path) -> dict[str, dict[str, Runs]]:
    """Return the runs by setting, those with most seeds first, and by training method, in the order of `WAYS`."""
    settings: dict[str, dict[str, Runs]] = {}
    for path in sorted(folder.glob("*/*.json")):
        run = json.loads(path.read_text())
        settings.setdefault(path.parent.name, {}).setdefault(run["run"]["way"], []).append(run)
    most = sorted(settings.items(), key=lambda item: -max(map(len, item[1].values())))
    return {name: {way: found[way] for way in WAYS if way in found} for name, found in most}


def accuracies(runs: Runs, test: str) -> list[float]:
    """Return the balanced accuracy of each seed."""
    return [run["tests"][test]["balanced accuracy"][0] for run in runs]


def cell(values: Sequence[float], worst: float) -> str:
    """Return the mean in percent, and the worst if there are several."""
    mean = f"{100 * sum(values) / len(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({100 * worst:.1f})"


def rows_of(lines: Sequence[Sequence[str]]) -> str:
    """Return a table as Markdown; the first line is the header."""
    ruled = [lines[0], ["---", *["---:"] * (len(lines[0]) - 1)], *lines[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in ruled)


def read_costs(folder: Path, network: str) -> dict[str, float]:
    """Return what `costs.py` measured on a network; empty if it did not."""
    path = folder / f"costs-{network}.json"
    costs: dict[str, float] = {"plain": 1.0, **json.loads(path.read_text())} if path.exists() else {}
    return costs


def summary(ways: dict[str, Runs], costs: dict[str, float]) -> str:
    """Return each method's balanced accuracy in each test of its own source, its share on the background and cost."""
    tests = [name for name in next(iter(ways.values()))[0]["tests"] if name not in ("hannover", "figure1")]
    lines = [["training", "seeds", *tests, "relevance on the background", *(["step"] if costs else [])]]
    for way, runs in ways.items():
        cells = []
        for test in tests:
            values = accuracies(runs, test)
            cells.append(cell(values, min(values)))
        shares = [run["background_share"] for run in runs]
        # relevance on a black background has no meaning
        cells += ["–" if WAYS[way].blank else cell(shares, max(shares))]
        if costs:
            cells += [f"{costs[way]:.2f} ×" if way in costs else "–"]
        lines.append([way, str(len(runs)), *cells])
    return rows_of(lines)


def details(run: dict[str, Any]) -> str:
    """Return all measures of one run with their intervals over patients."""
    measures = list(next(iter(run["tests"].values())))
    lines = [["test", *measures]]
    for test, found in run["tests"].items():
        cells = [found.get(measure) for measure in measures]
        lines.append([test, *("–" if c is None else f"{c[0]:.2f} ({c[1]:.2f} to {c[2]:.2f})" for c in cells)])
    return rows_of(lines)


def plot(settings: dict[str, dict[str, Runs]], path: Path) -> None:
    """Draw the balanced accuracy of each seed in the tests of its own source; a panel for each setting."""
    figure, axes = plt.subplots(
        len(settings),
        1,
        figsize=(7, 0.9 * len(settings) + 0.45 * sum(map(len, settings.values()))),
        height_ratios=[len(ways) + 1 for ways in settings.values()],
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    for panel, (setting, ways) in zip(axes[:, 0], settings.items(), strict=True):
        for i, test in enumerate(TESTS[setting.partition("-")[0]]):
            points = [(100 * a, row) for row, runs in enumerate(ways.values()) for a in accuracies(runs, test)]
            x, rows = zip(*points, strict=True)
            # tests one below the other, in the space of their method
            panel.scatter(x, [row + 0.18 * i - 0.27 for row in rows], s=18, alpha=0.7, label=test)
        panel.axvline(50, color="black", linestyle="--", linewidth=1)
        panel.set_yticks(range(len(ways)), list(ways))
        panel.set_ylim(len(ways) - 0.5, -0.5)
        panel.set_title(setting, fontsize="medium")
        panel.grid(axis="x", alpha=0.3)
        panel.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small")
    axes[-1, 0].set_xlabel("balanced accuracy in %, a point for each seed; dashed: chance")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> str:
    """Write ``chest_xray.md`` and ``chest_xray.png``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the runs' files")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results", help="folder to write to")
    options = parser.parse_args(arguments)
    settings = read(options.results)
    if not settings:
        parser.error(f"no results in {options.results}; run study.py first")
    parts = [
        "Balanced accuracy in %, mean of the seeds, with the worst in brackets. On validation images with the same "
        "shortcut, the checkpoint is chosen by AUROC on backgrounds of the other class, and the threshold by accuracy "
        "on these and on their own."
    ]
    for setting, ways in settings.items():
        network = next(iter(ways.values()))[0]["run"]["network"]
        parts += [f"**{setting}**", summary(ways, read_costs(options.results, network))]
        # settings with one seed are overviews
        if max(map(len, ways.values())) > 1:
            for way, runs in ways.items():
                parts += [f"**{setting}, {way}, seed {runs[0]['run']['seed']}**", details(runs[0])]
    text = "\n\n".join(parts) + "\n"
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "chest_xray.md").write_text(text)
    plot(settings, options.output / "chest_xray.png")
    print(text)
    return text


if __name__ == "__main__":
    main()
