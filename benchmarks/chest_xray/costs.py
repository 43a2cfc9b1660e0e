"""Cost of a training step of each method, relative to the plain step measured right before it.

All methods take turns in one process, on one network and one batch, so that other load affects them all equally. The
median over the rounds is reported.

    python benchmarks/chest_xray/costs.py --network densenet121 --only isnet selective dual original
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
from study import RESULTS, Run, loss_of
from torch import Generator, nn
from tqdm import tqdm
from ways import WAYS, make_network

from zennit_isnet.errors import RelevanceRangeWarning


def training_step(way: str, network: nn.Module, size: int) -> Callable[[], None]:
    """Return a step on random films, without the update: the weights stay those of all other methods."""
    penalty = WAYS[way].penalty
    regularizer = None if penalty is None else penalty(network, Generator().manual_seed(0))
    batch = Run(way).batch_size
    images = torch.rand(batch, 3, size, size, generator=Generator().manual_seed(0))
    masks = torch.zeros(batch, 1, size, size)
    masks[..., size // 4 : -size // 4, size // 4 : -size // 4] = 1
    labels = torch.arange(batch) % 2

    def step() -> None:
        network.zero_grad()
        loss_of(network, regularizer, images, masks, labels).backward()

    return step


def ratios(network: nn.Module, ways: Sequence[str], size: int, rounds: int) -> dict[str, list[float]]:
    """Return each method's ratios to the plain step, one per round."""
    network.train()
    steps = {way: training_step(way, network, size) for way in ("plain", *ways)}
    # the first step also pays for the setup
    for step in steps.values():
        step()
    found: dict[str, list[float]] = {way: [] for way in ways}
    for _, way in tqdm([(i, way) for i in range(rounds) for way in ways], unit="pair"):
        plain = timeit(steps["plain"], number=1)
        found[way].append(timeit(steps[way], number=1) / plain)
    return found


def main(arguments: Sequence[str] | None = None) -> Path:
    """Measure and write ``costs-<network>.json`` into the results folder of the study, for its report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY")
    parser.add_argument("--network", default="lite0", help="lite0, or a classifier of torchvision")
    parser.add_argument("--rounds", type=int, default=5, help="measurements per method")
    parser.add_argument("--size", type=int, default=Run("plain").size, help="height and width in pixels")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the study's files")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    # the ranges do not affect the time
    warnings.simplefilter("ignore", RelevanceRangeWarning)
    found = ratios(make_network(options.network), options.only, options.size, options.rounds)
    medians = {way: statistics.median(values) for way, values in found.items()}
    path: Path = options.results / f"costs-{options.network}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(medians, indent=1) + "\n")
    for way, values in found.items():
        print(f"{way}: {medians[way]:.2f} × ({min(values):.2f} to {max(values):.2f})")
    return path


if __name__ == "__main__":
    main()
