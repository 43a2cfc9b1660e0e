"""``zennit-isnet check-data``: whether images and masks fit together, before a training with them."""

from __future__ import annotations

import argparse
import sys
from typing import Any, get_args

from zennit_isnet.command.source import add_source, check_source, open_source
from zennit_isnet.data import check_masks
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
    add_source(parser, required=True)
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
    check_source(options)
    try:
        dataset = open_source(options)
    except InvalidValueError as error:
        sys.stdout.write(f"{error}\n")
        return PROBLEMS
    report = check_masks(dataset, workers=options.workers, progress=sys.stderr.isatty())
    sys.stdout.write(f"{report}\n")
    return PROBLEMS if any(problem.kind not in options.allow for problem in report.problems) else CLEAN
