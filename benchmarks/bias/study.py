"""Compare training methods on digits whose background gives the class away.

Each run of a method, bias, optimizer and seed writes one JSON file and is skipped if that file exists. Repeat the same
command to resume an interrupted study, or run it twice in parallel with different seeds.

    python benchmarks/bias/study.py --seeds 0 1 2
    python benchmarks/bias/study.py --only plain isnet isnet@0.9 isnet+swap --bias texture --optimizer adamw
    python benchmarks/bias/summary.py
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from methods import METHODS, OPTIMIZERS, find_method
from runs import Run, make_model, run_once
from tqdm import tqdm

RESULTS = Path("results/bias")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", default=list(METHODS), metavar="METHOD", help="methods; @P sets the weight"
    )
    parser.add_argument("--bias", nargs="+", choices=("patch", "texture"), default=["patch", "texture"])
    parser.add_argument("--optimizer", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--model", nargs="+", default=["narrow"], help="narrow, or a classifier of torchvision")
    add_running(parser, epochs=20)
    options = parser.parse_args(arguments)
    check_running(parser, options, options.only, options.model)
    return options


def add_running(parser: argparse.ArgumentParser, epochs: int) -> None:
    """Add the options of everything that makes runs."""
    parser.add_argument("--epochs", type=int, default=epochs, help="epochs, the same for all methods")
    parser.add_argument("--workers", type=int, default=1, help="processes, each with one thread")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files")


def check_running(
    parser: argparse.ArgumentParser, options: argparse.Namespace, methods: Sequence[str], models: Sequence[str]
) -> None:
    """End with a usage message if the runs cannot be made."""
    if options.epochs < 1 or options.workers < 1:
        parser.error("--epochs and --workers must be at least 1")
    try:
        for name in methods:
            find_method(name)
        for name in models:
            make_model(name)
    except ValueError as error:
        parser.error(str(error))


def runs(options: argparse.Namespace) -> list[Run]:
    """Return the requested runs and the plain runs they need, one seed after the other."""
    asked = [
        Run(method, bias, optimizer, seed, model, options.epochs)
        for seed, model, bias, optimizer, method in itertools.product(
            options.seeds, options.model, options.bias, options.optimizer, options.only
        )
    ]
    return with_plain(asked)


def with_plain(asked: Sequence[Run]) -> list[Run]:
    """Return each run once, with the plain runs before those whose relevance range is measured on them."""
    return list(dict.fromkeys(itertools.chain(*((run.plain, run) if run.needs_plain else (run,) for run in asked))))


def run_all(todo: Sequence[Run], folder: Path, workers: int) -> None:
    """Make all missing runs."""
    bar = tqdm(total=len(todo), unit="run", smoothing=0)
    if workers == 1:
        for run in todo:
            bar.write(run_once(run, folder))
            bar.update()
    else:
        # OpenMP reads its number of threads when a process starts
        os.environ["OMP_NUM_THREADS"] = "1"
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            # plain runs first: the others measure the relevance range on them
            for stage in ([run for run in todo if run == run.plain], [run for run in todo if run != run.plain]):
                for done in as_completed([pool.submit(run_once, run, folder, quiet=True) for run in stage]):
                    bar.write(done.result())
                    bar.update()
    bar.close()


def main(arguments: Sequence[str] | None = None) -> list[Path]:
    """Run the study and return the files."""
    options = parse(arguments)
    todo = runs(options)
    run_all(todo, options.results, options.workers)
    return [run.file(options.results) for run in todo]


if __name__ == "__main__":
    main()
