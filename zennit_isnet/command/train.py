"""Train a classifier with foreground masks so that it does not rely on backgrounds, and test it.

  zennit-isnet train --data.images photos --data.masks masks --model.architecture resnet50 --model.weights DEFAULT
  zennit-isnet train --data.images xrays.csv --data.group patient --output results/xrays --config xrays.yaml
  zennit-isnet train --data.benchmark patch --trainer.max_epochs 10
  zennit-isnet train --config results/train/config.yaml --resume
  zennit-isnet test --config results/train/config.yaml --data.tests '{other hospital: [other.csv]}'

A copy is first trained without the penalty, to measure the relevance range. Files in OUTPUT: config.yaml, last.ckpt,
best.ckpt, log.csv, curves.png, heatmaps/, test figures (tests.md, tests.json) and scores of all test images
(scores.csv). The best epoch is chosen on validation images with backgrounds from other classes.

Exit status: 0 if finished, 1 if interrupted and resumable, 2 for wrong usage or data.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import DefaultHelpFormatter
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import SIGTERMException

from zennit_isnet.architectures import RUN, RunSettings, make_model, read_run
from zennit_isnet.errors import InvalidValueError, ISNetError
from zennit_isnet.training.callbacks import Heatmaps, History, checkpoints
from zennit_isnet.training.classifier import ISNetClassifier, calibrate
from zennit_isnet.training.data import MaskedImages
from zennit_isnet.training.report import table, write_results

FREE = {
    *("output", "resume", "panel", "config", "data.workers", "data.tests"),
    *(f"trainer.{name}" for name in ("max_epochs", "max_time", "accelerator", "strategy", "devices", "num_nodes")),
    *(f"trainer.{name}" for name in ("logger", "callbacks", "profiler", "log_every_n_steps", "default_root_dir")),
    *(f"trainer.enable_{name}" for name in ("progress_bar", "model_summary", "checkpointing", "autolog_hparams")),
}
"""Settings that a resumed run may change: how long, where and how it runs."""


class _Formatter(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keeps the line breaks of the description."""


class NamedClassifier(ISNetClassifier):
    """`ISNetClassifier` for a model given by name.

    Parameters
    ----------
    classes : sequence of str
        Names of the classes.
    architecture : str, default="resnet18"
        See `make_model`: a torchvision classifier, ``timm:name`` or ``module:function``.
    weights : str, optional
        See `make_model`: ``DEFAULT``, the name of torchvision weights, or a file.
    channels : int, default=3
        Of the images.
    **options
        Of `ISNetClassifier`.
    """

    def __init__(
        self,
        classes: Sequence[str],
        architecture: str = "resnet18",
        weights: str | None = None,
        channels: int = 3,
        **options: Any,
    ) -> None:
        super().__init__(make_model(architecture, len(classes), weights, channels=channels), **options)
        self.architecture, self.classes = architecture, list(classes)
        if self.class_weights is not None and len(self.class_weights) != len(self.classes):
            legal = f"one weight for each of the classes {', '.join(self.classes)}, in this order"
            raise InvalidValueError(f"class_weights must have {legal}; got {self.class_weights.tolist()}")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the settings that `test`, `audit` and `explain` need for the model and its images."""
        super().on_save_checkpoint(checkpoint)
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        checkpoint[RUN] = self.run_settings(data)._asdict()

    def run_settings(self, data: Any) -> RunSettings:
        """Return the model and the images that it takes."""
        images = {name: getattr(data, name) for name in ("multi_label", "size", "channels", "mean", "std", "fit")}
        return RunSettings(self.architecture, self.classes, **images)


class TrainCommand(LightningCLI):
    """Lightning's command line for our classifier and data, with options for a complete run."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of the run, and link the options of its parts."""
        parser.add_argument("--output", type=str, default="results/train", help="folder for all results")
        parser.add_argument(
            "--resume", action="store_true", help="resume from OUTPUT/last.ckpt, or start if there is none"
        )
        parser.add_argument(
            "--plain_epochs", type=int, default=5, help="epochs of the copy that is measured; 0: measure the model"
        )
        parser.add_argument("--panel", type=int, default=8, help="images drawn with heatmaps after each epoch; 0: none")
        parser.link_arguments("output", "trainer.default_root_dir")
        parser.link_arguments("data.channels", "model.channels")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        parser.link_arguments("seed_everything", "model.seed", compute_fn=int)
        parser.link_arguments("data.classes", "model.classes", apply_on="instantiate")

    def trainer_in(self, folder: Path, *more: Any, **options: Any) -> Trainer:
        """Return a trainer that writes to a folder."""
        callbacks = [*more, History(folder), Heatmaps(folder / "heatmaps", self.config.panel), *checkpoints(folder)]
        trainer: Trainer = self.instantiate_trainer(default_root_dir=folder, callbacks=callbacks, **options)
        return trainer

    def settings(self, **changes: Any) -> dict[str, Any]:
        """Return all settings as plain values, with some changed."""
        config = self.config.clone()
        for name, value in changes.items():
            config[name] = value
        return dict(yaml.safe_load(self.parser.dump(config, skip_check=True)))


def main(arguments: Sequence[str], *, testing: bool = False) -> int:
    """Train and test, or test only, and return the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        with warnings.catch_warnings():
            # Lightning's messages about its own internals
            internal = ("LightningCLI's args parameter", "Checkpoint directory .* is not empty", ".*LeafSpec")
            # the figures are already those of all processes
            for text in (*internal, r"It is recommended to use `self\.log\(.*sync_dist=True"):
                warnings.filterwarnings("ignore", text)
            _run(arguments, testing)
    except (SIGTERMException, KeyboardInterrupt):
        sys.stderr.write("interrupted; add --resume to the same command to continue from the last finished epoch\n")
        return 1
    except (ISNetError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _run(arguments: Sequence[str], testing: bool) -> None:
    cli = TrainCommand(
        NamedClassifier,
        MaskedImages,
        run=False,
        args=list(arguments),
        seed_everything_default=0,
        save_config_callback=None,
        auto_configure_optimizers=False,
        trainer_defaults={"max_epochs": 20, "gradient_clip_val": 1.0, "num_sanity_val_steps": 0},
        parser_kwargs={
            "description": __doc__,
            "formatter_class": _Formatter,
            "prog": f"zennit-isnet {'test' if testing else 'train'}",
        },
    )
    folder = Path(cli.config.output)
    trainer = cli.trainer_in(folder, *(cli.config_init.trainer.callbacks or []))
    if testing and not cli.datamodule.tests:
        raise InvalidValueError("no test set given: add --data.tests, such as '{other hospital: [other.csv]}'")
    if testing:
        _check_trained(folder / "best.ckpt", cli.model.run_settings(cli.datamodule))
    else:
        _train(cli, folder, trainer)
    if cli.datamodule.tests:
        trainer.test(cli.model, cli.datamodule, ckpt_path=folder / "best.ckpt", verbose=False)
        if trainer.is_global_zero:
            written = folder / "test" if testing else folder
            sys.stdout.write(table(write_results(written, cli.model.results, cli.datamodule)))


def _train(cli: TrainCommand, folder: Path, trainer: Trainer) -> None:
    last, plain_last = folder / "last.ckpt", folder / "plain" / "last.ckpt"
    resume = bool(cli.config.resume)
    if not resume and (last.exists() or plain_last.exists()):
        raise InvalidValueError(f"{folder} contains an earlier run: add --resume, or choose another --output")
    settings, written = cli.settings(resume=False), folder / "config.yaml"
    if resume and written.exists():
        _check_same(yaml.safe_load(written.read_text(encoding="utf-8")), settings, folder)
    if trainer.is_global_zero:
        folder.mkdir(parents=True, exist_ok=True)
        written.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    begun = resume and last.exists()
    if cli.model.weight > 0 and not begun:
        epochs = cli.config.plain_epochs
        plain = cli.trainer_in(folder / "plain", max_epochs=epochs, logger=False) if epochs else None
        calibrate(cli.model, cli.datamodule, plain, ckpt_path=plain_last if resume and plain_last.exists() else None)
    trainer.fit(cli.model, cli.datamodule, ckpt_path=last if begun else None)
    score: Any = getattr(trainer.checkpoint_callback, "best_model_score", None)
    if trainer.is_global_zero and score is not None:
        reached = f"{100 * float(score):.1f} % balanced accuracy on backgrounds of other classes"
        sys.stdout.write(f"best epoch: {reached} (validation); written to {folder}\n")


def _check_same(former: Any, settings: Any, folder: Path) -> None:
    """Raise if settings that decide what a run computes have changed."""
    if told := _changes(_flat(former), _flat(settings)):
        raise InvalidValueError(
            f"{folder} holds a run with other settings: {told}. Use its settings, or another --output"
        )


def _check_trained(checkpoint: Path, settings: RunSettings) -> None:
    """Raise if a model was trained with other classes or for other images than it is tested on."""
    run = read_run(checkpoint)
    if run is not None and (told := _changes(run._asdict(), settings._asdict())):
        remedy = f"Test with --config {checkpoint.parent / 'config.yaml'}, and leave these settings as they are"
        raise InvalidValueError(f"{checkpoint} was trained with other settings: {told}. {remedy}")


def _changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Say which settings have changed, three at most; those in `FREE` may."""
    changed = [name for name in sorted(before.keys() | now) if name not in FREE and before.get(name) != now.get(name)]
    return "; ".join(f"{name} was {before.get(name)!r} and is {now.get(name)!r}" for name in changed[:3])


def _flat(settings: Any) -> dict[str, Any]:
    """Settings by dotted name."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        parts = value if name in ("trainer", "model", "data") else {"": value}
        found |= {f"{name}.{part}".rstrip("."): one for part, one in parts.items()}
    return found
