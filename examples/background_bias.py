"""Train the same classifier three ways on digits whose background gives the class away.

plain
    cross-entropy on biased images: learns the background.
isnet
    the same images, with the heatmap loss on their foreground masks from the first step: learns the digit. Its
    relevance range is measured on the plain classifier.
ceiling
    cross-entropy on images whose background says nothing: what the classifier can reach at all.

Writes a table of accuracies on four test sets, a picture of heatmaps and the figures as JSON. No test image ever meets
a mask, and the epoch that is kept is chosen on biased validation images only.

    python examples/background_bias.py --bias texture --epochs 20
"""

from __future__ import annotations

import argparse
import difflib
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torchvision
from heatmap_panel import heatmap_panel
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from zennit_isnet import Formulation, ISNetRegularizer, LRPFlex, Original, Selective, Stochastic
from zennit_isnet.data import BackgroundBias, load_digits
from zennit_isnet.functional import resize_foreground

TEST_SETS = ("biased", "unbiased", "confounding", "none")
FORMULATIONS: dict[str, Callable[[torch.Generator], Formulation]] = {
    "selective": lambda generator: Selective(),
    "stochastic": lambda generator: Stochastic(generator),
    "original": lambda generator: Original(),
}


@dataclass
class Result:
    """What one way of training gave."""

    accuracy: dict[str, float]
    background_share: float
    seconds_per_epoch: float
    chosen_epoch: int
    history: list[dict[str, float]] = field(default_factory=list)


def make_model(name: str) -> nn.Module:
    """Return an untrained torchvision classifier with ten classes."""
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        close = ", ".join(difflib.get_close_matches(name, known, n=5, cutoff=0.3)) or "none"
        raise ValueError(f"unknown model {name!r}; close matches: {close}")
    options: dict[str, Any] = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=10, **options)
    return model


def main_head(output: Any) -> Tensor:
    """Return the logits, without auxiliary heads."""
    logits: Tensor = output[0] if isinstance(output, tuple) else output
    return logits


def loader(data: BackgroundBias, batch_size: int, generator: torch.Generator | None = None) -> DataLoader[Any]:
    """Batches, shuffled where a generator is given."""
    shuffle = generator is not None
    return DataLoader(data, batch_size, shuffle=shuffle, generator=generator, drop_last=shuffle)


@torch.no_grad()
def accuracy(model: nn.Module, data: BackgroundBias) -> float:
    """Return the share of correct predictions."""
    model.eval()
    correct = sum(
        (main_head(model(images)).argmax(1) == labels).sum().item() for images, _, labels in loader(data, 250)
    )
    return correct / len(data)


def background_share(regularizer: ISNetRegularizer, data: BackgroundBias) -> float:
    """Return the mean share of |relevance| of the true class that lies on the background."""
    shares = []
    for images, masks, labels in loader(data, 125):
        heatmap = regularizer.heatmap(images, labels).abs().sum((1, 2))
        foreground = resize_foreground(masks, heatmap.shape[-2:])[:, 0]
        shares.append((heatmap * (1 - foreground)).sum((1, 2)) / heatmap.sum((1, 2)))
    return torch.cat(shares).mean().item()


@torch.no_grad()
def validation_loss(
    model: nn.Module, data: BackgroundBias, regularizer: ISNetRegularizer | None, weight: float
) -> float:
    """Return the training loss on validation images, in eval mode."""
    model.eval()
    total = 0.0
    for images, masks, labels in loader(data, 125):
        if regularizer is None:
            loss = F.cross_entropy(main_head(model(images)), labels)
        else:
            logits, penalty = regularizer(images, masks)
            loss = (1 - weight) * F.cross_entropy(main_head(logits), labels) + weight * penalty
        total += loss.item() * len(labels)
    return total / len(data)


def train(
    name: str,
    background: str,
    digits: tuple[Tensor, Tensor],
    options: argparse.Namespace,
    regularizer_for: Callable[[nn.Module], ISNetRegularizer] | None = None,
) -> tuple[nn.Module, Result]:
    """Train one model, with or without the heatmap loss."""
    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    model = make_model(options.model)
    regularizer = None if regularizer_for is None else regularizer_for(model)
    epochs = options.epochs if regularizer else options.plain_epochs
    common = {"bias": options.bias, "seed": options.seed, "source": digits}
    training, validation = (
        BackgroundBias(split=split, background=background, **common) for split in ("train", "validation")
    )
    batches = loader(training, options.batch_size, generator)
    optimizer = torch.optim.SGD(model.parameters(), options.lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, total_steps=epochs * len(batches))
    best, chosen, kept, history, seconds = float("inf"), 0, {}, [], []
    for epoch in range(epochs):
        start = time.perf_counter()
        model.train()
        bar = tqdm(batches, desc=f"{name} {epoch + 1}/{epochs}", unit="batch", leave=epoch == epochs - 1)
        for images, masks, labels in bar:
            if regularizer is None:
                loss = F.cross_entropy(main_head(model(images)), labels)
            else:
                logits, penalty = regularizer(images, masks)
                loss = (1 - options.weight) * F.cross_entropy(main_head(logits), labels) + options.weight * penalty
                bar.set_postfix(penalty=f"{penalty.item():.3f}", refresh=False)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        seconds.append(time.perf_counter() - start)
        current = validation_loss(model, validation, regularizer, options.weight)
        history.append({"epoch": epoch + 1, "validation_loss": current})
        if current < best:
            best, chosen = current, epoch + 1
            kept = {key: value.clone() for key, value in model.state_dict().items()}
    model.load_state_dict(kept)
    tests = {kind: BackgroundBias(split="test", background=kind, **common) for kind in TEST_SETS}
    explainer = regularizer or ISNetRegularizer(model)
    result = Result(
        accuracy={kind: accuracy(model, data) for kind, data in tests.items()},
        background_share=background_share(explainer, tests["biased"]),
        seconds_per_epoch=statistics.median(seconds),
        chosen_epoch=chosen,
        history=history,
    )
    return model, result


def table(results: dict[str, Result]) -> str:
    """Return the results as a Markdown table."""
    head = ["training", *TEST_SETS, "|relevance| on background", "time per epoch"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    plain = results["plain"].seconds_per_epoch
    for name, result in results.items():
        lines.append(
            [
                name,
                *(f"{100 * result.accuracy[kind]:.1f} %" for kind in TEST_SETS),
                f"{100 * result.background_share:.1f} %",
                f"{result.seconds_per_epoch / plain:.2f} ×",
            ]
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18", help="any torchvision classifier (default: resnet18)")
    parser.add_argument("--bias", choices=("patch", "texture"), default="patch", help="what gives the class away")
    parser.add_argument("--formulation", choices=sorted(FORMULATIONS), default="stochastic", help="what is explained")
    parser.add_argument("--box", action="store_true", help="use the z^B rule at the first layer")
    parser.add_argument("--epochs", type=int, default=20, help="epochs with the heatmap loss")
    parser.add_argument("--plain-epochs", type=int, default=6, help="epochs of the two plain trainings")
    parser.add_argument("--weight", type=float, default=0.7, help="P, the weight of the heatmap loss in [0, 1]")
    parser.add_argument("--lr", type=float, default=0.05, help="highest learning rate (SGD, one cycle)")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("results/background_bias"), help="folder for the results")
    options = parser.parse_args(arguments)
    if options.epochs < 1 or options.plain_epochs < 1:
        parser.error("--epochs and --plain-epochs must be at least 1")
    if not 0 <= options.weight <= 1:
        parser.error(f"--weight must lie in [0, 1], got {options.weight}")
    return options


def main(arguments: Sequence[str] | None = None) -> dict[str, Result]:
    """Run the comparison."""
    options = parse(arguments)
    digits = load_digits()
    models, results = {}, {}
    models["plain"], results["plain"] = train("plain", "biased", digits, options)

    def regularizer_for(model: nn.Module) -> ISNetRegularizer:
        formulation = FORMULATIONS[options.formulation](torch.Generator().manual_seed(options.seed))
        composite = LRPFlex(box=(0.0, 1.0) if options.box else None)
        return ISNetRegularizer(model, composite=composite, formulation=formulation)

    data = BackgroundBias(split="validation", bias=options.bias, seed=options.seed, source=digits)
    ranges = regularizer_for(models["plain"]).calibrate(loader(data, 125))

    def calibrated(model: nn.Module) -> ISNetRegularizer:
        regularizer = regularizer_for(model)
        regularizer.ranges = ranges
        return regularizer

    models["isnet"], results["isnet"] = train("isnet", "biased", digits, options, calibrated)
    models["ceiling"], results["ceiling"] = train("ceiling", "unbiased", digits, options)
    text = table(results)
    print(f"\nAccuracy of {options.model} on four kinds of test background ({options.bias} bias):\n\n{text}\n")
    options.output.mkdir(parents=True, exist_ok=True)
    figures = {"options": vars(options) | {"output": str(options.output)}}
    figures["results"] = {name: vars(result) for name, result in results.items()}
    (options.output / "figures.json").write_text(json.dumps(figures, indent=2))
    (options.output / "table.md").write_text(text + "\n")
    data = BackgroundBias(split="test", background="biased", bias=options.bias, seed=options.seed, source=digits)
    columns = [int((data.labels == digit).nonzero()[0]) for digit in range(8)]
    images, masks, labels = data.images[columns], data.masks[columns], data.labels[columns]
    rows = {
        f"relevance, {name}": ISNetRegularizer(models[name]).heatmap(images, labels)[:, 0].sum(1)
        for name in ("plain", "isnet")
    }
    picture = heatmap_panel(images, masks, rows, titles=[f"digit {label}" for label in labels.tolist()])
    picture.savefig(options.output / "heatmaps.png", dpi=150)
    print(f"Written: {', '.join(str(options.output / f) for f in ('table.md', 'figures.json', 'heatmaps.png'))}")
    return results


if __name__ == "__main__":
    main()
