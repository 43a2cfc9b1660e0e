"""The command ``zennit-isnet``. It is outside the package so that its help does not import PyTorch."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version

COMMANDS = {
    "audit": "report whether a model relies on the background",
    "check-data": "check images and masks before training",
    "explain": "draw heatmaps of images",
    "train": "train a classifier with the heatmap loss and test it",
    "test": "test a trained classifier, also on other data",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    arguments : sequence of str, optional
        Without the command's own name. If None, those of the process.

    Returns
    -------
    int
        Exit status of the subcommand. Wrong usage exits with status 2.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from zennit_isnet_command import main
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for kind in ("images", "masks"):
    ...         (Path(folder) / kind / "cat").mkdir(parents=True)
    ...         picture = Image.linear_gradient("L") if kind == "images" else Image.new("1", (256, 256), 1)
    ...         picture.save(Path(folder) / kind / "cat" / "1.png")
    ...     status = main(["check-data", f"{folder}/images", f"{folder}/masks", "--allow", "all-foreground"])
    class  images  missing  empty  full    mean     min     max  AUC
    cat         1        0      0     1  100.0%  100.0%  100.0%    –
    all         1        0      0     1  100.0%  100.0%  100.0%    –
    1 problem:
      - all-foreground: mask ...1.png has no background
    >>> status
    0
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    name = next(iter(arguments), "")
    if name in ("train", "test"):
        # Lightning parses what follows
        from zennit_isnet.errors import MissingDependencyError, import_optional

        try:
            for package in ("lightning", "jsonargparse"):
                import_optional(package, package=package, extra="train")
            train = import_module("zennit_isnet.command.train")
        except MissingDependencyError as error:
            sys.stderr.write(f"{error}\n")
            return 2
        return int(train.main(arguments[1:], testing=name == "test"))
    parser = argparse.ArgumentParser(prog="zennit-isnet", description="Tools for training with the ISNet heatmap loss.")
    parser.add_argument("--version", action="version", version=f"zennit-isnet {version('zennit-isnet')}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command, purpose in COMMANDS.items():
        if command != name:
            subparsers.add_parser(command, help=purpose)
            continue
        module = import_module(f"zennit_isnet.command.{command.replace('-', '_')}")
        subparser = subparsers.add_parser(
            command, help=purpose, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run, parser=subparser)
    options = parser.parse_args(arguments)
    return int(options.run(options))
