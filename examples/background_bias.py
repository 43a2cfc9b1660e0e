"""Train the same classifier in several ways on digits whose background gives the class away.

plain
    cross-entropy on biased images: learns the background.
ISNet
    the same images, with the heatmap loss on their foreground masks from the first step: learns the digit. Its
    relevance range is measured on the plain classifier. Everything else is the package's defaults.
swap
    with ``--swap P``: cross-entropy on images of which each gets another one's background with that chance. ISNet gets
    the same images then.
ceiling
    cross-entropy on images whose background says nothing: what the classifier can reach at all.

Writes a table of accuracies on four test sets, a picture of heatmaps, the figures as JSON, and the weights (for
``examples/audit.py --checkpoint``). No test image ever meets a mask, and the epoch that is kept is chosen on biased
validation images only. A small share of relevance on the background is no evidence by itself: compare the accuracies on
biased and confounding backgrounds.

    python examples/background_bias.py --bias texture
    python examples/background_bias.py --bias texture --swap 0.5
    python examples/background_bias.py --formulation all --images-only
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from bias_training import Result, loader, table, train
from torch import nn

from zennit_isnet import ISNetRegularizer, LRPFlex, Original, Selective, Stochastic, ZPlus
from zennit_isnet.data import BackgroundBias, load_digits
from zennit_isnet.data.background_bias import Split
from zennit_isnet.formulations import AllLogits
from zennit_isnet.plotting import heatmap_panel
from zennit_isnet.regularizer import EveryNth

FORMULATIONS = ("stochastic", "selective", "dual")
"""Those of ``--formulation all``; the cost of ``original`` grows with the number of classes."""


def make_regularizer(model: nn.Module, formulation: str, options: argparse.Namespace) -> ISNetRegularizer:
    """Return the regularizer of one row of the table."""
    box = (0.0, 1.0) if options.box else None
    explained = {
        "stochastic": lambda: Stochastic(torch.Generator().manual_seed(options.seed)),
        "selective": Selective,
        "dual": AllLogits,
        "original": Original,
    }[formulation]()
    layers = () if options.images_only else "auto"
    every = EveryNth(options.every, options.every_start)
    composite = LRPFlex(reference="darkest") if box is None else LRPFlex(box=box)
    composites = (composite, ZPlus(box=box)) if formulation == "dual" else composite
    return ISNetRegularizer(model, composite=composites, formulation=explained, layers=layers, every=every)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18", help="any torchvision classifier (default: resnet18)")
    parser.add_argument("--bias", choices=("patch", "texture"), default="patch", help="what gives the class away")
    parser.add_argument(
        "--formulation", choices=(*FORMULATIONS, "original", "all"), default="stochastic", help="what ISNet explains"
    )
    parser.add_argument("--images-only", action="store_true", help="penalise no inner layers, only the images")
    parser.add_argument("--size", type=int, default=32, help="height and width of the images in pixels")
    parser.add_argument("--box", action="store_true", help="use the z^B rule at the first layer")
    parser.add_argument("--epochs", type=int, default=20, help="epochs with the heatmap loss")
    parser.add_argument("--plain-epochs", type=int, default=6, help="epochs of the two plain trainings")
    parser.add_argument("--weight", type=float, default=0.7, help="P, the weight of the heatmap loss in [0, 1]")
    parser.add_argument("--every", type=int, default=1, help="penalise each n-th step only, with n times the weight")
    parser.add_argument("--every-start", type=int, default=0, help="number of first steps that are all penalised")
    parser.add_argument("--swap", type=float, default=0.0, help="chance of a training image to get another background")
    parser.add_argument("--lr", type=float, default=0.05, help="highest learning rate (SGD, one cycle)")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("results/background_bias"), help="folder for the results")
    options = parser.parse_args(arguments)
    if options.epochs < 1 or options.plain_epochs < 1 or options.batch_size < 1:
        parser.error("--epochs, --plain-epochs and --batch-size must be at least 1")
    for name in ("weight", "swap"):
        if not 0 <= getattr(options, name) <= 1:
            parser.error(f"--{name} must lie in [0, 1], got {getattr(options, name)}")
    return options


def biased(options: argparse.Namespace, split: Split) -> BackgroundBias:
    """Return images of one split with biased backgrounds."""
    return BackgroundBias(split=split, bias=options.bias, seed=options.seed, source=options.digits, size=options.size)


def isnet(plain: nn.Module, formulation: str, options: argparse.Namespace) -> Callable[[nn.Module], ISNetRegularizer]:
    """Return a maker of regularizers whose range is measured on the plain classifier."""
    ranges = make_regularizer(plain, formulation, options).calibrate(loader(biased(options, "validation"), 125))

    def calibrated(model: nn.Module) -> ISNetRegularizer:
        regularizer = make_regularizer(model, formulation, options)
        regularizer.ranges = ranges
        return regularizer

    return calibrated


def main(arguments: Sequence[str] | None = None) -> dict[str, Result]:
    """Run the comparison."""
    options = parse(arguments)
    options.digits = load_digits()
    models, results = {}, {}
    models["plain"], results["plain"] = train("plain", "biased", options)
    if options.swap > 0:
        models["swap"], results["swap"] = train("swap", "biased", options, swap=options.swap)
    for formulation in FORMULATIONS if options.formulation == "all" else (options.formulation,):
        name, calibrated = f"ISNet {formulation}", isnet(models["plain"], formulation, options)
        models[name], results[name] = train(name, "biased", options, calibrated, options.swap)
    models["ceiling"], results["ceiling"] = train("ceiling", "unbiased", options)
    write(models, results, options)
    return results


def write(models: dict[str, nn.Module], results: dict[str, Result], options: argparse.Namespace) -> None:
    """Print the table; write it, the figures, the weights and the picture of heatmaps."""
    text = table(results)
    print(f"\nAccuracy of {options.model} on four kinds of test background ({options.bias} bias):\n\n{text}\n")
    options.output.mkdir(parents=True, exist_ok=True)
    settings = {name: value for name, value in vars(options).items() if name not in ("digits", "output")}
    figures = {"options": settings, "results": {name: vars(result) for name, result in results.items()}}
    (options.output / "figures.json").write_text(json.dumps(figures, indent=2))
    (options.output / "table.md").write_text(text + "\n")
    for name, model in models.items():
        torch.save(model.state_dict(), options.output / f"{name.replace(' ', '_')}.pth")
    data = biased(options, "test")
    columns = [int((data.labels == digit).nonzero()[0]) for digit in range(8)]
    images, masks, labels = data.images[columns], data.masks[columns], data.labels[columns]
    rows = {
        f"relevance\n{name}": ISNetRegularizer(model).heatmap(images, labels)[:, 0].sum(1)
        for name, model in models.items()
        if name != "ceiling"
    }
    picture = heatmap_panel(images, masks, rows, titles=[f"digit {label}" for label in labels.tolist()])
    picture.savefig(options.output / "heatmaps.png", dpi=150)
    print(f"Written to {options.output}: table.md, figures.json, heatmaps.png, weights")


if __name__ == "__main__":
    main()
