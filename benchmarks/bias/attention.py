"""What a vision transformer learns through its attention weights, tested by exchanging them between images.

Trains the small transformer of the study with the heatmap loss, and tests it on digits with a patch that names the
class (biased) or another one (confounding), and without a patch (none). Each image is then classified with the
attention weights of the same digit on another background. A prediction that follows the exchanged weights came through
the attention.

    python benchmarks/bias/study.py --only plain --model small-vit --optimizer adamw --bias patch
    python benchmarks/bias/attention.py
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from assessment import BATCH
from methods import OPTIMIZERS, find_method
from objective import Objective
from runs import Run, batches, load, make_model, ranges_for
from study import RESULTS
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from tqdm import trange

BACKGROUNDS = ("biased", "none", "confounding")


def trained(run: Run, folder: Path, epochs: int) -> nn.Module:
    """Return the classifier trained for some epochs with the run's method."""
    method, recipe = find_method(run.method), OPTIMIZERS[run.optimizer]
    ranges = ranges_for(run, folder)
    torch.manual_seed(run.seed)
    model = make_model(run.model)
    objective = Objective(method, model, ranges, run.seed)
    data = load(run, "train", method.background)
    optimizer = recipe.make(model.parameters(), **recipe.settings)
    steps = epochs * (len(data) // run.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.settings["lr"], total_steps=steps)
    shuffle = Generator().manual_seed(run.seed)
    model.train()
    for _ in trange(epochs, unit="epoch"):
        for batch in batches(data, run.batch_size, shuffle):
            loss = objective(*batch)["loss"]
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return model.eval()


def attention_of_first_half(
    attention: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor, **options: Any
) -> tuple[Tensor, None]:
    """Self-attention ``(N, L, E)`` of a batch whose second half takes the weights of its first half."""
    query, key, value = F.linear(query, attention.in_proj_weight, attention.in_proj_bias).chunk(3, -1)
    queries, keys, values = (x.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for x in (query, key, value))
    weights = (queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5).softmax(-1)
    shared = weights[: len(weights) // 2].repeat(2, 1, 1, 1)
    return attention.out_proj((shared @ values).transpose(1, 2).flatten(2)), None


@torch.no_grad()
def predict_with_attention_of(model: nn.Module, given: Tensor, images: Tensor) -> Tensor:
    """Return the logits of images that are classified with the attention weights of the given ones."""
    modules = [module for module in model.modules() if isinstance(module, nn.MultiheadAttention)]
    for module in modules:
        module.forward = attention_of_first_half.__get__(module)  # type: ignore[method-assign]
    try:
        pairs = zip(given.split(BATCH), images.split(BATCH), strict=True)
        return torch.cat([model(torch.cat(pair))[len(pair[0]) :] for pair in pairs])
    finally:
        for module in modules:
            del module.forward


def main(arguments: Sequence[str] | None = None) -> dict[tuple[str, str], float]:
    """Train, print a table, and return the accuracies by the background of the attention and of the values."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="isnet")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the study, with its plain run")
    options = parser.parse_args(arguments)
    run = Run(options.method, "patch", "adamw", options.seed, "small-vit")
    if not run.plain.file(options.results, ".pt").exists():
        parser.error(f"{run.plain.file(options.results, '.pt')} is missing; run study.py first, as shown above")
    model = trained(run, options.results, options.epochs)
    data = {background: load(run, "test", background) for background in BACKGROUNDS}
    found = {}
    print("| attention weights of | values of | accuracy in % |", "| --- | --- | ---: |", sep="\n")
    for weights, values in itertools.product(BACKGROUNDS, BACKGROUNDS):
        logits = predict_with_attention_of(model, data[weights].images, data[values].images)
        found[weights, values] = (logits.argmax(1) == data[values].labels).float().mean().item()
        print(f"| {weights} | {values} | {100 * found[weights, values]:.1f} |")
    return found


if __name__ == "__main__":
    main()
