"""A classifier with the heatmap loss as a `LightningModule`, and its calibration."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

from zennit_isnet.checks import check_number
from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.formulations import Formulation, Stochastic
from zennit_isnet.functional import background_share
from zennit_isnet.functional.heatmap import HeatmapLoss
from zennit_isnet.lrp.composite import LRPComposite
from zennit_isnet.lrp.flex import LRPFlex
from zennit_isnet.lrp.propagation import LRPAttribution
from zennit_isnet.model import main_logits
from zennit_isnet.regularizer import ISNetRegularizer
from zennit_isnet.swap import BackgroundFade, BackgroundSwap, swap_backgrounds
from zennit_isnet.training.data import MaskedData
from zennit_isnet.training.figures import donors_of_other_classes, figures
from zennit_isnet.training.seeding import seed_of

AUXILIARY_WEIGHT = 0.3
"""Weight of the loss of each auxiliary head (Szegedy et al., Going deeper with convolutions, CVPR 2015, section 5)."""


class ISNetClassifier(LightningModule):
    """A classifier trained with the heatmap loss.

    Batches are ``(images, masks, labels, has_mask, indices)``, as made by `MaskedData`. It logs ``loss``,
    ``classification``, ``penalty`` and the penalty's factor. For validation and test images it logs balanced accuracy,
    macro F1, AUROC, and for two classes sensitivity and specificity, with the prefix ``swapped_`` on backgrounds from
    other classes.

    Parameters
    ----------
    model : Module
        Returns logits ``(N, C)``, or a named tuple of logits and auxiliary heads.
    formulation : callable, optional
        See `ISNetRegularizer`. If None, `Stochastic`, with draws that depend on `seed` and epoch.
    composite : LRPComposite, optional
        See `ISNetRegularizer`.
    loss : HeatmapLoss, optional
        See `ISNetRegularizer`.
    layers : "auto" or sequence of str, default="auto"
        See `ISNetRegularizer`.
    every : int, default=1
        See `ISNetRegularizer`.
    weight : float, default=0.7
        P, the weight of the penalty; the classification loss has the weight 1 − P. 0 trains without the penalty, at
        plain cost.
    swap : float, default=0
        Probability that a training image gets another one's background, see `BackgroundSwap`.
    fade : float, default=0
        Probability that a training image's background is faded, see `BackgroundFade`.
    class_weights : sequence of float, optional
        Weights of the classes in the cross-entropy, such as their inverse frequencies; positive.
    optimizer : callable, optional
        ``optimizer(parameters) -> Optimizer``. If None, SGD with learning rate 0.05, Nesterov momentum 0.9 and weight
        decay 5e-4.
    one_cycle : bool, default=True
        Whether the learning rate is the maximum of a one-cycle schedule, in which momentum goes from 0.95 to 0.85 and
        back (`OneCycleLR`). If False, it is constant, and a run that is extended ends like a longer one.
    seed : int, default=0
        Seed of all random draws in training.

    Attributes
    ----------
    results : dict
        Results of the latest validation or test, by name of the set, for all images: ``logits``, ``swapped`` (logits on
        backgrounds from other classes), ``changed`` (whether there was one), ``labels``, ``share`` (of the relevance on
        the background) and ``indices``.
    regularizer : ISNetRegularizer
        The model's regularizer. It is not a module: Lightning neither moves nor saves it; its state is part of the
        checkpoint.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If an argument is not allowed. During training: if the loss is no longer finite.

    References
    ----------
    .. [1] Bassi, P. R. A. S., Dertkigil, S. S. J., Cavalli, A. "Improving deep neural network generalization and
       robustness to background bias via layer-wise relevance propagation optimization". Nat. Commun. 15, 291 (2024).
    .. [2] Bassi, P. R. A. S., Decherchi, S., Cavalli, A. "Faster ISNet for background bias mitigation on deep neural
       networks". IEEE Access 12, 155151 (2024). arXiv:2401.08409.

    Examples
    --------
    >>> import torch
    >>> from torchvision.models import resnet18
    >>> from zennit_isnet.training import ISNetClassifier
    >>> classifier = ISNetClassifier(resnet18(num_classes=10), fade=0.5)
    >>> classifier.eval()(torch.rand(1, 3, 32, 32)).shape
    torch.Size([1, 10])
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        formulation: Formulation | None = None,
        composite: LRPComposite | None = None,
        loss: HeatmapLoss | None = None,
        layers: Sequence[str] | str = "auto",
        every: int = 1,
        weight: float = 0.7,
        swap: float = 0.0,
        fade: float = 0.0,
        class_weights: Sequence[float] | None = None,
        optimizer: OptimizerCallable = lambda parameters: SGD(
            parameters, lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True
        ),
        one_cycle: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_number("weight", weight, high=1.0, include_low=True)
        if not isinstance(model, nn.Module):
            raise InvalidTypeError(f"model must be a torch.nn.Module; got {type(model).__name__}")
        self.model = model
        self.weight, self.optimizer, self.one_cycle, self.seed = weight, optimizer, one_cycle, seed
        self.regularizer = ISNetRegularizer(
            model,
            composite=composite,
            formulation=Stochastic(torch.Generator()) if formulation is None else formulation,
            loss=loss,
            layers=layers,
            every=every,
        )
        self.swap = BackgroundSwap(swap, generator=torch.Generator())
        self.fade = BackgroundFade(fade, generator=torch.Generator())
        self.class_weights = None if class_weights is None else torch.tensor(list(class_weights), dtype=torch.float32)
        weights = self.class_weights
        if weights is not None and not bool((weights.isfinite() & (weights > 0)).all()):
            raise InvalidValueError(f"class_weights must be positive and finite; got {weights.tolist()}")
        self.results: dict[str, dict[str, Tensor]] = {}
        self._collected: dict[str, list[dict[str, Tensor]]] = {}
        self._losses: Tensor | float = 0.0  # of the epoch, without synchronising the device

    def forward(self, images: Tensor) -> Any:
        """Return the model's output."""
        return self.model(images)

    def setup(self, stage: str) -> None:
        """Use the same gradient norms in all processes."""
        self.regularizer.balance.everywhere = self.trainer.world_size > 1

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed all random numbers of an epoch by seed, epoch and process."""
        if batch_idx == 0:
            self.seed_draws(self.current_epoch, self.global_rank)
            self._losses = 0.0

    def seed_draws(self, *place: int) -> None:
        """Seed all draws in training by the seed and the position in the training."""
        torch.manual_seed(seed_of(self.seed, *place))
        for number, part in enumerate((self.swap, self.fade, self.regularizer.formulation)):
            generator = getattr(part, "generator", None)
            if isinstance(generator, torch.Generator):
                generator.manual_seed(seed_of(self.seed, *place, number))

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """Return the total loss, which Lightning scales, differentiates and clips."""
        images, masks, labels, has_mask, _ = batch
        images = self.fade(self.swap(images, masks, has_mask), masks, has_mask)
        if self.weight == 0:
            loss = classification = self.classification_loss(self.model(images), labels)
        else:
            explained = None if labels.is_floating_point() else labels
            output, penalty = self.regularizer(images, masks, has_mask, labels=explained)
            classification = self.classification_loss(output, labels)
            loss = self.regularizer.balanced(classification, penalty, self.weight)
            self._log("penalty", penalty, len(images))
            self._log("penalty_factor", loss.new_tensor(self.regularizer.balance.factor), len(images))
        self._log("classification", classification, len(images))
        self._log("loss", loss, len(images))
        self._losses = self._losses + loss.detach()
        return loss

    def on_validation_start(self) -> None:
        """Refuse to test the weights after a non-finite loss."""
        self._check_losses()

    def on_train_epoch_end(self) -> None:
        """Refuse to save the weights after a non-finite loss."""
        self._check_losses()

    def _check_losses(self) -> None:
        if not bool(torch.as_tensor(self._losses).isfinite()):
            found = f"in epoch {self.current_epoch}; lower the learning rate, or clip the gradient"
            raise InvalidValueError(f"the loss was no longer finite {found}")

    def classification_loss(self, output: Any, labels: Tensor) -> Tensor:
        """Return the cross-entropy (binary for several labels), including auxiliary heads.

        Parameters
        ----------
        output : Tensor or tuple of Tensor
            Logits ``(N, C)``; auxiliary heads may be None.
        labels : Tensor
            Classes ``(N,)``, or floating 0 and 1 ``(N, C)``.
        """
        weights = None if self.class_weights is None else self.class_weights.to(labels.device)

        def loss(logits: Tensor) -> Tensor:
            if labels.is_floating_point():
                return F.binary_cross_entropy_with_logits(logits.float(), labels, weights)
            return F.cross_entropy(logits.float(), labels, weights)

        main, *others = output if isinstance(output, tuple) else (output,)
        return loss(main) + AUXILIARY_WEIGHT * sum(loss(other) for other in others if other is not None)

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """Collect the model's results on a validation batch."""
        self._collect("val", batch, batch_idx)

    def test_step(self, batch: Sequence[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Collect the model's results on a batch of a test set."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        self._collect(list(data.tests)[dataloader_idx], batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Log the figures of all validation images."""
        self._log_results("val_")

    def on_test_epoch_end(self) -> None:
        """Log the figures of all test images."""
        self._log_results("")

    def configure_optimizers(self) -> Any:
        """Return the optimizer, with a one-cycle schedule of the learning rate and, if it has one, the momentum."""
        optimizer = self.optimizer([p for p in self.parameters() if p.requires_grad])
        if not self.one_cycle:
            return optimizer
        rates = [group["lr"] for group in optimizer.param_groups]
        steps = int(self.trainer.estimated_stepping_batches)
        with_momentum = all(group.get("momentum") or "betas" in group for group in optimizer.param_groups)
        schedule = OneCycleLR(optimizer, rates, total_steps=steps, cycle_momentum=with_momentum)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the regularizer's state."""
        checkpoint["regularizer"] = self.regularizer.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore it, with the schedule of this run, which may be longer than the interrupted one."""
        self.regularizer.load_state_dict(checkpoint["regularizer"])
        kept = ("last_epoch", "_step_count", "_last_lr")
        states = checkpoint.get("lr_schedulers", [])
        checkpoint["lr_schedulers"] = [{name: state[name] for name in kept} for state in states]

    def _log(self, name: str, value: Tensor, count: int) -> None:
        several = self.trainer.world_size > 1
        self.log(name, value.detach(), prog_bar=True, on_step=False, on_epoch=True, batch_size=count, sync_dist=several)

    def _collect(self, name: str, batch: Sequence[Tensor], batch_idx: int) -> None:
        """Keep the logits on own backgrounds and on those of other classes, and the share on the background."""
        images, masks, labels, has_mask, indices = batch
        # without background there is nothing to give or exchange
        takes_part = has_mask & ~masks.flatten(1).all(1)
        donors = donors_of_other_classes(labels, takes_part, torch.Generator().manual_seed(batch_idx))
        changed = donors != torch.arange(len(images), device=donors.device)
        # Lightning may test in inference mode, which does not keep the graph that an explanation needs
        with torch.inference_mode(False), torch.no_grad():
            images = images.clone()
            masks = torch.where(has_mask.view(-1, *[1] * (masks.ndim - 1)), masks, torch.ones_like(masks))
            swapped = main_logits(self.model(swap_backgrounds(images, masks, donors)), len(images))
            output, relevance = self.explainer()(self.model, images, labels_of(labels), create_graph=False)
            share = background_share(relevance["input"].detach()[:, 0], masks, undefined="skip")
        found = {
            "logits": main_logits(output, len(images)).float(),
            "swapped": swapped.float(),
            "labels": labels,
            "changed": changed,
            "share": share.where(has_mask, torch.nan),
            "indices": indices,
        }
        self._collected.setdefault(name, []).append({key: value.detach() for key, value in found.items()})

    def explainer(self) -> LRPAttribution:
        """Return the attribution for validation, tests and figures: the training rules, at the images."""
        attribution = self.regularizer.attribution
        composites = attribution.composites if isinstance(attribution, LRPAttribution) else None
        return LRPAttribution(LRPFlex(reference="darkest") if composites is None else composites[0])

    def _log_results(self, prefix: str) -> None:
        """Gather the results of all processes, log their figures and keep them until the next call."""
        collected, self._collected, self.results = self._collected, {}, {}
        for name, parts in collected.items():
            values = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
            if self.trainer.world_size > 1:
                gathered: Any = self.all_gather(values)
                values = {key: value.flatten(0, 1) for key, value in gathered.items()}
            # a process with a smaller share has repeated some images
            places = {index: at for at, index in enumerate(values["indices"].tolist())}
            done = {key: value.cpu()[list(places.values())] for key, value in values.items()}
            rows = {**figures(done["logits"], done["labels"]), "background_share": done["share"].nanmean().item()}
            changed = done["changed"]
            on_swapped = figures(done["swapped"][changed], done["labels"][changed])
            rows |= {f"swapped_{key}": value for key, value in on_swapped.items()}
            if prefix:
                rows["score"] = self._score(rows)
            self.results[name] = done
            where = prefix or f"{name}/"
            # an undefined share is logged as NaN, because Lightning would repeat the last epoch's
            self.log_dict({f"{where}{key}": value for key, value in rows.items()})

    def _score(self, rows: Mapping[str, float]) -> float:
        """Log the criterion for the best epoch; a clean heatmap alone would not be evidence."""
        if "swapped_balanced_accuracy" in rows:
            return rows["swapped_balanced_accuracy"]
        if "balanced_accuracy" not in rows:
            raise InvalidValueError(
                "the validation images must contain a label that is on for some images and off for others; got none"
            )
        warnings.warn(
            "no validation image could get the background of another class, so the epoch is chosen on images that may "
            "have the shortcut: use validation images with masks, and batches of several classes",
            stacklevel=2,
        )
        return rows["balanced_accuracy"]


def calibrate(classifier: ISNetClassifier, data: MaskedData, plain: Trainer | None, *, ckpt_path: Any = None) -> None:
    """Measure the relevance range of a classifier on the validation images.

    The range is only meaningful for a trained classifier. If it has a new head, a copy is first trained for some epochs
    without the penalty. A copy, because a model that has learned the background does not unlearn it.

    Parameters
    ----------
    classifier : ISNetClassifier
        Its regularizer receives the ranges.
    data : MaskedData
        The data.
    plain : Trainer, optional
        Trains the copy; None if the classifier is already trained.
    ckpt_path : path, optional
        Checkpoint to resume the plain training from.

    Raises
    ------
    CalibrationError
        If the range cannot be measured.

    Examples
    --------
    >>> from lightning.pytorch import Trainer
    >>> from torchvision.models import squeezenet1_1
    >>> from zennit_isnet.training import ISNetClassifier, MaskedImages, calibrate
    >>> data = MaskedImages(benchmark="patch")
    >>> classifier = ISNetClassifier(squeezenet1_1(num_classes=10))
    >>> calibrate(classifier, data, Trainer(max_epochs=5))  # doctest: +SKIP
    """
    measured = classifier
    if plain is not None:
        measured = copy.deepcopy(classifier)
        measured.weight = 0.0
        plain.fit(measured, data, ckpt_path=ckpt_path)
        measured.to(plain.strategy.root_device)
    measured.seed_draws(0)  # the same in all processes
    classifier.regularizer.ranges = dict(measured.regularizer.calibrate(data.calibration_dataloader()))


def labels_of(labels: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the formulation that explains the sum of the labels' logits (one logit for single-label images)."""

    def seeds(logits: Tensor) -> Tensor:
        weights = labels if labels.is_floating_point() else F.one_hot(labels, logits.shape[1])
        return weights.to(logits).unsqueeze(1)

    return seeds
