"""The command line."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from training.optimization import PenaltyWeight
from training.penalty import FORMULATIONS
from zennit_isnet.errors import ISNetError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

NEEDED = {"background-bias": (), "folder": ("images", "masks"), "csv": ("csv",), "oxford-pet": ("root",)}
"""Options that a kind of data cannot do without."""

FREE_TO_CHANGE = frozenset(
    (
        "check",
        "checkpoint_every",
        "device",
        "download",
        "log_every",
        "output",
        "panel",
        "resume",
        "test_only",
        "workers",
    )
)
"""Settings that a resumed run may change: they decide where and how it runs, not what it computes."""


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return the parser; each group of options is a part of the run."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("results/train"), help="folder for everything written")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on from OUTPUT/last.pt; without one, begin")
    parser.add_argument("--check", action="store_true", help="check the images and masks, and end")
    parser.add_argument("--test-only", action="store_true", help="test --weights FILE, by default OUTPUT/best.pt")
    _add_data(parser.add_argument_group("data"))
    _add_model(parser.add_argument_group("model"))
    _add_penalty(parser.add_argument_group("penalty"))
    _add_calibration(parser.add_argument_group("calibration"))
    _add_optimization(parser.add_argument_group("optimization"))
    _add_running(parser.add_argument_group("running"))
    return parser


def _add_data(group: Any) -> None:
    group.add_argument("--data", choices=("background-bias", "folder", "csv", "oxford-pet"), default="background-bias")
    group.add_argument("--bias", choices=("patch", "texture"), default="patch", help="of background-bias")
    group.add_argument("--images", type=Path, help="folder of training images, a subfolder for each class")
    group.add_argument("--masks", type=Path, help="folder of masks, laid out as the images")
    group.add_argument("--val-images", type=Path, help="as --images, for validation")
    group.add_argument("--val-masks", type=Path, help="as --masks, for validation")
    group.add_argument("--mask-suffix", default="", help="what a mask's name has after its image's name")
    group.add_argument("--csv", type=Path, help="table with the columns image, mask, label")
    group.add_argument("--class-names", nargs="+", help="of --csv, where some class has no image or the order matters")
    group.add_argument("--val-csv", type=Path, help="as --csv, for validation")
    group.add_argument("--root", type=Path, help="folder of the files in the table, or of the Oxford-IIIT Pet data")
    group.add_argument("--pet-labels", choices=("breed", "species"), default="breed", help="of oxford-pet")
    group.add_argument("--download", action="store_true", help="of oxford-pet: fetch what is missing")
    group.add_argument("--val-split", type=float, default=0.2, help="share for validation where no set is given")
    group.add_argument("--missing", choices=("error", "skip-penalty", "drop"), default="error", help="images, no mask")
    group.add_argument("--empty", choices=("error", "skip-penalty"), default="error", help="masks without foreground")
    group.add_argument("--binarize", choices=("strict", "half", "nonzero"), default="strict", help="values of masks")
    group.add_argument("--resize-masks", action="store_true", help="allow masks of another size than their image")
    group.add_argument("--size", type=int, help="pixels (default: 32 for background-bias, else 224)")
    group.add_argument("--crop-scale", type=float, default=0.08, help="smallest share of an image in a training crop")
    group.add_argument("--flip", type=float, default=0.5, help="probability of a mirrored training image")
    group.add_argument("--mean", type=float, nargs=3, default=IMAGENET_MEAN, help="normalisation of image files")
    group.add_argument("--std", type=float, nargs=3, default=IMAGENET_STD)


def _add_model(group: Any) -> None:
    group.add_argument("--model", default="resnet18", help="any torchvision classifier")
    group.add_argument("--weights", help="such as ResNet50_Weights.DEFAULT, or a .pth file; the head is made to fit")
    group.add_argument("--sync-batchnorm", action="store_true", help="batch statistics over all processes (CUDA)")


def _add_penalty(group: Any) -> None:
    group.add_argument("--weight", default="0.7", help="P, or P by epoch such as 0:0.3,10:0.7 (default: 0.7)")
    group.add_argument("--formulation", choices=FORMULATIONS, default="stochastic", help="what is explained")
    group.add_argument(
        "--layers", nargs="*", default=("auto",), help="layers to supervise besides the images (default: auto)"
    )
    group.add_argument("--box", action="store_true", help="the z^B rule at the first layer, box from the normalisation")
    group.add_argument("--epsilon", type=float, help="of the gates, a constant; the papers have 0.01")
    group.add_argument(
        "--epsilon-ratio", type=float, default=0.3, help="without --epsilon: in units of each layer's activations"
    )
    group.add_argument(
        "--reference",
        choices=("zero", "darkest"),
        default="darkest",
        help="value of an image that carries no relevance",
    )
    group.add_argument("--decay", type=float, default=0.99, help="of the ranked mean over background pixels")
    group.add_argument(
        "--background-scale", type=float, default=0.01, help="E, background relevance below which the loss lets go"
    )
    group.add_argument("--every", type=int, default=1, help="penalise each n-th step only, with n times the weight")
    group.add_argument("--every-start", type=int, default=0, help="first steps that are all penalised whatever --every")
    group.add_argument("--swap-probability", type=float, default=0.0, help="of another image's background")


def _add_calibration(group: Any) -> None:
    group.add_argument("--plain-epochs", type=int, help="without penalty (default: 0 with a trained head, else 5)")
    group.add_argument(
        "--calibrate-on",
        choices=("copy", "model"),
        default="copy",
        help="what is trained plainly and measured: a copy that is then thrown away, because a model that has learnt "
        "the background keeps it; or the model itself, which goes on from there",
    )
    group.add_argument("--ranges", type=Path, help="use the ranges of an earlier run (ranges.json), measure none")


def _add_optimization(group: Any) -> None:
    group.add_argument("--epochs", type=int, default=20, help="with the penalty")
    group.add_argument("--batch-size", type=int, default=64, help="of each process")
    group.add_argument("--accumulate", type=int, default=1, help="batches for each optimizer step")
    group.add_argument("--label-smoothing", type=float, default=0.0, help="of the classification loss")
    group.add_argument("--optimizer", choices=("sgd", "adamw"), default="sgd")
    group.add_argument("--lr", type=float, help="highest learning rate (default: 0.05 for sgd, 0.001 for adamw)")
    group.add_argument("--momentum", type=float, default=0.9, help="of sgd, with Nesterov's step")
    group.add_argument("--weight-decay", type=float, help="(default: 0.0005 for sgd, 0.05 for adamw)")
    group.add_argument("--schedule", choices=("onecycle", "cosine", "step"), default="onecycle")
    group.add_argument("--warmup-epochs", type=float, default=0.0, help="linear, a part of an epoch is allowed")
    group.add_argument("--decay-epochs", type=int, default=10, help="of --schedule step")
    group.add_argument("--decay-factor", type=float, default=0.1, help="of --schedule step")
    group.add_argument("--clip", type=float, default=1.0, help="highest norm of the gradient; 0: no limit")


def _add_running(group: Any) -> None:
    group.add_argument("--device", help="(default: cuda if there is one, else cpu)")
    group.add_argument("--amp", choices=("bf16", "fp16"), help="mixed precision")
    group.add_argument("--deterministic", action="store_true", help="the same numbers again on the same accelerator")
    group.add_argument("--workers", type=int, default=0, help="processes that load images")
    group.add_argument("--checkpoint-every", type=int, default=0, help="steps between checkpoints; 0: each epoch")
    group.add_argument("--log-every", type=int, default=10, help="steps between entries in TensorBoard")
    group.add_argument("--panel", type=int, default=8, help="images in the picture of heatmaps; 0: none")


def parse(arguments: Sequence[str] | None, description: str | None = None) -> argparse.Namespace:
    """Read the command line, and end with a usage message where options do not fit together."""
    parser = make_parser(description)
    options = parser.parse_args(arguments)
    options.size = options.size or (32 if options.data == "background-bias" else 224)
    options.lr = options.lr or {"sgd": 0.05, "adamw": 0.001}[options.optimizer]
    if options.weight_decay is None:
        options.weight_decay = {"sgd": 5e-4, "adamw": 0.05}[options.optimizer]
    options.layers = "auto" if list(options.layers) == ["auto"] else list(options.layers)
    options.mean, options.std = tuple(options.mean), tuple(options.std)
    for problem in _problems(options):
        parser.error(problem)
    return options


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the result of a run depends on, as plain values."""
    chosen = {name: value for name, value in vars(options).items() if name not in FREE_TO_CHANGE}
    return {
        name: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        for name, value in sorted(chosen.items())
    }


def _problems(options: argparse.Namespace) -> Iterator[str]:
    for name in ("epochs", "batch_size", "accumulate", "every", "decay_epochs", "log_every"):
        if getattr(options, name) < 1:
            yield f"{_flag(name)} must be at least 1, got {getattr(options, name)}"
    for name in (
        "clip",
        "warmup_epochs",
        "checkpoint_every",
        "every_start",
        "workers",
        "panel",
        "momentum",
        "weight_decay",
    ):
        if getattr(options, name) < 0:
            yield f"{_flag(name)} must not be negative, got {getattr(options, name)}"
    if options.lr <= 0:
        yield f"--lr must be positive, got {options.lr}"
    if options.plain_epochs is not None and options.plain_epochs < 0:
        yield f"--plain-epochs must not be negative, got {options.plain_epochs}"
    for name in ("swap_probability", "label_smoothing", "flip"):
        if not 0 <= getattr(options, name) <= 1:
            yield f"{_flag(name)} must lie in [0, 1], got {getattr(options, name)}"
    if not 0 < options.crop_scale <= 1:
        yield f"--crop-scale must lie in (0, 1], got {options.crop_scale}"
    if not 0 < options.val_split < 1:
        yield f"--val-split must lie between 0 and 1, got {options.val_split}"
    for name in NEEDED[options.data]:
        if getattr(options, name) is None:
            yield f"--data {options.data} needs {_flag(name)}"
    if (options.val_images is None) != (options.val_masks is None):
        yield "--val-images and --val-masks belong together"
    try:
        PenaltyWeight(options.weight)
    except ISNetError as error:
        yield str(error)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
