"""One training, plain or with the penalty: its parts, its steps, and where it stands."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from training.errors import DivergenceError
from training.optimization import PenaltyWeight, classification_loss, gradient_norm, make_optimizer, make_schedule
from training.processes import Processes
from training.randomness import random_state, seed_generators, set_random_state
from training.samples import TrainingBatches, loader
from zennit_isnet import ISNetRegularizer
from zennit_isnet.balance import GradientNorms
from zennit_isnet.swap import BackgroundSwap

SUMS = ("loss", "classification", "penalty", "background_share")
AMP_DTYPES = {None: None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Phase:
    """A training that can stop after any optimizer step and go on in another process as if it had not.

    Parameters
    ----------
    name : str
        ``"plain"`` or ``"isnet"``, for logs and checkpoints.
    model : Module
        What is trained.
    data : Dataset
        The training set.
    options : Namespace
        The command line.
    processes : Processes
        Those that train together.
    epochs : int
        Of the whole phase.
    wrapped : Module
        The model as it is called: itself, or in `DistributedDataParallel`.
    regularizer : ISNetRegularizer, optional
        Of the wrapped model; None for plain training.

    Attributes
    ----------
    epoch, step : int
        Epochs done, and optimizer steps done in the epoch after them.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        data: Any,
        options: argparse.Namespace,
        processes: Processes,
        *,
        epochs: int,
        wrapped: nn.Module,
        regularizer: ISNetRegularizer | None = None,
    ) -> None:
        self.name, self.model, self.wrapped, self.regularizer = name, model, wrapped, regularizer
        self.processes, self.epochs = processes, epochs
        self.accumulate, self.clip, self.log_every = options.accumulate, options.clip, options.log_every
        self.weight = PenaltyWeight(options.weight if regularizer else "0")
        self.smoothing = options.label_smoothing
        self.amp = AMP_DTYPES[options.amp]
        self.batches = TrainingBatches(data, options.batch_size, options.seed, processes)
        self.loader = loader(data, self.batches, seed=options.seed, workers=options.workers, device=processes.device)
        self.steps = math.ceil(len(self.batches) / self.accumulate)
        self.optimizer = make_optimizer(model, options)
        self.schedule = make_schedule(self.optimizer, options, epochs=epochs, steps=self.steps)
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=self.amp == torch.float16)
        generator = torch.Generator().manual_seed(options.seed + processes.rank)
        self.swap = BackgroundSwap(options.swap_probability, generator=generator) if regularizer else None
        self.epoch = self.step = 0
        # a sum and a count for each of SUMS: images without a mask have no share
        self.sums = torch.zeros(2, len(SUMS), dtype=torch.float64, device=processes.device)
        seed_generators(options.seed + processes.rank)

    @property
    def total_steps(self) -> int:
        """Optimizer steps since the beginning of the phase."""
        return self.epoch * self.steps + self.step

    def groups(self) -> Iterator[list[Any]]:
        """Batches of each optimizer step that is left in this epoch; the last step may have fewer."""
        self.batches.epoch, self.batches.start = self.epoch, self.step * self.accumulate
        group: list[Any] = []
        for batch in self.loader:
            group.append(batch)
            if len(group) == self.accumulate:
                yield group
                group = []
        if group:
            yield group

    def take_step(self, group: list[Any]) -> None:
        """Take one optimizer step with the mean gradient of some batches."""
        self.model.train()
        for number, batch in enumerate(group, start=1):
            # gradients of the processes meet once for each optimizer step
            alone = self.processes.count > 1 and number < len(group)
            with self.wrapped.no_sync() if alone else nullcontext():
                self.scaler.scale(self.loss(batch) / len(group)).backward()
        self.scaler.unscale_(self.optimizer)
        gradient_norm(self.model, self.clip)
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.scaler.get_scale() >= scale:  # else the step was skipped, since a gradient was infinite
            self.schedule.step()
        self.step += 1

    def loss(self, batch: Any) -> Tensor:
        """Return ``(1 − P) · classification + P · λ · penalty`` of a batch, the gradients in proportion."""
        device = self.processes.device
        images, masks, labels, has_mask = (part.to(device, non_blocking=True) for part in batch)
        weight = self.weight.at(self.epoch)
        if self.swap is not None and self.swap.probability > 0:
            images = self.swap(images, masks, has_mask)
        with torch.autocast(device.type, self.amp) if self.amp else nullcontext():
            if self.regularizer is None or weight == 0:
                loss = classification = classification_loss(self.wrapped(images), labels, self.smoothing)
            else:
                self.regularizer.loss.measuring = self.step % self.log_every == 0
                output, penalty = self.regularizer(images, masks, has_mask)
                classification = classification_loss(output, labels, self.smoothing)
                loss = self.regularizer.balanced(classification, penalty, weight)
                self._add("penalty", penalty)
                for share in self.regularizer.loss.take_shares():
                    self._add("background_share", share, share.isfinite())
        self._add("loss", loss)
        self._add("classification", classification)
        return loss

    def means(self) -> dict[str, float]:
        """Return the means of this epoch so far in this process; only what there is.

        Raises
        ------
        DivergenceError
            If the loss is no longer finite.
        """
        return self._means(self.sums.cpu())

    def means_of_all(self) -> dict[str, float]:
        """Return the means of this epoch so far over all processes."""
        return self._means(self.gathered_sums())

    def balance(self) -> dict[str, float]:
        """Return the latest norms of both gradients and the factor of the penalty; nothing before a measurement."""
        if self.regularizer is None or self.regularizer.balance.norms is None:
            return {}
        norms, factor = self.regularizer.balance.norms, self.regularizer.balance.factor
        return {
            "gradient_classification": norms.classification,
            "gradient_penalty": norms.penalty,
            "penalty_factor": factor,
        }

    def gathered_sums(self) -> Tensor:
        """Return the sums of all processes."""
        return torch.stack(self.processes.gather(self.sums.cpu())).sum(0)

    def next_epoch(self) -> None:
        """Begin another epoch."""
        self.epoch, self.step = self.epoch + 1, 0
        self.sums.zero_()

    def state(self) -> dict[str, Any]:
        """Return everything that `load_state` needs; all processes must call it together."""
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        own = {name: part.state_dict() for name, part in self._own_parts().items()}
        norms = None if self.regularizer is None else self.regularizer.balance.norms
        return {
            "phase": self.name,
            "epoch": self.epoch,
            "step": self.step,
            "sums": self.gathered_sums(),
            "gradient_norms": norms and list(norms),
            **parts,
            "processes": self.processes.gather({"random": random_state(), **own}),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken, in a phase that was made alike."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        own = state["processes"][self.processes.rank]
        for name, part in self._own_parts().items():
            part.load_state_dict(own[name])
        if self.regularizer is not None and state["gradient_norms"]:
            self.regularizer.balance.norms = GradientNorms(*state["gradient_norms"])
        self.epoch, self.step = state["epoch"], state["step"]
        # the sums are those of all processes
        self.sums.copy_(state["sums"] if self.processes.main else torch.zeros_like(self.sums))
        set_random_state(own["random"])

    def _parts(self) -> dict[str, Any]:
        """What has the same state in all processes."""
        return {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule, "scaler": self.scaler}

    def _own_parts(self) -> dict[str, Any]:
        """What draws its own random numbers in each process."""
        return {} if self.regularizer is None else {"regularizer": self.regularizer, "swap": self.swap}

    def _means(self, sums: Tensor) -> dict[str, float]:
        means = dict(zip(SUMS, (sums[0] / sums[1]).tolist(), strict=True))
        if sums[1, 0] > 0 and not math.isfinite(means["loss"]):
            raise DivergenceError(
                f"the loss is {means['loss']} in epoch {self.epoch + 1}, step {self.step} of the {self.name} training; "
                "try a lower --lr, or a --clip"
            )
        return {name: mean for name, mean in means.items() if math.isfinite(mean)}

    def _add(self, name: str, values: Tensor, defined: Tensor | None = None) -> None:
        """Add values to a sum, without a wait for the device."""
        column = SUMS.index(name)
        values = values.detach().double()
        defined = torch.ones_like(values, dtype=torch.bool) if defined is None else defined
        self.sums[0, column] += torch.where(defined, values, 0).sum()
        self.sums[1, column] += defined.sum()
