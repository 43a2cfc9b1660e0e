r"""Train a torchvision classifier with the heatmap loss, on your images and masks or on the built-in benchmark.

The range of the relevance is measured on a plainly trained copy first; then the model is trained with the penalty from
its first step. Everything is written to --output: logs, checkpoints, pictures, and a report that shows the accuracy on
swapped backgrounds beside the relevance on the background.

    python examples/train.py --output results/digits
    python examples/train.py --data folder --images photos --masks masks --model resnet50 \
        --weights ResNet50_Weights.DEFAULT --output results/photos
    torchrun --nproc-per-node=2 examples/train.py --device cuda --output results/two

The same command with --resume goes on after an interruption, to the same weights. SIGTERM and Ctrl-C write a checkpoint
at the next step and end with exit code 0.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from training.errors import CheckpointError, DivergenceError, Interrupted
from training.files import file_sets
from training.interruption import stop_on_signals
from training.logs import read_csv
from training.models import check_model_name, load_weights, make_classifier
from training.optimization import warn_about_adamw
from training.options import parse
from training.pictures import curves
from training.processes import Processes, joined_processes
from training.report import Picture, write_report
from training.run import Run
from training.sets import Sets, benchmark_sets

from zennit_isnet.data import check_masks
from zennit_isnet.errors import InvalidValueError, ISNetError

logger = logging.getLogger("train")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, or test, and write the report.

    Raises
    ------
    Interrupted
        If a signal asked for a stop; a checkpoint is written then.
    ISNetError, CheckpointError, DivergenceError
        With a message for the user.
    """
    options = parse(arguments, __doc__)
    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    with stop_on_signals() as stop, joined_processes(options.device) as processes:
        _prepare(options, processes)
        if options.check:
            options.missing = options.empty = "skip-penalty"  # to find them all
        sets = benchmark_sets(options) if options.data == "background-bias" else file_sets(options)
        if options.check:
            return _check(sets)
        if sets.multi_label and options.formulation == "selective":
            raise InvalidValueError("--formulation selective explains a softmax; several labels need stochastic")
        run = Run(options, sets, processes, stop)
        if options.test_only:
            model = make_classifier(options.model, len(sets.classes)).model
            load_weights(model, Path(options.weights or options.output / "best.pt"))
            model.to(processes.device)
        else:
            model = run.train()
        _report(run, model)


def _prepare(options: argparse.Namespace, processes: Processes) -> None:
    """Settle what holds for the whole process, and refuse early what cannot work."""
    logging.basicConfig(level=logging.INFO if processes.main else logging.WARNING, format="%(message)s")
    check_model_name(options.model)
    if options.sync_batchnorm and processes.device.type != "cuda":
        raise InvalidValueError(f"--sync-batchnorm needs CUDA, got --device {processes.device}")
    if options.optimizer == "adamw" and processes.main:
        warn_about_adamw()
    if options.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False


def _check(sets: Sets) -> None:
    """Print what is wrong with images and masks; end with exit code 1 if there is anything."""
    reports = {name: check_masks(data) for name, data in sets.checkable.items()}
    for name, report in reports.items():
        print(f"{name} images\n{report}\n")
    if not all(report.ok for report in reports.values()):
        raise SystemExit(1)


def _report(run: Run, model: nn.Module) -> None:
    """Test the model on everything there is, and write the report."""
    outcomes = {name: run.evaluate(model, data) for name, data in run.test_sets.items()}
    if not run.processes.main:
        return
    history = run.history or read_csv(run.folder / "log.csv")
    pictures = []
    if (heatmaps := run.picture(model)) is not None:
        caption = "Images, foreground masks, and the relevance of the labels (each map scaled by itself)."
        pictures.append(Picture("heatmaps", heatmaps, caption, "Rows of images, foreground masks and heatmaps"))
    if history:
        caption = "Losses, accuracy and background share of each epoch with the penalty."
        pictures.append(Picture("curves", curves(history), caption, "Curves over the epochs"))
    write_report(run.folder, outcomes, run.sets.classes, run.settings, pictures)
    logger.info("written to %s: report.html, report.md, best.pt", run.folder)


if __name__ == "__main__":
    try:
        main()
    except Interrupted:
        logger.warning("stopped; the same command with --resume goes on")
    except (ISNetError, CheckpointError, DivergenceError) as error:
        sys.exit(f"error: {error}")
