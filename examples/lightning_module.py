"""The heatmap loss in Lightning: plain epochs first, then the range of the relevance, then epochs with the penalty.

    python examples/lightning_module.py --epochs 6

Six epochs take less than a minute on a CPU and show how the parts fit together, not what the method reaches.

The regularizer is no module: Lightning neither moves nor saves it, and the checkpoint's ``state_dict`` is that of the
classifier alone. What the regularizer has to keep goes into the checkpoint by two hooks.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from small_benchmark import Digits, loader, small_net
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from zennit_isnet import ISNetRegularizer

TESTS = ("biased", "confounding")


class ISNetClassifier(lightning.LightningModule):
    """A classifier with the heatmap loss, by Lightning's automatic optimization.

    Parameters
    ----------
    weight : float, default 0.7
        Weight of the penalty; the cross-entropy has the rest, and `balanced` keeps their gradients in proportion.
    plain_epochs : int, default 2
        Epochs without the penalty, after which the range of the relevance is measured.
    lr : float, default 0.05
        Learning rate of SGD.
    """

    def __init__(self, weight: float = 0.7, plain_epochs: int = 2, lr: float = 0.05) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = small_net()
        self.regularizer = ISNetRegularizer(self.model)

    def forward(self, images: Tensor) -> Any:
        """Return logits."""
        return self.model(images)

    def on_train_epoch_start(self) -> None:
        """Measure the range once, in the first process; all get the same."""
        if self.current_epoch == self.hparams.plain_epochs and not self.regularizer.ranges:
            if self.trainer.is_global_zero:
                self.regularizer.calibrate(self.trainer.train_dataloader, progress=False)
            self.regularizer.load_state_dict(self.trainer.strategy.broadcast(self.regularizer.state_dict()))

    def training_step(self, batch: Sequence[Tensor], index: int) -> Tensor:
        """Return the loss, which Lightning scales, differentiates and clips as a whole."""
        images, masks, labels = batch
        if self.current_epoch < self.hparams.plain_epochs:
            return cross_entropy(self.model(images), labels)
        logits, penalty = self.regularizer(images, masks)
        loss = self.regularizer.balanced(cross_entropy(logits, labels), penalty, self.hparams.weight)
        self.log_dict({"penalty": penalty, "factor": self.regularizer.balance.factor}, prog_bar=True)
        return loss

    def test_step(self, batch: Sequence[Tensor], index: int, dataloader_idx: int = 0) -> None:
        """Log the accuracy on each kind of background."""
        images, _, labels = batch
        correct = (self.model(images).argmax(1) == labels).float().mean()
        self.log(TESTS[dataloader_idx], correct, add_dataloader_idx=False, batch_size=len(labels))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return SGD, which the heatmap loss works best with."""
        return torch.optim.SGD(self.parameters(), self.hparams.lr, momentum=0.9)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add ranges, calls and the formulation's state."""
        checkpoint["regularizer"] = self.regularizer.state_dict()

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Take them over."""
        self.regularizer.load_state_dict(checkpoint["regularizer"])


class ManualISNetClassifier(ISNetClassifier):
    """The same by manual optimization: clipping and steps are written out."""

    def __init__(self, weight: float = 0.7, plain_epochs: int = 2, lr: float = 0.05) -> None:
        super().__init__(weight, plain_epochs, lr)
        self.automatic_optimization = False

    def training_step(self, batch: Sequence[Tensor], index: int) -> None:
        """Take one step. The inner gradient of the penalty is the regularizer's; only the loss goes to Lightning."""
        optimizer = self.optimizers()
        loss = super().training_step(batch, index)
        optimizer.zero_grad()
        self.manual_backward(loss)
        nn.utils.clip_grad_norm_(self.parameters(), 1.0)
        optimizer.step()


def main(arguments: Sequence[str] | None = None, digits: Digits | None = None, **options: Any) -> dict[str, float]:
    """Train and return the accuracies; ``options`` go to the Trainer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--plain-epochs", type=int, default=2)
    parser.add_argument("--manual", action="store_true", help="manual optimization")
    parser.add_argument("--precision", default="32-true", help="Lightning's precision, such as bf16-mixed")
    parser.add_argument("--output", type=Path, default=Path("results/lightning"), help="folder for the checkpoint")
    settings = parser.parse_args(arguments)
    lightning.seed_everything(0, verbose=False)
    classifier = (ManualISNetClassifier if settings.manual else ISNetClassifier)(plain_epochs=settings.plain_epochs)
    trainer = lightning.Trainer(
        max_epochs=settings.epochs,
        precision=settings.precision,
        gradient_clip_val=None if settings.manual else 1.0,
        default_root_dir=settings.output,
        logger=False,
        **options,
    )
    trainer.fit(classifier, loader("train", "biased", digits))
    by_loader = trainer.test(classifier, [loader("test", kind, digits, 250) for kind in TESTS], verbose=False)
    accuracies = {kind: value for logged in by_loader for kind, value in logged.items()}
    print(", ".join(f"{kind} {value:.3f}" for kind, value in accuracies.items()))
    return accuracies


if __name__ == "__main__":
    main()
