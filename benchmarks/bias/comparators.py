"""Compare the heatmap loss with other published losses, each with its best weight P.

P is chosen in the same way for every method: on seeds that are not reported, by the accuracy on biased validation
images with swapped backgrounds. The reported seeds and the table follow. Finished runs are not repeated.

    python benchmarks/bias/comparators.py --workers 2
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from methods import OPTIMIZERS, find_method
from runs import Run
from study import add_running, check_running, run_all, with_plain
from summary import read_costs, table

TUNED = ("rrr", "gradmask", "energy", "gradcam", "isnet", "isnet-selective", "dual", "original")
REFERENCES = ("plain", "ceiling")
WEIGHTS = (0.3, 0.5, 0.7, 0.9)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=TUNED, default=list(TUNED), help="methods (default: all)")
    parser.add_argument("--weights", nargs="+", type=float, default=list(WEIGHTS), metavar="P")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds in the table")
    parser.add_argument("--tuning-seeds", nargs="+", type=int, default=[3, 4], help="seeds for choosing P")
    parser.add_argument("--bias", choices=("patch", "texture"), default="patch")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="sgd")
    parser.add_argument("--model", default="narrow", help="narrow, or a classifier of torchvision")
    add_running(parser, epochs=20)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results", help="folder to write to")
    options = parser.parse_args(arguments)
    if both := set(options.tuning_seeds) & set(options.seeds):
        parser.error(f"--tuning-seeds and --seeds share {sorted(both)}; choose P on seeds that are not reported")
    trials = [weighted(name, weight) for name in options.only for weight in options.weights]
    check_running(parser, options, trials, [options.model])
    return options


def weighted(method: str, weight: float) -> str:
    """Return the name of a method with the weight P; the default weight is left out."""
    return method if weight == find_method(method).weight else f"{method}@{weight:g}"


def swapped_accuracy(runs: Sequence[Run], folder: Path) -> float:
    """Return the mean accuracy of the runs' best epochs on swapped validation images."""
    chosen = [json.loads(run.file(folder).read_text())["chosen"]["swap"] for run in runs]
    return statistics.mean(epoch["swap"] for epoch in chosen)


def tune(base: Run, options: argparse.Namespace) -> dict[str, dict[float, float]]:
    """Return for each method the accuracy on swapped validation images by weight."""
    # a separate folder: the summary shows every run in its folder
    folder = options.results / "tuning"
    runs = {
        name: {
            weight: [replace(base, method=weighted(name, weight), seed=seed) for seed in options.tuning_seeds]
            for weight in options.weights
        }
        for name in options.only
    }
    todo = [run for trials in runs.values() for seeds in trials.values() for run in seeds]
    run_all(with_plain(todo), folder, options.workers)
    return {
        name: {weight: swapped_accuracy(seeds, folder) for weight, seeds in trials.items()}
        for name, trials in runs.items()
    }


def plot(tuning: dict[str, dict[float, float]], path: Path) -> None:
    """Draw the accuracy on swapped backgrounds over P: one panel per method, the others in grey."""
    columns = min(5, len(tuning))
    rows = math.ceil(len(tuning) / columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(2.3 * columns, 2.2 * rows),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for panel, name in itertools.zip_longest(axes.flat, tuning):
        if name is None:
            panel.set_axis_off()
            continue
        for other, accuracies in tuning.items():
            own = other == name
            percents = [100 * accuracy for accuracy in accuracies.values()]
            panel.plot(percents, color="tab:blue" if own else "0.85", zorder=2 if own else 1)
            if own:
                panel.plot(percents.index(max(percents)), max(percents), "o", color="tab:blue")
            panel.set_xticks(range(len(accuracies)), [f"{weight:g}" for weight in accuracies])
        panel.set_title(name, fontsize="medium")
    figure.suptitle("Accuracy in % on validation images with swapped backgrounds; dot: the P that is used")
    figure.supxlabel("weight P")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> str:
    """Make the missing runs and write ``comparators.md`` and ``comparators.png``."""
    options = parse(arguments)
    base = Run("plain", options.bias, options.optimizer, model=options.model, epochs=options.epochs)
    tuning = tune(base, options)
    chosen = [weighted(name, max(trials, key=lambda weight: trials[weight])) for name, trials in tuning.items()]
    names = [REFERENCES[0], *chosen, REFERENCES[1]]
    runs = {name: [replace(base, method=name, seed=seed) for seed in options.seeds] for name in names}
    run_all(with_plain([run for group in runs.values() for run in group]), options.results, options.workers)
    results = {
        name: [json.loads(run.file(options.results).read_text()) for run in group] for name, group in runs.items()
    }
    text = table(results, "swap", read_costs(options.results, options.model)) + "\n"
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "comparators.md").write_text(text)
    plot(tuning, options.output / "comparators.png")
    print(text)
    return text


if __name__ == "__main__":
    main()
