"""``zennit-isnet audit``: whether a model looks at the background, as a report."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from torch.utils.data import DataLoader, Subset

from zennit_isnet.audit import audit
from zennit_isnet.audit.loading import load_model
from zennit_isnet.data import BackgroundBias, MaskedImageFolder, MaskedImageTable, evaluation_transform
from zennit_isnet.data.binarization import Binarization
from zennit_isnet.data.options import Background, Bias
from zennit_isnet.errors import ISNetError

WRITTEN, FAILED = 0, 2

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

DESCRIPTION = """\
Report whether a model looks at the background, before any training: its accuracy when the backgrounds of images are
swapped, and where the relevance of its predictions lies. Writes report.html, report.md and report.json.

  zennit-isnet audit resnet50 photos/ masks/ --checkpoint resnet50.pth --imagenet
  zennit-isnet audit my_models:make photos/ masks/ --size 128
  zennit-isnet audit resnet18 --benchmark patch --checkpoint digits.pth

Exit status: 0 when the report was written, whatever its verdict, 2 after wrong usage, data or weights.
"""


def add_parser(subparsers: Any) -> None:
    """Add this subcommand to the parsers of ``zennit-isnet``."""
    parser = subparsers.add_parser(
        "audit",
        help="report whether a model looks at the background",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="a classifier of torchvision, or module:function that makes one")
    parser.add_argument("images", metavar="IMAGES", nargs="?", help="folder of a folder for each class, or a CSV file")
    parser.add_argument("masks", metavar="MASKS", nargs="?", help="parallel folder of masks; not for a CSV file")
    parser.add_argument("--checkpoint", type=Path, help="file of weights; a classifier of torchvision needs one")
    parser.add_argument("--benchmark", choices=get_args(Bias), help="audit on the built-in digits instead of IMAGES")
    parser.add_argument(
        "--background",
        choices=get_args(Background),
        default="biased",
        help="of the built-in digits; default: biased, where the background names the class",
    )
    parser.add_argument("--mask-suffix", default="", help='what names of masks add to those of images, as "_mask"')
    parser.add_argument(
        "--binarize", choices=get_args(Binarization), default="strict", help="values that are foreground"
    )
    parser.add_argument("--resize-masks", action="store_true", help="bring masks to the size of their images")
    parser.add_argument("--size", type=int, help="height and width in pixels; default: 224, or 32 for the digits")
    parser.add_argument("--mean", type=float, nargs=3, help="the mean that the model's images are normalised with")
    parser.add_argument("--std", type=float, nargs=3, help="the standard deviation; default: images stay in [0, 1]")
    parser.add_argument("--imagenet", action="store_true", help="normalise as torchvision's ImageNet weights expect")
    parser.add_argument("--limit", type=int, help="audit this many images, drawn at random; default: all")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=0, help="processes that read images; default: 0, none")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="such as cuda; default: cpu")
    parser.add_argument("--examples", type=int, default=8, help="how many worst and random images are shown")
    parser.add_argument("--tolerance", type=float, default=0.05, help="largest drop of accuracy that counts as none")
    parser.add_argument("--seed", type=int, default=0, help="of the draws of donors and of images")
    parser.add_argument("--output", type=Path, default=Path("audit"), help="folder of the report; default: audit")
    parser.set_defaults(run=run, parser=parser)


def run(options: argparse.Namespace) -> int:
    """Audit, write the report, and return the exit status."""
    normalization = _checked(options)
    try:
        data = _data(options, normalization)
        model = load_model(options.model, len(data.classes), options.checkpoint).to(options.device)
        report = audit(
            model,
            DataLoader(_limited(data, options), options.batch_size, num_workers=options.workers),
            normalization=normalization,
            classes=data.classes,
            examples=options.examples,
            tolerance=options.tolerance,
            seed=options.seed,
            progress=sys.stderr.isatty(),
            names=(options.model, str(options.images or f"the digits with a {options.benchmark} background")),
        )
        options.output.mkdir(parents=True, exist_ok=True)
        report.to_json(options.output / "report.json")
        report.to_markdown(options.output / "report.md")
        report.to_html(options.output / "report.html")
    except (ISNetError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return FAILED
    verdict = report.verdict
    sys.stdout.write(
        f"Verdict: {verdict.outcome}. {verdict.reason}\nWritten to {options.output}: report.html, .md, .json\n"
    )
    return WRITTEN


def _checked(options: argparse.Namespace) -> tuple[Sequence[float], Sequence[float]] | None:
    """Check what belongs together; return the normalisation."""
    error = options.parser.error
    if (options.images is None) == (options.benchmark is None):
        error("give IMAGES, or --benchmark")
    if options.images is not None and os.path.isdir(options.images) != (options.masks is not None):
        error("a folder of images needs MASKS, a CSV file names its masks")
    if (options.mean is None) != (options.std is None) or (options.imagenet and options.mean is not None):
        error("give --mean and --std, or --imagenet, or none of them")
    if options.benchmark is not None and (options.imagenet or options.mean is not None):
        error("the digits of --benchmark are not normalised; leave --mean, --std and --imagenet out")
    for name in ("size", "limit", "batch_size"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            error(f"--{name.replace('_', '-')} must be at least 1; got {getattr(options, name)}")
    if options.workers < 0:
        error(f"--workers must not be negative; got {options.workers}")
    return IMAGENET if options.imagenet else None if options.mean is None else (options.mean, options.std)


def _data(options: argparse.Namespace, normalization: tuple[Sequence[float], Sequence[float]] | None) -> Any:
    if options.benchmark is not None:
        return BackgroundBias(
            split="test",
            bias=options.benchmark,
            background=options.background,
            size=options.size or 32,
            seed=options.seed,
        )
    # an image without a mask, or whose crop has lost the object, is left out by the audit
    transform = evaluation_transform(options.size or 224, *(normalization or (None, None)))
    shared: dict[str, Any] = {
        "transform": transform,
        "missing": "skip-penalty",
        "empty": "skip-penalty",
        "binarize": options.binarize,
        "resize_masks": options.resize_masks,
    }
    if options.masks is None:
        return MaskedImageTable(options.images, **shared)
    return MaskedImageFolder(options.images, options.masks, mask_suffix=options.mask_suffix, **shared)


def _limited(data: Any, options: argparse.Namespace) -> Any:
    if options.limit is None or options.limit >= len(data):
        return data
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(options.seed))
    return Subset(data, order[: options.limit].sort().values.tolist())
