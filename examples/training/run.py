"""A run: its phases one after the other, its checkpoints, and what happens between epochs."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from training import checkpoints
from training.errors import Interrupted
from training.evaluation import Outcome, evaluate
from training.interruption import StopRequest
from training.logs import Logs
from training.models import Classifier, load_weights, make_classifier
from training.options import settings_of
from training.penalty import make_composite, make_regularizer
from training.phase import Phase
from training.pictures import heatmap_picture, save_picture
from training.processes import Processes
from training.ranges import load_ranges, plain_epochs, save_ranges
from training.resuming import last_checkpoint
from training.samples import evaluation_batches, loader
from training.sets import Sets
from zennit_isnet import ISNetRegularizer, LRPAttribution
from zennit_isnet.calibration import RelevanceRange

logger = logging.getLogger(__name__)


class Run:
    """A training from its first step, or from a checkpoint, to its best model.

    Parameters
    ----------
    options : Namespace
        The command line.
    sets : Sets
        The data.
    processes : Processes
        Those that train together.
    stop : StopRequest
        Looked at after each step.
    """

    def __init__(self, options: argparse.Namespace, sets: Sets, processes: Processes, stop: StopRequest) -> None:
        self.options, self.sets, self.processes, self.stop = options, sets, processes, stop
        self.folder: Path = options.output
        self.settings = {**settings_of(options), "classes": len(sets.classes), "process_count": processes.count}
        self.box = sets.box if options.box else None
        self.attribution = LRPAttribution(make_composite(options, self.box))
        self.history: list[dict[str, Any]] = []
        self.best_score = -1.0
        self.steps_before = 0
        self.logs: Logs | None = None
        self.resumed: dict[str, Any] | None = None

    @property
    def test_sets(self) -> dict[str, Any]:
        """What the report has figures of."""
        return {"validation": self.sets.validation, **self.sets.tests}

    def train(self) -> nn.Module:
        """Train and return the best model.

        Raises
        ------
        Interrupted
            If a stop was requested; a checkpoint is written then.
        CheckpointError
            If a checkpoint cannot be written, or the one to resume from cannot be used.
        CalibrationError
            If the range of the relevance cannot be measured.
        DivergenceError
            If the loss is no longer finite.
        """
        self._resume()
        if self.processes.main:
            self.logs = Logs(self.folder, self.resumed["total_steps"] if self.resumed else 0)
        try:
            classifier, wrapped = self._classifier()
            ranges = self._ranges(classifier, wrapped)
            if self.options.calibrate_on == "copy":
                classifier, wrapped = self._classifier()
            regularizer = self._regularizer(wrapped)
            regularizer.ranges = ranges
            self._fit("isnet", classifier, wrapped, regularizer)
        finally:
            if self.logs is not None:
                self.logs.close()
        return self.best_model(classifier.model)

    def best_model(self, model: nn.Module) -> nn.Module:
        """Return the model with the weights of the best epoch."""
        path = self.folder / "best.pt"
        if self.processes.main:
            load_weights(model, path)
        model.load_state_dict(self.processes.from_main(model.state_dict()))
        return model

    def evaluate(self, model: nn.Module, data: Any) -> Outcome:
        """Return the outcome of a model on a data set, over all processes."""
        batches = self._evaluation_loader(data)
        return evaluate(model, self._until_stopped(batches), len(self.sets.classes), self.attribution, self.processes)

    def picture(self, model: nn.Module) -> Figure | None:
        """Draw heatmaps of some validation images that have masks."""
        return heatmap_picture(model, self.attribution, self.sets, self.options.panel, self.processes.device)

    def _classifier(self) -> tuple[Classifier, nn.Module]:
        """Return the model as it is before any training, by itself and as it is called."""
        torch.manual_seed(self.options.seed)
        made = make_classifier(self.options.model, len(self.sets.classes), self.options.weights)
        if self.options.sync_batchnorm:
            made = Classifier(nn.SyncBatchNorm.convert_sync_batchnorm(made.model), made.trained_head)
        made.model.to(self.processes.device)
        return made, self.processes.wrap(made.model)

    def _regularizer(self, wrapped: nn.Module) -> ISNetRegularizer:
        # each process draws by itself what is explained
        return make_regularizer(wrapped, self.options, self.box, seed=self.options.seed + self.processes.rank)

    def _ranges(self, classifier: Classifier, wrapped: nn.Module) -> dict[str, RelevanceRange]:
        """Return the range that is given, or measure it on the model, plainly trained before."""
        if self.resumed is not None and self.resumed["phase"] == "isnet":
            return {}  # the checkpoint has them
        if plain_epochs(self.options, classifier):
            self._fit("plain", classifier, wrapped)
        if self.options.ranges is not None:
            return load_ranges(self.options.ranges, self.settings)
        regularizer = self._regularizer(wrapped)
        # in DistributedDataParallel each process measures its share, and all get the range of all images
        batches = self._until_stopped(self._evaluation_loader(self.sets.validation))
        ranges = regularizer.calibrate(batches, progress=self.processes.main)
        if self.processes.main:
            save_ranges(self.folder / "ranges.json", regularizer, self.settings)
        for layer, measured in ranges.items():
            logger.info("range of the relevance at %s: %.4g to %.4g", layer, measured.c1, measured.c2)
        return ranges

    def _fit(
        self, name: str, classifier: Classifier, wrapped: nn.Module, regularizer: ISNetRegularizer | None = None
    ) -> None:
        """Train through one phase, from its first step or from the checkpoint."""
        epochs = self.options.epochs if regularizer else plain_epochs(self.options, classifier)
        phase = Phase(
            name,
            classifier.model,
            self.sets.train,
            self.options,
            self.processes,
            epochs=epochs,
            wrapped=wrapped,
            regularizer=regularizer,
        )
        if self.resumed is not None:
            phase.load_state(self.resumed)
            self.resumed = None
        while phase.epoch < phase.epochs:
            self._train_epoch(phase)
            self._save(phase)  # before an evaluation that may take long
            self._end_epoch(phase)
            self._save(phase)
            if self.processes.any(self.stop.received):
                raise Interrupted
        self.steps_before += phase.total_steps

    def _train_epoch(self, phase: Phase) -> None:
        with tqdm(
            total=phase.steps,
            initial=phase.step,
            desc=f"{phase.name} {phase.epoch + 1}/{phase.epochs}",
            unit="step",
            disable=not self.processes.main,
        ) as bar:
            for group in phase.groups():
                phase.take_step(group)
                bar.update()
                if phase.step % self.options.log_every == 0:
                    shown = phase.means() | phase.balance()
                    bar.set_postfix({name: f"{value:.3g}" for name, value in shown.items()}, refresh=False)
                    if self.logs is not None:
                        self.logs.step(
                            phase.name, self._total_steps(phase), {**shown, "lr": phase.schedule.get_last_lr()[0]}
                        )
                every = self.options.checkpoint_every
                stopping = self.processes.any(self.stop.received)
                if stopping or (every and phase.total_steps % every == 0):
                    self._save(phase)
                if stopping:
                    raise Interrupted

    def _end_epoch(self, phase: Phase) -> None:
        self.processes.share_buffers(phase.model)
        figures = self.evaluate(phase.model, self.sets.validation).figures()
        row = {"phase": phase.name, "epoch": phase.epoch + 1, "weight": phase.weight.at(phase.epoch)}
        row |= {"lr": phase.schedule.get_last_lr()[0], **phase.means_of_all(), **phase.balance()}
        self.history.append(row | {f"val_{name}": value for name, value in figures.items()})
        if phase.name == "isnet" and figures["score"] >= self.best_score:
            self.best_score = figures["score"]
            if self.processes.main:
                best = {"model": phase.model.state_dict(), "classes": self.sets.classes, "epoch": phase.epoch + 1}
                checkpoints.save(self.folder / "best.pt", {**best, "settings": self.settings})
        if self.logs is not None:
            picture = self.picture(phase.model)
            path = self.folder / "pictures" / f"{phase.name}_{phase.epoch + 1:03}.png"
            if picture is not None:
                save_picture(picture, path)
            self.logs.epoch(self.history, self._total_steps(phase), picture and path)
        logger.info(
            "%s %d: accuracy %.3f, on swapped backgrounds %.3f; background share %.3f",
            phase.name,
            phase.epoch + 1,
            figures["accuracy"],
            figures["swapped_accuracy"],
            figures["background_share"],
        )
        phase.next_epoch()

    def _save(self, phase: Phase) -> None:
        phase.means_of_all()  # a model that diverged must not replace a good one
        state = {
            **phase.state(),
            "settings": self.settings,
            "history": self.history,
            "best_score": self.best_score,
            "steps_before": self.steps_before,
            "total_steps": self._total_steps(phase),
        }
        if self.processes.main:
            checkpoints.save(self.folder / "last.pt", state)

    def _resume(self) -> None:
        path, wanted = self.folder / "last.pt", self.options.resume
        found = last_checkpoint(path, self.settings, resume=wanted) if self.processes.main else None
        state = self.processes.from_main(found)
        if state is not None:
            self.history, self.best_score = state["history"], state["best_score"]
            self.steps_before, self.resumed = state["steps_before"], state

    def _total_steps(self, phase: Phase) -> int:
        return self.steps_before + phase.total_steps

    def _evaluation_loader(self, data: Any) -> DataLoader[Any]:
        batches = evaluation_batches(data, self.options.batch_size, self.processes)
        return loader(data, batches, seed=0, workers=self.options.workers, device=self.processes.device)

    def _until_stopped(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Pass batches on. Several processes cannot stop here: each has its own number of batches."""
        for batch in batches:
            if self.stop.received and self.processes.count == 1:
                raise Interrupted
            yield batch
