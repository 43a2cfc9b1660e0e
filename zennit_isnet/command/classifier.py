"""Shared options for a trained classifier and the images it expects."""

import argparse
import textwrap
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn
from torchvision.transforms import v2

from zennit_isnet.architectures import LONGEST, TIMM, make_model, read_run
from zennit_isnet.audit.reading import Normalization
from zennit_isnet.data import evaluation_transform
from zennit_isnet.data.transforms import Fit
from zennit_isnet.errors import InvalidValueError

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def add_classifier(parser: argparse.ArgumentParser) -> None:
    """Add MODEL and its options to a parser."""
    model = "a checkpoint of `zennit-isnet train`, a classifier of torchvision, timm:name, or module:function"
    parser.add_argument("model", metavar="MODEL", help=model)
    parser.add_argument("--checkpoint", help="file of weights; needed for torchvision and timm classifiers")
    parser.add_argument(
        "--classes",
        type=Path,
        help="file with the model's classes, one per line; default: as in a checkpoint of `train`, or in IMAGES",
    )
    parser.add_argument("--size", type=int, help="height and width in pixels; default: 224, or 32 for the digits")
    parser.add_argument("--fit", choices=get_args(Fit), help="use the centre crop or the whole image; default: crop")
    parser.add_argument("--grey", action="store_true", help="the model takes grey images with one channel")
    parser.add_argument("--mean", type=float, nargs="+", help="mean of each channel, for normalising the images")
    parser.add_argument(
        "--std", type=float, nargs="+", help="standard deviation of each channel; default: images stay in [0, 1]"
    )
    parser.add_argument("--imagenet", action="store_true", help="normalise as torchvision's ImageNet weights expect")
    parser.add_argument("--batch-size", type=int, default=32, help="images per forward pass; default: 32")
    parser.add_argument("--device", type=_device, default="cpu", help="such as cuda; default: cpu")


def _device(text: str) -> torch.device:
    try:
        return torch.empty(0, device=text).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # unknown, not built in, or not present
        raise argparse.ArgumentTypeError(f"{text!r} cannot be used: {str(error).splitlines()[0]}") from None


def check_classifier(options: argparse.Namespace) -> None:
    """Exit with a usage message unless the options fit together."""
    error = options.parser.error
    if (options.mean is None) != (options.std is None) or (options.imagenet and options.mean is not None):
        error("give --mean and --std together, or --imagenet, or none of these")
    for name in ("size", "limit", "batch_size"):
        if getattr(options, name, None) is not None and getattr(options, name) < 1:
            error(f"--{name.replace('_', '-')} must be at least 1; got {getattr(options, name)}")
    if options.grey and options.imagenet:
        error("--imagenet is for three channels; with --grey give --mean and --std")
    for name, values in (("mean", options.mean), ("std", options.std)):
        if values is not None and len(values) != 1 and (options.grey or len(values) != 3):
            error(f"--{name} must have 1{'' if options.grey else ' or 3'} values; got {len(values)}")


def complete(options: argparse.Namespace) -> list[str] | None:
    """Fill in options, from the checkpoint of a run if MODEL is one; return the model's classes if known.

    Raises
    ------
    InvalidValueError
        If a file cannot be read, or an option contradicts the checkpoint of a run.
    """
    if options.imagenet:
        options.mean, options.std = IMAGENET
    is_run = Path(options.model).suffix == ".ckpt"
    weights = Path((options.model if is_run else options.checkpoint) or "")
    run = read_run(weights) if weights.suffix == ".ckpt" else None
    options.multi_label = run is not None and run.multi_label
    if is_run and run is not None:
        options.checkpoint, options.model = options.model, run.architecture
        options.size, options.fit = options.size or run.size, options.fit or run.fit
        options.grey = run.channels == 1
        if options.mean is None:
            options.mean, options.std = run.mean, run.std
        if options.grey and max(len(options.mean), len(options.std)) > 1:
            found = f"{list(options.mean)} and {list(options.std)}"
            raise InvalidValueError(
                f"{weights} takes grey images: give one --mean and --std, or remove these and --imagenet; got {found}"
            )
    options.size = options.size or (32 if getattr(options, "benchmark", None) else 224)
    if options.classes is None:
        return None if run is None else run.classes
    names = [line.strip() for line in options.classes.read_text(encoding="utf-8").splitlines() if line.strip()]
    if run is not None and names != run.classes:
        wanted = f"the classes of {weights} in the order of its logits, {', '.join(run.classes)}"
        raise InvalidValueError(f"{options.classes} must list {wanted}; got {', '.join(names)}; leave --classes out")
    return names


def transform_of(options: argparse.Namespace) -> Any:
    """Return the transform from an image and its mask to the model's input."""
    mean, std = normalization_of(options) or (None, None)
    transform = evaluation_transform(options.size, mean, std, fit=options.fit or "crop")
    return v2.Compose([v2.Grayscale(), transform]) if options.grey else transform


def normalization_of(options: argparse.Namespace) -> Normalization | None:
    """Return mean and standard deviation; None if images stay in [0, 1]."""
    return None if options.mean is None else (options.mean, options.std)


def model_of(options: argparse.Namespace, classes: int) -> nn.Module:
    """Return the classifier, in eval mode on its device; it has run on one image.

    Raises
    ------
    InvalidValueError
        If its weights are missing or wrong, or it does not accept the images.
    """
    model = make_model(options.model, classes, options.checkpoint, channels=1 if options.grey else 3)
    if options.checkpoint is None and (":" not in options.model or options.model.startswith(TIMM)):
        raise InvalidValueError(f"{options.model} needs --checkpoint; without it the weights are random")
    model = model.eval().to(options.device)
    shape = 1 if options.grey else 3, options.size, options.size
    try:
        with torch.no_grad():
            model(torch.zeros(1, *shape, device=options.device))
    # from PyTorch's operations, and from the checks in models of torchvision and timm
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        remedy = f"{'leave --grey out' if options.grey else 'pass --grey'} or another --size"
        reason = textwrap.shorten(str(error), LONGEST)
        raise InvalidValueError(f"the model does not accept images of shape {shape}: {remedy} ({reason})") from error
    return model
