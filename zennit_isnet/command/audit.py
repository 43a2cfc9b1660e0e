"""Report whether a model relies on the background, before any training.

Measures accuracy on swapped backgrounds, and where the relevance of the predictions lies. Writes
report.html, report.md and report.json.

  zennit-isnet audit results/train/best.ckpt test-photos/ test-masks/
  zennit-isnet audit results/train/best.ckpt xrays.csv --split split=test
  zennit-isnet audit resnet50 test-photos/ test-masks/ --checkpoint resnet50.pth --imagenet --classes imagenet.txt
  zennit-isnet audit my_models:make test-photos/ test-masks/ --size 128
  zennit-isnet audit resnet18 --benchmark patch --checkpoint digits.pth

Use images that the model was not trained on.

Exit status: 0 if the report was written, whatever its verdict; 2 for wrong usage, data or weights.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from torch.utils.data import DataLoader, Subset

from zennit_isnet.audit import audit
from zennit_isnet.command.check_data import add_source, check_source, is_table, open_source
from zennit_isnet.command.classifier import (
    add_classifier,
    check_classifier,
    complete,
    model_of,
    normalization_of,
    transform_of,
)
from zennit_isnet.data import BackgroundBias
from zennit_isnet.data.background_bias import Background, Bias
from zennit_isnet.data.decoding import listed
from zennit_isnet.data.opening import renumbered
from zennit_isnet.errors import InvalidValueError, ISNetError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    add_classifier(parser)
    add_source(parser, required=False)
    parser.add_argument("--benchmark", choices=get_args(Bias), help="audit on the built-in digits instead of IMAGES")
    backgrounds = "background of the built-in digits; default: biased (it names the class)"
    parser.add_argument("--background", choices=get_args(Background), default="biased", help=backgrounds)
    split = "audit the rows of a CSV file with this value in this column, such as split=test; default: all"
    parser.add_argument("--split", metavar="COLUMN=VALUE", type=_split, help=split)
    parser.add_argument("--limit", type=int, help="audit this many images, drawn at random; default: all")
    parser.add_argument("--workers", type=int, default=0, help="extra processes that load images; default: 0")
    parser.add_argument("--examples", type=int, default=8, help="worst and random images to show; default: 8")
    parser.add_argument(
        "--tolerance", type=float, default=0.05, help="largest accuracy change that is ignored; default: 0.05"
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed for donors and images; default: 0")
    parser.add_argument("--output", type=Path, default=Path("audit"), help="folder of the report; default: audit")


def run(options: argparse.Namespace) -> int:
    """Audit, write the report, and return the exit status."""
    _check(options)
    name = options.model
    try:
        data = _data(options, complete(options))
        chosen = _chosen(data, options.split)
        order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(options.seed))
        part = Subset(data, [chosen[place] for place in order[: options.limit].sort().values.tolist()])
        report = audit(
            model_of(options, len(data.classes)),
            DataLoader(part, options.batch_size, num_workers=options.workers),
            normalization=normalization_of(options),
            classes=data.classes,
            examples=options.examples,
            tolerance=options.tolerance,
            seed=options.seed,
            progress=sys.stderr.isatty(),
            names=(name, str(options.images or f"the digits with a {options.benchmark} background")),
        )
        options.output.mkdir(parents=True, exist_ok=True)
        report.to_json(options.output / "report.json")
        report.to_markdown(options.output / "report.md")
        report.to_html(options.output / "report.html")
    except (ISNetError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"Verdict: {report.verdict.outcome}. {report.verdict.reason}\n")
    sys.stdout.write(f"Written to {options.output}: report.html, .md, .json\n")
    return 0


def _check(options: argparse.Namespace) -> None:
    """Exit with a usage message unless the options fit together."""
    error = options.parser.error
    if (options.images is None) == (options.benchmark is None):
        error("give either IMAGES or --benchmark")
    if options.images is not None:
        check_source(options)
    if options.benchmark is not None and (options.imagenet or options.mean or options.grey or options.classes):
        error("--benchmark fixes classes, colours and normalisation; remove the options for these")
    if options.benchmark is not None and (options.split or options.columns):
        error("--split and --columns are only for a CSV file")
    check_classifier(options)


def _split(text: str) -> tuple[str, str]:
    column, _, value = text.partition("=")
    if not column or not value:
        raise argparse.ArgumentTypeError(f"must be COLUMN=VALUE, such as split=test; got {text!r}")
    return column, value


def _chosen(data: Any, split: tuple[str, str] | None) -> Sequence[int]:
    """Return the indices of the images to audit: all, or those with a value in a column."""
    if split is None:
        return range(len(data))
    column, value = split
    cells = data.column(column)
    if value not in cells:
        found = listed(sorted(set(cells)))
        raise InvalidValueError(f"the column {column!r} must contain the value of --split; got {value!r}, not {found}")
    return [index for index, cell in enumerate(cells) if cell == value]


def _data(options: argparse.Namespace, classes: list[str] | None) -> Any:
    if options.benchmark is not None:
        if options.grey:
            raise InvalidValueError(f"the images of --benchmark have three channels; {options.checkpoint} takes one")
        part = {"bias": options.benchmark, "background": options.background, "size": options.size}
        return BackgroundBias(split="test", seed=options.seed, **part)
    # images whose crop has lost the object are left out of the audit, like those without a mask
    # and so are a table's images with other labels, as in training
    known = {"classes": classes} if is_table(options) else {}
    data = open_source(options, transform=transform_of(options), empty="skip-penalty", **known)
    sys.stderr.write("".join(f"{options.images}: {note}\n" for note in data.notes))
    where = f"the classes of the images, for {options.classes or options.checkpoint},"
    return data if classes is None else renumbered(data, classes, where)
