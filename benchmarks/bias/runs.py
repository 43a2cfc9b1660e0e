"""One training run of the study, from its settings to the recorded figures."""

from __future__ import annotations

import difflib
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torchvision
from assessment import TEST_SETS, SwappedValidation, final_figures
from methods import OPTIMIZERS, PENALTIES, find_method
from network import NarrowResNet
from objective import Objective, Ranges, measure_ranges
from torch import Generator, Tensor, nn
from tqdm import tqdm

from zennit_isnet.data import BackgroundBias, load_digits
from zennit_isnet.data.background_bias import Background, Bias, Split

CRITERIA: dict[str, Callable[[dict[str, Any]], tuple[float, ...]]] = {
    "loss": lambda epoch: (-epoch["validation_loss"],),
    "swap": lambda epoch: (epoch["swapped"], -epoch["validation_loss"]),
    "last": lambda epoch: (epoch["epoch"],),
}
"""Criteria for the best epoch, highest first. All use biased validation images only; `swap` also uses their masks."""


@dataclass(frozen=True)
class Run:
    """The settings of one run; its file is named after them."""

    method: str
    bias: Bias = "patch"
    optimizer: str = "sgd"
    seed: int = 0
    model: str = "narrow"
    epochs: int = 20
    batch_size: int = 64

    def file(self, folder: Path, suffix: str = ".json") -> Path:
        """Return the path of the run's results."""
        setting = f"{self.bias}-{self.model}-{self.optimizer}-{self.epochs}epochs"
        return folder / setting / f"{self.method}-seed{self.seed}{suffix}"

    @property
    def needs_plain(self) -> bool:
        """Whether a plainly trained model is needed first, to measure the relevance range."""
        penalty = find_method(self.method).penalty
        return penalty is not None and PENALTIES[penalty].calibrated

    @property
    def plain(self) -> Run:
        """The plain run of the same setting, whose model is used to measure the relevance range."""
        return replace(self, method="plain")


@cache
def digits() -> tuple[Tensor, Tensor]:
    """Load the digits once per process."""
    return load_digits()


def make_model(name: str) -> nn.Module:
    """Return an untrained classifier with ten classes: ``narrow``, ``small-vit``, or one of torchvision."""
    if name == "narrow":
        return NarrowResNet()
    if name == "small-vit":
        vit = torchvision.models.VisionTransformer(32, 4, 4, 4, 96, 384, num_classes=10)
        # torchvision initialises the head with zeros, so the logits would not depend on the images
        nn.init.trunc_normal_(vit.heads.head.weight, std=0.02)
        return vit
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        close = ", ".join(difflib.get_close_matches(name, known, n=5, cutoff=0.3)) or "none"
        raise ValueError(f"unknown model {name!r}; close matches: {close}; narrow and small-vit are allowed too")
    model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=10)
    return model


def batches(data: BackgroundBias, size: int, generator: Generator | None = None) -> Iterator[tuple[Tensor, ...]]:
    """Yield images, masks and labels: shuffled and in full batches if a generator is given."""
    order = torch.arange(len(data)) if generator is None else torch.randperm(len(data), generator=generator)
    for part in order.split(size):
        if generator is None or len(part) == size:
            yield data.images[part], data.masks[part].float(), data.labels[part]


def load(run: Run, split: Split, background: Background) -> BackgroundBias:
    """Return one split of the run's benchmark."""
    return BackgroundBias(split=split, background=background, bias=run.bias, seed=run.seed, source=digits())


@torch.no_grad()
def validation_loss(objective: Objective, data: BackgroundBias) -> float:
    """Return the training loss in eval mode."""
    objective.model.eval()
    total = sum(objective(*batch)["loss"].item() * len(batch[0]) for batch in batches(data, 125))
    return total / len(data)


def ranges_for(run: Run, folder: Path) -> Ranges:
    """Measure the relevance range on the plainly trained model of the same setting."""
    if not run.needs_plain:
        return {}
    plain = make_model(run.model)
    plain.load_state_dict(torch.load(run.plain.file(folder, ".pt"), weights_only=True))
    images = load(run, "validation", "biased").images
    return measure_ranges(str(find_method(run.method).penalty), plain, images, run.seed)


def train(run: Run, folder: Path, quiet: bool = False) -> dict[str, Any]:
    """Train one model and return all figures; weights of plain models are kept for measuring the relevance range."""
    torch.set_num_threads(1)
    method, recipe = find_method(run.method), OPTIMIZERS[run.optimizer]
    ranges = ranges_for(run, folder)
    torch.manual_seed(run.seed)
    model = make_model(run.model)
    objective = Objective(method, model, ranges, run.seed)
    training, validation = (load(run, split, method.background) for split in ("train", "validation"))
    swapped = SwappedValidation(load(run, "validation", "biased"), run.seed)
    optimizer = recipe.make(model.parameters(), **recipe.settings)
    steps = run.epochs * (len(training) // run.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.settings["lr"], total_steps=steps)
    shuffle = Generator().manual_seed(run.seed)
    kept: dict[str, tuple[tuple[float, ...], int, dict[str, Tensor]]] = {}
    history, seconds = [], []
    title = f"{run.method} {run.bias} {run.optimizer} seed {run.seed}"
    for epoch in tqdm(range(1, run.epochs + 1), desc=title, unit="epoch", leave=False, disable=quiet):
        model.train()
        sums: dict[str, float] = {}
        for images, masks, labels in batches(training, run.batch_size, shuffle):
            start = time.perf_counter()
            terms = objective(images, masks, labels)
            optimizer.zero_grad()
            terms["loss"].backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            seconds.append(time.perf_counter() - start)
            schedule.step()
            for name, term in terms.items():
                sums[name] = sums.get(name, 0.0) + term.item()
        row = {"epoch": epoch, **{f"train_{name}": total * run.epochs / steps for name, total in sums.items()}}
        row |= {"validation_loss": validation_loss(objective, validation), **swapped.figures(model)}
        history.append(row)
        for criterion, rank in CRITERIA.items():
            if criterion not in kept or rank(row) > kept[criterion][0]:
                kept[criterion] = rank(row), epoch, {k: v.clone() for k, v in model.state_dict().items()}
    tests = {kind: load(run, "test", kind) for kind in TEST_SETS}
    chosen = {}
    for criterion, (_, epoch, state) in kept.items():
        model.load_state_dict(state)
        chosen[criterion] = {"epoch": epoch, "swap": history[epoch - 1]["swapped"], **final_figures(model, tests)}
    if run == run.plain:
        save(run.file(folder, ".pt"), lambda path: torch.save(kept["loss"][2], path))
    return {
        "run": asdict(run),
        "method": asdict(method),
        "optimizer": recipe.settings,
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "ranges": [{**place._asdict(), **asdict(measured)} for place, measured in ranges.items()],
        "chosen": chosen,
        "median_step_seconds": statistics.median(seconds),
        "history": history,
    }


def save(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file completely or not at all, so that an interrupted study leaves no partial file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    write(part)
    part.replace(path)


def run_once(run: Run, folder: Path, quiet: bool = False) -> str:
    """Train and write the run's file unless it exists; return one line about it."""
    path = run.file(folder)
    if not path.exists():
        figures = train(run, folder, quiet)
        save(path, lambda part: part.write_text(json.dumps(figures, indent=1) + "\n"))
    chosen = json.loads(path.read_text())["chosen"]["swap"]
    accuracies = " / ".join(f"{100 * chosen[kind]:.1f}" for kind in TEST_SETS)
    return f"{path.parent.name} {path.stem}: {accuracies} (epoch {chosen['epoch']})"
