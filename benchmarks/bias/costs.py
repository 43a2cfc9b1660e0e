"""Cost of a training step for each method, relative to the plain step measured right before it.

Times from separate runs cannot be compared on a machine with other load. So all methods take turns in one process, on
one model and one batch, and the median over the rounds is reported: other load affects them all equally.

    python benchmarks/bias/costs.py --rounds 9
"""

from __future__ import annotations

import argparse
import json
import statistics
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from timeit import timeit

import torch
from methods import METHODS, find_method
from objective import Objective
from runs import Run, batches, load, make_model, save
from study import RESULTS
from torch import nn
from tqdm import trange

from zennit_isnet.errors import RelevanceRangeWarning


def training_step(method: str, model: nn.Module, batch: tuple[torch.Tensor, ...]) -> Callable[[], None]:
    """Return a step: forward pass, loss, backward pass and update."""
    objective = Objective(find_method(method), model, {}, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)

    def step() -> None:
        model.train()
        loss = objective(*batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def paired_ratios(names: Sequence[str], model: nn.Module, rounds: int) -> dict[str, dict[str, float]]:
    """Return median and quartiles of each method's ratio to the plain step."""
    batch = next(batches(load(Run("plain"), "train", "biased"), Run("plain").batch_size))
    plain = training_step("plain", model, batch)
    steps = {name: training_step(name, model, batch) for name in names}
    # the first step of each method also pays for its setup
    for step in (plain, *steps.values()):
        step()
    ratios: dict[str, list[float]] = {name: [] for name in names}
    for _ in trange(rounds, unit="round"):
        for name, step in steps.items():
            # a penalty at every n-th step is measured over n steps
            repeats = find_method(name).every
            before = timeit(plain, number=repeats)
            ratios[name].append(timeit(step, number=repeats) / before)
    rows = {}
    for name, values in ratios.items():
        low, middle, high = statistics.quantiles(values, n=4)
        rows[name] = {"ratio": middle, "low": low, "high": high, "rounds": rounds}
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write ``costs-<model>.json`` into the results folder of the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS), help="methods (default: all)")
    parser.add_argument("--model", default="narrow", help="narrow, or a classifier of torchvision")
    parser.add_argument("--rounds", type=int, default=9, help="measurements per method")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the study's JSON files")
    options = parser.parse_args(arguments)
    if options.rounds < 2:
        parser.error("--rounds must be at least 2")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    # the ranges do not affect the time
    warnings.simplefilter("ignore", RelevanceRangeWarning)
    rows = paired_ratios(options.only, make_model(options.model), options.rounds)
    path = options.results / f"costs-{options.model}.json"
    save(path, lambda part: part.write_text(json.dumps(rows, indent=1) + "\n"))
    for name, row in rows.items():
        print(f"{name}: {row['ratio']:.2f} × ({row['low']:.2f} to {row['high']:.2f})")


if __name__ == "__main__":
    main()
