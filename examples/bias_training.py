"""Training and testing of one classifier on the background-bias benchmark."""

from __future__ import annotations

import argparse
import difflib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from zennit_isnet import ISNetRegularizer
from zennit_isnet.data import BackgroundBias
from zennit_isnet.data.background_bias import Background
from zennit_isnet.functional import resize_foreground
from zennit_isnet.swap import BackgroundSwap

TEST_SETS: tuple[Background, ...] = ("biased", "unbiased", "confounding", "none")


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
    model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=10)
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
    model: nn.Module,
    data: BackgroundBias,
    criterion: nn.Module,
    regularizer: ISNetRegularizer | None,
    weight: float,
) -> float:
    """Return the training loss on validation images, in eval mode.

    The penalty has its full weight, without the factor of the balance, so that epochs can be compared.
    """
    model.eval()
    total = 0.0
    for images, masks, labels in loader(data, 125):
        if regularizer is None:
            loss = criterion(main_head(model(images)), labels)
        else:
            logits, penalty = regularizer(images, masks)
            loss = (1 - weight) * criterion(main_head(logits), labels) + weight * penalty
        total += loss.item() * len(labels)
    return total / len(data)


def train(
    name: str,
    background: Background,
    options: argparse.Namespace,
    regularizer_for: Callable[[nn.Module], ISNetRegularizer] | None = None,
    swap: float = 0.0,
) -> tuple[nn.Module, Result]:
    """Train one model, with or without the heatmap loss; `swap` is each image's chance of another background."""
    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    model = make_model(options.model)
    regularizer = None if regularizer_for is None else regularizer_for(model)
    epochs = options.epochs if regularizer else options.plain_epochs
    common = {"bias": options.bias, "seed": options.seed, "source": options.digits, "size": options.size}
    training, validation = (
        BackgroundBias(split=split, background=background, **common) for split in ("train", "validation")
    )
    batches = loader(training, options.batch_size, generator)
    swap_some = BackgroundSwap(swap, generator=torch.Generator().manual_seed(options.seed + 1))
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), options.lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, total_steps=epochs * len(batches))
    best, chosen, kept, history, seconds = float("inf"), 0, {}, [], []
    for epoch in range(epochs):
        start = time.perf_counter()
        model.train()
        bar = tqdm(batches, desc=f"{name} {epoch + 1}/{epochs}", unit="batch", leave=epoch == epochs - 1)
        for images, masks, labels in bar:
            if swap > 0:
                images = swap_some(images, masks)
            if regularizer is None:
                loss = criterion(main_head(model(images)), labels)
            else:
                logits, penalty = regularizer(images, masks)
                loss = regularizer.balanced(criterion(main_head(logits), labels), penalty, options.weight)
                factor = regularizer.balance.factor
                bar.set_postfix(penalty=f"{penalty.item():.3f}", factor=f"{factor:.2f}", refresh=False)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        seconds.append(time.perf_counter() - start)
        current = validation_loss(model, validation, criterion, regularizer, options.weight)
        history.append({"epoch": epoch + 1, "validation_loss": current})
        if current < best:
            best, chosen = current, epoch + 1
            kept = {key: value.clone() for key, value in model.state_dict().items()}
    if not kept:
        raise RuntimeError(f"{name}: the validation loss was never finite: {history}")
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
