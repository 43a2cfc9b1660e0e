"""Train chest film classifiers on data with a shortcut, and test them without it and on other hospitals' films.

Each run writes one JSON file with its figures, one CSV file with the score of each test film, and its weights. Runs
whose files exist are skipped: repeat the same command to resume an interrupted study.

    python benchmarks/chest_xray/study.py FOLDER --seeds 0 1 2
    python benchmarks/chest_xray/study.py FOLDER --task source --network densenet121 --only plain isnet dual
    python benchmarks/chest_xray/costs.py --network densenet121
    python benchmarks/chest_xray/report.py
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from figures import best_threshold, measured, scores_of, share_on_background
from films import (
    EXTERNAL,
    LABELS,
    TESTS,
    Films,
    blanked,
    normalized,
    on_other_class,
    read_films,
    with_tags,
)
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from torch import Generator, Tensor, nn
from tqdm import tqdm, trange
from ways import WAYS, make_network

from zennit_isnet import ISNetRegularizer
from zennit_isnet.swap import BackgroundFade, BackgroundSwap

RESULTS = Path("results/chest_xray")


@dataclass(frozen=True)
class Run:
    """The settings of one run; its files are named after them."""

    way: str
    task: str = "marker"
    network: str = "lite0"
    seed: int = 0
    steps: int = 1000
    size: int = 112
    batch_size: int = 16
    learning_rate: float = 1e-3
    check_every: int = 100

    def file(self, folder: Path, suffix: str) -> Path:
        """Return the path of one of the run's files."""
        return folder / f"{self.task}-{self.network}-{self.steps}steps" / f"{self.way}-seed{self.seed}{suffix}"


@cache
def source(folder: Path, name: str, split: str, size: int) -> Films:
    """Read the films once per process."""
    return read_films(folder, name, split, size)


def prepared(run: Run, films: Films) -> Films:
    """Return films as the run's network sees them."""
    return blanked(films) if WAYS[run.way].blank else films


def training_films(run: Run, data: Path, split: str) -> Films:
    """Return films with the task's shortcut."""
    films = source(data, "talo", split, run.size)
    if run.task == "marker":
        films = with_tags(films, Generator().manual_seed(run.seed + (split == "val")))
    return films


def balanced_batch(films: Films, size: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw equally many films of each class."""
    groups = [(films.labels == label).nonzero()[:, 0] for label in range(len(LABELS))]
    drawn = [group[torch.randint(len(group), (size // len(groups),), generator=generator)] for group in groups]
    chosen = torch.cat(drawn)
    return films.images[chosen], films.masks[chosen], films.labels[chosen]


class Validation:
    """Validation films, unchanged and on backgrounds of the other class; they decide the checkpoint and threshold."""

    def __init__(self, run: Run, data: Path) -> None:
        films = training_films(run, data, "val")
        other = on_other_class(films, Generator().manual_seed(run.seed))
        self.films, self.other = prepared(run, films), prepared(run, other)

    def figures(self, network: nn.Module) -> dict[str, float]:
        """Return the threshold, and the network's figures on other backgrounds with it."""
        scores, changed = scores_of(network, self.films), scores_of(network, self.other)
        labels = self.films.labels
        both = torch.cat([labels, labels])
        threshold = best_threshold(both, torch.cat([torch.from_numpy(scores), torch.from_numpy(changed)]).numpy())
        return {
            "threshold": threshold,
            "balanced accuracy": balanced_accuracy_score(labels, scores > threshold),
            "on other backgrounds": balanced_accuracy_score(labels, changed > threshold),
            "AUROC on other backgrounds": roc_auc_score(labels, changed),
        }


def regularizer_of(run: Run, network: nn.Module, data: Path, folder: Path) -> ISNetRegularizer | None:
    """Return the method's regularizer, with the range measured on the plain model of the same setting."""
    way = WAYS[run.way]
    if way.penalty is None:
        return None
    regularizer = way.penalty(network, Generator().manual_seed(run.seed))
    if way.calibrated:
        plain = make_network(run.network)
        weights = replace(run, way="plain").file(folder, ".pt")
        plain.load_state_dict(torch.load(weights, weights_only=True))
        measuring = way.penalty(plain, Generator().manual_seed(run.seed))
        batches = [normalized(part) for part in training_films(run, data, "train").images.split(32)]
        regularizer.ranges = dict(measuring.calibrate(batches, progress=False))
    return regularizer


def loss_of(
    network: nn.Module, regularizer: ISNetRegularizer | None, inputs: Tensor, masks: Tensor, labels: Tensor
) -> Tensor:
    """Return cross-entropy, balanced with the penalty if there is one."""
    if regularizer is None:
        return nn.functional.cross_entropy(network(inputs), labels)
    logits, penalty = regularizer(inputs, masks)
    return regularizer.balanced(nn.functional.cross_entropy(logits, labels), penalty)


def train(run: Run, data: Path, folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network at its best checkpoint, and the history."""
    way = WAYS[run.way]
    torch.manual_seed(run.seed)
    network = make_network(run.network)
    regularizer = regularizer_of(run, network, data, folder)
    films, validation = training_films(run, data, "train"), Validation(run, data)
    optimizer = torch.optim.AdamW(network.parameters(), lr=run.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, run.learning_rate, total_steps=run.steps)
    drawing = Generator().manual_seed(run.seed + 7)
    swap = BackgroundSwap(way.swap, generator=Generator().manual_seed(run.seed + 1))
    fade = BackgroundFade(way.fade, generator=Generator().manual_seed(run.seed + 2))
    history: list[dict[str, float]] = []
    best: tuple[tuple[float, ...], dict[str, Tensor]] | None = None
    for step in (bar := trange(1, run.steps + 1, desc=f"{run.way} {run.task} seed {run.seed}", leave=False)):
        images, masks, labels = balanced_batch(films, run.batch_size, drawing)
        images = fade(swap(images, masks), masks)
        inputs = normalized(images * masks if way.blank else images)
        network.train()
        loss = loss_of(network, regularizer, inputs, masks, labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % run.check_every == 0 or step == run.steps:
            row = {"step": step, "loss": loss.item(), **validation.figures(network)}
            if regularizer is not None and regularizer.balance.norms is not None:
                row["ratio of the gradients"] = regularizer.balance.norms.ratio
            history.append(row)
            bar.set_postfix(other=row["on other backgrounds"])
            # of few covid films, AUROC says more than accuracy at the threshold that suits them best
            rank = row["AUROC on other backgrounds"], step
            if best is None or rank > best[0]:
                best = rank, {name: value.clone() for name, value in network.state_dict().items()}
    assert best is not None
    network.load_state_dict(best[1])
    chosen = next(row for row in history if row["step"] == best[0][-1])
    return network, {"chosen": chosen, "history": history}


def tests_of(run: Run, data: Path) -> dict[str, Films]:
    """Return the films of all tests, including other hospitals."""
    films = source(data, "talo", "test", run.size)
    made = {name: make(films, Generator().manual_seed(run.seed)) for name, make in TESTS[run.task].items()}
    made |= {name: source(data, name, "external", run.size) for name in EXTERNAL if (data / f"{name}.csv").exists()}
    return {name: prepared(run, films) for name, films in made.items()}


def run_once(run: Run, data: Path, folder: Path) -> str:
    """Train, test and write the run's files unless they exist; return one line about it."""
    path = run.file(folder, ".json")
    if not path.exists():
        torch.set_num_threads(1)
        network, trained = train(run, data, folder)
        threshold, tests, rows = trained["chosen"]["threshold"], {}, []
        all_tests = tests_of(run, data)
        for name, films in all_tests.items():
            scores = scores_of(network, films)
            tests[name] = measured(films, scores, threshold)
            of_films = zip(films.files, films.patients, films.labels.tolist(), scores, strict=True)
            rows += [(name, file, patient, LABELS[label], f"{score:.6f}") for file, patient, label, score in of_films]
        share = share_on_background(network, next(iter(all_tests.values())))
        figures = {"run": asdict(run), **trained, "tests": tests, "background_share": share}
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(network.state_dict(), run.file(folder, ".pt"))
        with run.file(folder, ".csv").open("w", newline="", encoding="utf-8") as table:
            csv.writer(table).writerows([("test", "file", "patient", "label", "score"), *rows])
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        part.write_text(json.dumps(figures, indent=1) + "\n")
        part.replace(path)
    found = json.loads(path.read_text())
    accuracies = [f"{row['balanced accuracy'][0]:.3f}" for row in found["tests"].values() if "balanced accuracy" in row]
    return f"{path.parent.name} {path.stem}: {' / '.join(accuracies)}, share {found['background_share']:.2f}"


def runs(options: argparse.Namespace) -> list[Run]:
    """Return the requested runs, with the plain runs they need before them."""
    asked = [
        Run(way, task, network, seed, options.steps, options.size, check_every=options.check_every)
        for task, network, seed, way in itertools.product(options.task, options.network, options.seeds, options.only)
    ]
    pairs = ((replace(run, way="plain"), run) for run in asked)
    return list(dict.fromkeys(itertools.chain(*pairs)))


def main(arguments: Sequence[str] | None = None) -> list[Path]:
    """Run the study and return its JSON files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="FOLDER", help="folder with talo.csv and the other tables")
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY")
    parser.add_argument("--task", nargs="+", choices=TESTS, default=list(TESTS))
    parser.add_argument("--network", nargs="+", default=["lite0"], help="lite0, or a classifier of torchvision")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--check-every", type=int, default=100, help="steps from one validation to the next")
    parser.add_argument("--size", type=int, default=112, help="height and width in pixels")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the runs' files")
    options = parser.parse_args(arguments)
    if not (options.data / "talo.csv").exists():
        parser.error(f"FOLDER must contain talo.csv; {options.data} does not")
    todo = runs(options)
    for run in (bar := tqdm(todo, unit="run", smoothing=0)):
        bar.write(run_once(run, options.data, options.results))
    return [run.file(options.results, ".json") for run in todo]


if __name__ == "__main__":
    main()
