"""Table and plot of the study: mean and range over the seeds of each method.

python benchmarks/bias/summary.py --choice swap
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from assessment import TEST_SETS
from methods import METHODS, find_method
from runs import CRITERIA
from study import RESULTS

Runs = list[dict[str, Any]]
"""Results of the runs of one method and setting, one per seed."""

COLUMNS: dict[str, Callable[[dict[str, float]], float]] = {
    **{kind: lambda chosen, kind=kind: chosen[kind] for kind in TEST_SETS},
    "gap": lambda chosen: chosen["biased"] - chosen["confounding"],
    "background share": lambda chosen: chosen["background_share"],
}
"""The figures of an epoch, each from the run's record of it."""


def read(folder: Path) -> dict[str, dict[str, Runs]]:
    """Return the runs by setting and method, in the order of `METHODS`."""
    settings: dict[str, dict[str, Runs]] = {}
    for path in sorted(folder.glob("*/*.json")):
        run = json.loads(path.read_text())
        settings.setdefault(path.parent.name, {}).setdefault(run["run"]["method"], []).append(run)
    return {setting: {name: methods[name] for name in in_order(methods)} for setting, methods in settings.items()}


def read_costs(folder: Path, model: str) -> dict[str, Any]:
    """Return what `costs.py` measured on a model; empty if it did not."""
    path = folder / f"costs-{model}.json"
    costs: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return costs


def in_order(names: Iterable[str]) -> list[str]:
    """Return names in the order of `METHODS`; changed weights follow the default weight."""
    order = list(METHODS)
    return sorted(set(names), key=lambda name: (order.index(name.partition("@")[0]), name))


def figures(runs: Runs, choice: str, column: str) -> list[float]:
    """Return one figure per seed in percent. Methods that train without masks choose the epoch without them too."""
    method = find_method(runs[0]["run"]["method"])
    uses_masks = method.penalty is not None or max(method.swap, method.fade, method.consistency) > 0
    return [100 * COLUMNS[column](run["chosen"][choice if uses_masks else "loss"]) for run in runs]


def cell(values: list[float]) -> str:
    """Return the mean and, on a second line, the range if there is one."""
    mean = f"{sum(values) / len(values):.1f}"
    # non-breaking spaces keep the table's columns narrow
    return mean if len(values) == 1 else f"{mean}<br>{min(values):.1f}\u00a0to\u00a0{max(values):.1f}"


def table(methods: dict[str, Runs], choice: str, costs: dict[str, Any]) -> str:
    """Return the rows of one setting as Markdown."""
    head = ["method", "seeds", *COLUMNS, "step"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for name, runs in methods.items():
        base = name.partition("@")[0]
        cost = f"{costs[base]['ratio']:.2f}\u00a0×" if base in costs else "–"
        cells = (cell(figures(runs, choice, column)) for column in COLUMNS)
        lines.append([name, str(len(runs)), *cells, cost])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plot(settings: dict[str, dict[str, Runs]], choice: str, path: Path) -> None:
    """Draw the accuracy on confounding backgrounds: points for means, bars for ranges, a line at the ceiling."""
    names = [name for name in in_order(itertools.chain(*settings.values())) if name != "ceiling"]
    figure, axes = plt.subplots(
        1,
        len(settings),
        figsize=(3 + 2.9 * len(settings), 1.4 + 0.3 * len(names)),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    for panel, (setting, methods) in zip(axes[0], settings.items(), strict=True):
        for height, name in enumerate(names):
            if name in methods:
                values = figures(methods[name], choice, "confounding")
                panel.plot([min(values), max(values)], [height, height], color="tab:blue", linewidth=2)
                panel.plot(sum(values) / len(values), height, "o", color="tab:blue")
        if "ceiling" in methods:
            values = figures(methods["ceiling"], choice, "confounding")
            panel.axvline(sum(values) / len(values), color="black", linestyle="--", linewidth=1)
        panel.set(xlim=(0, 100), xlabel="accuracy in %")
        panel.set_title(setting, fontsize="medium")
        panel.grid(axis="x", alpha=0.3)
    axes[0][0].set_yticks(range(len(names)), names)
    axes[0][0].invert_yaxis()
    figure.suptitle("Accuracy on confounding backgrounds; dashed: ceiling")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> str:
    """Write ``bias.md`` and ``bias.png``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the study's JSON files")
    parser.add_argument("--choice", choices=CRITERIA, default="swap", help="how the epoch is chosen")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results", help="folder to write to")
    options = parser.parse_args(arguments)
    settings = read(options.results)
    if not settings:
        parser.error(f"no results in {options.results}; run study.py first")
    parts = [
        "Accuracies in %, mean and range over the seeds. Background share: of the true class's |relevance|. Step: in "
        "units of a plain step, measured side by side. "
        f"Epochs: chosen by `{options.choice}` on biased validation images; for methods without masks by `loss`."
    ]
    for setting, methods in settings.items():
        model = next(iter(methods.values()))[0]["run"]["model"]
        parts += [f"## {setting}", table(methods, options.choice, read_costs(options.results, model))]
    text = "\n\n".join(parts) + "\n"
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "bias.md").write_text(text)
    plot(settings, options.choice, options.output / "bias.png")
    print(text)
    return text


if __name__ == "__main__":
    main()
