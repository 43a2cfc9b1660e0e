"""The heatmap loss in a Hugging Face Accelerate loop: one device, several, or mixed precision with the same code.

    python examples/accelerate_loop.py --epochs 6
    accelerate launch --cpu --num_processes 2 examples/accelerate_loop.py

Six epochs take less than a minute on a CPU. They show how the parts fit together, not how well the method works.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from small_benchmark import Digits, loader, small_net
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from zennit_isnet import ISNetRegularizer

TESTS = ("biased", "confounding")


@torch.no_grad()
def accuracy(accelerator: Accelerator, model: nn.Module, batches: DataLoader) -> float:
    """Return the share of correct predictions over all processes."""
    model.eval()
    correct = [accelerator.gather_for_metrics(model(images).argmax(1) == labels) for images, _, labels in batches]
    return torch.cat(correct).float().mean().item()


def main(arguments: Sequence[str] | None = None, digits: Digits | None = None) -> dict[str, float]:
    """Train and return the accuracies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--plain-epochs", type=int, default=2)
    parser.add_argument("--weight", type=float, default=0.7)
    parser.add_argument("--precision", default="no", choices=("no", "fp16", "bf16"))
    parser.add_argument("--checkpoint", type=Path, help="folder to save the state in, and to resume from if it exists")
    options = parser.parse_args(arguments)

    accelerator = Accelerator(mixed_precision=options.precision)
    set_seed(0)
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    batches, *tests = (loader("train", "biased", digits), *(loader("test", k, digits) for k in TESTS))
    model, optimizer, batches, *tests = accelerator.prepare(model, optimizer, batches, *tests)

    # after `prepare`, so that the forward pass uses the wrapped model
    regularizer = ISNetRegularizer(model)
    accelerator.register_for_checkpointing(regularizer)
    if options.checkpoint is not None and options.checkpoint.exists():
        accelerator.load_state(options.checkpoint)

    for epoch in range(options.epochs):
        if epoch == options.plain_epochs and not regularizer.ranges:
            regularizer.calibrate(batches, progress=False)  # every process with its share
        model.train()
        for images, masks, labels in batches:
            # autocast around the whole step: the signal pass belongs to it
            with accelerator.autocast():
                if epoch < options.plain_epochs:
                    loss = cross_entropy(model(images), labels)
                else:
                    logits, penalty = regularizer(images, masks)
                    loss = regularizer.balanced(cross_entropy(logits, labels), penalty, options.weight)
            optimizer.zero_grad()
            accelerator.backward(loss)  # scales the whole loss where fp16 needs it
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    if options.checkpoint is not None:
        accelerator.save_state(options.checkpoint)
    found = {kind: accuracy(accelerator, model, test) for kind, test in zip(TESTS, tests, strict=True)}
    accelerator.end_training()
    accelerator.print(", ".join(f"{kind} {value:.3f}" for kind, value in found.items()))
    return found


if __name__ == "__main__":
    main()
