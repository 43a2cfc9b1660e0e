"""Read all images and masks, and print the foreground share by class, notes and problems.

Exit status: 0 without problems, 1 with problems, 2 for wrong usage.
"""

# the IMAGES and MASKS options that several subcommands share are here too
import argparse
import os
import sys
from typing import Any, get_args

from zennit_isnet.data import check_masks
from zennit_isnet.data.annotations import LabelSource
from zennit_isnet.data.decoding import Binarization, Binarize
from zennit_isnet.data.files import MaskedFiles
from zennit_isnet.data.mask_check import ProblemKind
from zennit_isnet.data.opening import is_annotated, open_masked
from zennit_isnet.errors import InvalidValueError

VALUES = f"{', '.join(get_args(Binarization))}, or values such as 1,3"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    add_source(parser, required=True)
    kinds = get_args(ProblemKind)
    allow = f"problems that do not change the exit status; repeatable: {', '.join(kinds)}"
    parser.add_argument("--allow", metavar="KIND", action="append", choices=kinds, default=[], help=allow)
    parser.add_argument("--workers", type=int, help="threads that read files; default: the number of CPUs, at most 8")


def run(options: argparse.Namespace) -> int:
    """Check, print the report, and return the exit status."""
    check_source(options)
    try:
        dataset = open_source(options)
    except InvalidValueError as error:
        sys.stdout.write(f"{error}\n")
        return 1
    report = check_masks(dataset, workers=options.workers, progress=sys.stderr.isatty())
    sys.stdout.write(f"{report}\n")
    return int(any(problem.kind not in options.allow for problem in report.problems))


def add_source(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Add IMAGES, MASKS and their reading options to a parser."""
    images = "folder with a folder per class, CSV file, or annotations: COCO, CVAT or a LabelMe folder"
    parser.add_argument("images", metavar="IMAGES", nargs=None if required else "?", help=images)
    parser.add_argument(
        "masks", metavar="MASKS", nargs="?", help="parallel folder of masks; only if IMAGES is a folder"
    )
    root = "folder that paths in the CSV file or annotations are relative to; default: the file's folder"
    parser.add_argument("--root", help=root)
    columns = "names of the columns image, mask and label in the CSV file, such as '{image: file}'"
    parser.add_argument("--columns", type=_columns, help=columns)
    labels = "labels of annotated images: their categories or folder names; default: category"
    parser.add_argument("--labels", choices=get_args(LabelSource), help=labels)
    parser.add_argument("--mask-suffix", default="", help='suffix of mask names after the image name, such as "_mask"')
    parser.add_argument("--binarize", type=_binarize, default="strict", help=f"foreground: {VALUES}; default: strict")
    parser.add_argument("--resize-masks", action="store_true", help="resize masks to the size of their images")


def check_source(options: argparse.Namespace) -> None:
    """Exit with a usage message unless IMAGES, MASKS and their options fit together."""
    error = options.parser.error
    for name in ("columns", "split"):
        if getattr(options, name, None) is not None and not is_table(options):
            error(f"--{name} is only for a CSV file")
    if _is_annotated(options):
        if options.masks is not None or options.mask_suffix or options.binarize != "strict":
            error("annotations contain the masks: remove MASKS, --mask-suffix and --binarize")
    elif options.labels is not None:
        error("--labels is only for annotations")
    elif os.path.isdir(options.images):
        if options.masks is None or options.root is not None:
            error("a folder of images needs MASKS, and does not take --root")
        if not os.path.isdir(options.masks):
            error(f"MASKS must be an existing folder; got {options.masks}")
    elif not os.path.isfile(options.images):
        error(f"IMAGES must be an existing folder, CSV file or annotation file; got {options.images}")
    elif options.masks is not None or options.mask_suffix:
        error("a CSV file names its masks: remove MASKS and --mask-suffix")
    if options.workers is not None and options.workers < 0:
        error(f"--workers must not be negative; got {options.workers}")


def open_source(options: argparse.Namespace, **more: Any) -> MaskedFiles:
    """Return the data set; `more` is passed to every kind. Class folders may be empty, and masks may be missing."""
    where = {"root": options.root, "columns": options.columns}
    where |= {"mask_suffix": options.mask_suffix, "labels": options.labels}
    how = {"missing": "skip-penalty", "binarize": options.binarize, "resize_masks": options.resize_masks}
    return open_masked(options.images, options.masks, **where, **how, **more)


def is_table(options: argparse.Namespace) -> bool:
    """Whether IMAGES is a CSV file."""
    return not os.path.isdir(options.images) and not is_annotated(options.images)


def _is_annotated(options: argparse.Namespace) -> bool:
    exists = os.path.exists(options.images)
    return exists and not (os.path.isdir(options.images) and options.masks) and is_annotated(options.images)


def _columns(text: str) -> dict[str, str]:
    """Parse a mapping such as ``{image: file, label: finding}``, without YAML, which only training installs."""
    pairs = [pair.partition(":") for pair in text.strip().removeprefix("{").removesuffix("}").split(",")]
    found = {ours.strip(" '\""): theirs.strip(" '\"") for ours, _, theirs in pairs}
    if not all(found) or not all(found.values()):
        raise argparse.ArgumentTypeError(f"must be a mapping such as '{{image: file}}'; got {text!r}")
    return found


def _binarize(text: str) -> Binarize:
    if text in get_args(Binarization):
        return text  # type: ignore[return-value]
    try:
        return {int(value) for value in text.split(",")}
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be one of {VALUES}; got {text!r}") from None
