"""See what the heatmap loss does to a shortcut: digits whose background gives the class away, in three minutes.

Three minutes on two CPU cores, for two shortcuts in one process each: a white patch whose position at the border names
the digit, and a photograph for each digit. The same small network is trained three times with each:

plain
    cross-entropy on images with the shortcut.
heatmap loss
    the same images, cross-entropy and the heatmap loss with the defaults of `ISNetRegularizer`. Its relevance range is
    measured on the plain classifier.
ceiling
    cross-entropy on images whose background says nothing about the digit: the best possible result.

The test images come with four kinds of background and are classified without masks. The best epoch is chosen by the
training loss on validation images, which have the shortcut too.

    python examples/background_bias.py
    python examples/background_bias.py --bias patch --model resnet18 --threads 2
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from small_benchmark import Digits, batches, small_net
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from zennit_isnet import ISNetRegularizer
from zennit_isnet.architectures import make_model
from zennit_isnet.data import BackgroundBias, load_digits
from zennit_isnet.data.background_bias import Background, Bias, Split
from zennit_isnet.errors import InvalidValueError, RelevanceRangeWarning
from zennit_isnet.functional import background_share
from zennit_isnet.model import main_head

PLAIN, ISNET, CEILING = "plain", "heatmap loss", "ceiling"
BIASES: dict[Bias, str] = {
    "patch": "a white patch whose position at the border names the digit",
    "texture": "a photograph for each digit behind it",
}
TESTS: dict[Background, str] = {
    "biased": "names the digit",
    "confounding": "names another digit",
    "none": "is black",
}
"""Backgrounds of the test images, with their column titles in the table."""

WEIGHT = 0.7
"""P: weight of the penalty."""

SHOWN = (3, 5, 7)
"""Digits in the picture: the first test image of each."""


@dataclass(frozen=True)
class Result:
    """Result of one training."""

    accuracy: dict[str, float]
    background_share: float
    chosen_epoch: int
    ranges: dict[str, dict[str, float]]
    curves: dict[str, list[float]]

    @property
    def drop(self) -> str:
        """Accuracy when the background names the digit, and when it names another one."""
        return f"{100 * self.accuracy['biased']:.1f} % → {100 * self.accuracy['confounding']:.1f} %"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bias", choices=BIASES, nargs="+", default=list(BIASES), help="the shortcuts (default: both)")
    parser.add_argument("--model", default="small", help="small, or a classifier of torchvision (default: small)")
    parser.add_argument("--epochs", type=int, default=20, help="epochs with the heatmap loss (default: 20)")
    parser.add_argument("--plain-epochs", type=int, default=6, help="epochs of the two plain trainings (default: 6)")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.05, help="highest learning rate (SGD, one cycle)")
    parser.add_argument("--size", type=int, default=32, help="height and width of the images in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="threads per process; one is best for the small network")
    parser.add_argument("--output", type=Path, default=Path("results/background_bias"), help="folder for the results")
    options = parser.parse_args(arguments)
    for name in ("epochs", "plain_epochs", "batch_size", "threads"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1; got {getattr(options, name)}")
    try:
        network(options.model)
    except InvalidValueError as error:
        parser.error(f"--model: {error}")
    return options


def network(name: str) -> nn.Module:
    """Return an untrained classifier with ten classes."""
    return small_net() if name == "small" else make_model(name, 10)


@dataclass(frozen=True)
class Comparison:
    """The trainings with one shortcut."""

    bias: Bias
    digits: Digits
    options: argparse.Namespace

    def data(self, split: Split, background: Background = "biased") -> BackgroundBias:
        """Return the digits of a split on one kind of background."""
        shared = {"seed": self.options.seed, "source": self.digits, "size": self.options.size}
        return BackgroundBias(split=split, bias=self.bias, background=background, **shared)

    def weights(self, name: str) -> Path:
        """Return the file of the weights of one training."""
        folder: Path = self.options.output / self.bias
        return folder / f"{name.replace(' ', '_')}.pth"

    def saved(self, name: str) -> nn.Module:
        """Return a trained network."""
        model = network(self.options.model)
        model.load_state_dict(torch.load(self.weights(name), weights_only=True))
        return model

    def run(self) -> dict[str, Result]:
        """Train three times, print each result, save the weights, and return the figures."""
        torch.set_num_threads(self.options.threads)
        self.weights(PLAIN).parent.mkdir(parents=True, exist_ok=True)
        plain, first = self.train(PLAIN, "biased", self.options.plain_epochs)
        ranges = ISNetRegularizer(plain).calibrate(batches(self.data("validation"), 125), progress=False)
        _, second = self.train(ISNET, "biased", self.options.epochs, ranges)
        _, third = self.train(CEILING, "unbiased", self.options.plain_epochs)
        return {PLAIN: first, ISNET: second, CEILING: third}

    def train(self, name: str, background: Background, epochs: int, ranges: Any = None) -> tuple[nn.Module, Result]:
        """Train one network, with the heatmap loss if ranges are given, and test it."""
        torch.manual_seed(self.options.seed)
        model = network(self.options.model)
        regularizer = None if ranges is None else ISNetRegularizer(model, ranges=ranges)
        training, validation = (self.data(split, background) for split in ("train", "validation"))
        shuffled = batches(training, self.options.batch_size, torch.Generator().manual_seed(self.options.seed))
        optimizer = torch.optim.SGD(model.parameters(), self.options.lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.options.lr, total_steps=epochs * len(shuffled))
        curves: dict[str, list[float]] = {"training loss": [], "validation loss": []}
        lowest, chosen, kept = float("inf"), 0, {}
        where = {"position": self.options.bias.index(self.bias), "leave": False, "unit": "step"}
        for epoch in range(1, epochs + 1):
            model.train()
            losses = []
            bar = tqdm(shuffled, f"{self.bias}: {name}, epoch {epoch} of {epochs}", **where)
            for images, masks, labels in bar:
                if regularizer is None:
                    loss = cross_entropy(main_head(model(images)), labels)
                else:
                    logits, penalty = regularizer(images, masks)
                    loss = regularizer.balanced(cross_entropy(main_head(logits), labels), penalty, WEIGHT)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
            curves["training loss"].append(statistics.fmean(losses))
            curves["validation loss"].append(validation_loss(model, regularizer, validation))
            if curves["validation loss"][-1] < lowest:
                lowest, chosen = curves["validation loss"][-1], epoch
                kept = {key: value.clone() for key, value in model.state_dict().items()}
        if not kept:
            raise RuntimeError(f"{name}: the validation loss was never finite: {curves['validation loss']}")
        model.load_state_dict(kept)
        torch.save(kept, self.weights(name))
        result = Result(
            accuracy={kind: accuracy(model, self.data("test", kind)) for kind in (*TESTS, "unbiased")},
            background_share=share_on_background(model, self.data("test")),
            chosen_epoch=chosen,
            ranges={str(place): asdict(found) for place, found in (ranges or {}).items()},
            curves=curves,
        )
        tqdm.write(f"{self.bias}: {name}: {result.drop} right when the background names another digit")
        return model, result


@torch.no_grad()
def validation_loss(model: nn.Module, regularizer: ISNetRegularizer | None, data: BackgroundBias) -> float:
    """Return the training loss in eval mode.

    The penalty has its full weight, without the balancing factor, so that epochs can be compared.
    """
    model.eval()
    total = 0.0
    for images, masks, labels in batches(data, 125):
        if regularizer is None:
            loss = cross_entropy(main_head(model(images)), labels)
        else:
            logits, penalty = regularizer(images, masks)
            loss = (1 - WEIGHT) * cross_entropy(main_head(logits), labels) + WEIGHT * penalty
        total += loss.item() * len(labels)
    return total / len(data)


@torch.no_grad()
def answers(model: nn.Module, images: Tensor) -> Tensor:
    """Return the predicted class of each image."""
    model.eval()
    return main_head(model(images)).argmax(1)


def accuracy(model: nn.Module, data: BackgroundBias) -> float:
    """Return the share of correct predictions."""
    right = sum((answers(model, images) == labels).sum().item() for images, _, labels in batches(data, 250))
    return right / len(data)


def share_on_background(model: nn.Module, data: BackgroundBias) -> float:
    """Return the mean share of |relevance| on the background, for the true class."""
    explain = ISNetRegularizer(model).heatmap
    shares = [background_share(explain(images, labels), masks) for images, masks, labels in batches(data, 125)]
    return torch.cat(shares).mean().item()


def expected_seconds(comparison: Comparison) -> float:
    """Return the estimated time of the trainings with one shortcut, from a few steps of each kind."""
    options = comparison.options
    torch.set_num_threads(options.threads)
    model = network(options.model)
    regularizer = ISNetRegularizer(model)
    data = comparison.data("train")
    images, masks, labels = next(iter(batches(data, options.batch_size)))

    def plain() -> Tensor:
        return cross_entropy(main_head(model(images)), labels)

    def penalised() -> Tensor:
        logits, penalty = regularizer(images, masks)
        return cross_entropy(main_head(logits), labels) + penalty

    def seconds(loss: Callable[[], Tensor]) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            loss().backward()
            times.append(time.perf_counter() - start)
        return min(times)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RelevanceRangeWarning)  # an untrained network has no meaningful range
        of_plain, of_penalised = seconds(plain), seconds(penalised)
    steps = len(data) // options.batch_size
    overhead = 1.7  # loading, validation and tests, and two processes that share the machine
    return overhead * steps * (2 * options.plain_epochs * of_plain + options.epochs * of_penalised)


def plan(options: argparse.Namespace, seconds: float) -> str:
    """Return the plan, with the total time."""
    shortcuts = "\n".join(f"  {bias:13} {BIASES[bias]}" for bias in options.bias)
    return f"""Three trainings of the {options.model} network for each shortcut; about {seconds / 60:.1f} minutes.
Shortcuts
{shortcuts}
Trainings
  {PLAIN:13} {options.plain_epochs} epochs on images with the shortcut
  {ISNET:13} {options.epochs} epochs on the same images
  {CEILING:13} {options.plain_epochs} epochs on images whose background says nothing about the digit
"""


def trained(comparisons: Sequence[Comparison]) -> dict[Bias, dict[str, Result]]:
    """Run the comparisons, in parallel if there are several."""
    if len(comparisons) == 1:
        results = [comparisons[0].run()]
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(len(comparisons), context, tqdm.set_lock, (context.RLock(),)) as pool:
            results = list(pool.map(Comparison.run, comparisons))
    return {each.bias: result for each, result in zip(comparisons, results, strict=True)}


def table(results: dict[Bias, dict[str, Result]]) -> str:
    """Return the figures as a Markdown table."""
    lines = [["shortcut", "training", *TESTS.values(), "relevance on the background"], ["---", "---", *["---:"] * 4]]
    for bias, trainings in results.items():
        for name, result in trainings.items():
            shares = [*(result.accuracy[kind] for kind in TESTS), result.background_share]
            lines.append([bias, name, *(f"{100 * share:.1f} %" for share in shares)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    cells = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def picture(comparisons: Sequence[Comparison]) -> Figure:
    """Draw test images whose background names another digit, with each network's heatmap and prediction."""
    figure = Figure(figsize=(4.6 * len(comparisons) + 0.4, 6), layout="constrained")
    count = len(SHOWN)
    gaps = [*[1.0] * count, 0.15] * len(comparisons)
    axes = figure.subplots(3, len(gaps), width_ratios=gaps, subplot_kw={"xticks": [], "yticks": []})
    for axis in axes[:, count :: count + 1].flat:
        axis.set_visible(False)
    for number, comparison in enumerate(comparisons):
        block = axes[:, number * (count + 1) : number * (count + 1) + count]
        data = comparison.data("test", "confounding")
        chosen = [int((data.labels == digit).nonzero()[0]) for digit in SHOWN]
        images, masks = data.images[chosen], data.masks[chosen]
        cue = "patch" if comparison.bias == "patch" else "photo"
        for axis, image, digit, other in zip(block[0], images, SHOWN, data.cues[chosen].tolist(), strict=True):
            axis.imshow(image.permute(1, 2, 0))
            axis.set_title(f"digit {digit}, {cue} says {other}", fontsize=9)
        for row, name in zip(block[1:], (PLAIN, ISNET), strict=True):
            model = comparison.saved(name)
            said = answers(model, images)
            heatmaps = ISNetRegularizer(model).heatmap(images, said)[:, 0].sum(1)
            for axis, heatmap, mask, answer, digit in zip(row, heatmaps, masks, said.tolist(), SHOWN, strict=True):
                drawn = axis.imshow(heatmap / heatmap.abs().max(), cmap="RdBu_r", vmin=-1, vmax=1)
                axis.contour(mask[0], levels=[0.5], colors="black", linewidths=0.8)
                word, colour = ("right", "#006040") if answer == digit else ("wrong", "#B03000")
                axis.set_title(f"answer: {answer}, {word}", fontsize=9, color=colour)
    for row, label in zip(axes, ("test image", "plain training", "with the heatmap loss"), strict=True):
        row[0].set_ylabel(label, fontsize=11)
    bar = figure.colorbar(drawn, ax=axes, location="bottom", shrink=0.5, aspect=40, ticks=[-1, 0, 1])
    bar.ax.set_xticklabels(["against the answer", "no relevance", "for the answer"])
    return figure


def main(arguments: Sequence[str] | None = None) -> dict[Bias, dict[str, Result]]:
    """Run the comparison."""
    options = parse(arguments)
    digits = load_digits()
    comparisons = [Comparison(bias, digits, options) for bias in options.bias]
    print(plan(options, expected_seconds(comparisons[0])), flush=True)
    start = time.perf_counter()
    results = trained(comparisons)
    minutes = (time.perf_counter() - start) / 60

    text = table(results)
    packages = ("zennit-isnet", "zennit", "captum", "torch", "torchvision", "numpy")
    figures = {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "options": {name: str(value) if name == "output" else value for name, value in vars(options).items()},
        "minutes": minutes,
        "results": {bias: {name: asdict(one) for name, one in ways.items()} for bias, ways in results.items()},
    }
    (options.output / "figures.json").write_text(json.dumps(figures, indent=2))
    (options.output / "table.md").write_text(f"{text}\n")
    picture(comparisons).savefig(options.output / "heatmaps.png", dpi=150)
    print(f"\nRight answers on 1,000 test digits whose background …\n\n{text}\n")
    print(f"Written to {options.output} after {minutes:.1f} minutes: heatmaps.png, table.md, figures.json, weights")
    kept = " and ".join(f"{100 * results[bias][ISNET].accuracy['confounding']:.0f} %" for bias in results)
    lost = " and ".join(f"{100 * results[bias][PLAIN].accuracy['confounding']:.0f} %" for bias in results)
    print(
        f"When the background misleads, {lost} of the plain network's answers are right; with the heatmap loss, {kept}."
    )
    return results


if __name__ == "__main__":
    main()
