"""``zennit-isnet check-data``: whether images and masks fit together, before a training with them."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any, get_args

from zennit_isnet.data import MaskedImageFolder, MaskedImageTable, check_masks
from zennit_isnet.data.binarization import Binarization, Binarize
from zennit_isnet.data.files import MaskedFiles
from zennit_isnet.data.mask_report import ProblemKind
from zennit_isnet.errors import InvalidValueError

CLEAN, PROBLEMS = 0, 1

DESCRIPTION = """\
Read all images and masks; print the foreground's share of the images by class, and all problems.
Exit status: 0 without problems, 1 with problems, 2 after wrong usage.
"""


def add_parser(subparsers: Any) -> None:
    """Add this subcommand to the parsers of ``zennit-isnet``."""
    parser = subparsers.add_parser(
        "check-data",
        help="check images and their masks before a training",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", metavar="IMAGES", help="folder that holds a folder for each class, or a CSV file")
    parser.add_argument("masks", metavar="MASKS", nargs="?", help="parallel folder of masks; not for a CSV file")
    parser.add_argument("--root", help="folder that paths in the CSV file start from; default: that of the file")
    parser.add_argument("--mask-suffix", default="", help='what names of masks add to those of images, as "_mask"')
    parser.add_argument(
        "--binarize",
        type=_binarize,
        default="strict",
        help=f"values that are foreground: {', '.join(get_args(Binarization))}, or numbers as in 1,3; default: strict",
    )
    parser.add_argument("--resize-masks", action="store_true", help="another size than the image's is no problem")
    parser.add_argument(
        "--allow",
        metavar="KIND",
        action="append",
        choices=get_args(ProblemKind),
        default=[],
        help=f"problems that leave the exit status 0, may be repeated: {', '.join(get_args(ProblemKind))}",
    )
    parser.add_argument("--workers", type=int, help="threads that read; default: the number of processors, at most 8")
    parser.set_defaults(run=run, parser=parser)


def run(options: argparse.Namespace) -> int:
    """Check, print the report, and return the exit status."""
    _check_usage(options)
    try:
        dataset = _dataset(options)
    except InvalidValueError as error:
        sys.stdout.write(f"{error}\n")
        return PROBLEMS
    report = check_masks(dataset, workers=options.workers, progress=sys.stderr.isatty())
    sys.stdout.write(f"{report}\n")
    return PROBLEMS if any(problem.kind not in options.allow for problem in report.problems) else CLEAN


def _check_usage(options: argparse.Namespace) -> None:
    error = options.parser.error
    if os.path.isdir(options.images):
        if options.masks is None or options.root is not None:
            error("a folder of images needs MASKS and no --root")
        if not os.path.isdir(options.masks):
            error(f"MASKS must be an existing folder; got {options.masks}")
    elif not os.path.isfile(options.images):
        error(f"IMAGES must be an existing folder or CSV file; got {options.images}")
    elif options.masks is not None or options.mask_suffix:
        error("a CSV file names its masks: it goes without MASKS and --mask-suffix")
    if options.workers is not None and options.workers < 0:
        error(f"--workers must not be negative; got {options.workers}")


def _dataset(options: argparse.Namespace) -> MaskedFiles:
    if options.masks is None:
        return MaskedImageTable(
            options.images,
            options.root,
            missing="skip-penalty",
            binarize=options.binarize,
            resize_masks=options.resize_masks,
        )
    return MaskedImageFolder(
        options.images,
        options.masks,
        mask_suffix=options.mask_suffix,
        allow_empty=True,
        missing="skip-penalty",
        binarize=options.binarize,
        resize_masks=options.resize_masks,
    )


def _binarize(text: str) -> Binarize:
    if text in get_args(Binarization):
        return text  # type: ignore[return-value]
    try:
        return {int(value) for value in text.split(",")}
    except ValueError:
        words = ", ".join(get_args(Binarization))
        raise argparse.ArgumentTypeError(f"must be one of {words}, or numbers as in 1,3; got {text!r}") from None
