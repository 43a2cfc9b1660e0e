"""What a trained classifier does on other backgrounds."""

from __future__ import annotations

import torch
from objective import main_head
from torch import Generator, Tensor, nn

from zennit_isnet import ISNetRegularizer, LRPFlex
from zennit_isnet.data import BackgroundBias
from zennit_isnet.data.background_bias import Background
from zennit_isnet.swap import BackgroundSwap, swap_gap

TEST_SETS: tuple[Background, ...] = ("biased", "unbiased", "confounding", "none")
BATCH = 250
SWAPS = 2
"""Swaps per validation image; more swaps make the choice of the epoch less noisy."""


@torch.no_grad()
def predict(model: nn.Module, images: Tensor) -> Tensor:
    """Return the logits in eval mode."""
    model.eval()
    return torch.cat([main_head(model(part)) for part in torch.split(images, BATCH)])


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of correct predictions."""
    return (predict(model, images).argmax(1) == labels).float().mean().item()


class SwappedValidation:
    """Validation images on each other's backgrounds, the same at every epoch; biased images suffice.

    Parameters
    ----------
    data : BackgroundBias
    seed : int
    """

    def __init__(self, data: BackgroundBias, seed: int) -> None:
        self.images, self.labels = data.images, data.labels
        swap = BackgroundSwap(1.0, generator=Generator().manual_seed(seed))
        self.swapped = torch.cat([swap(data.images, data.masks) for _ in range(SWAPS)])

    def figures(self, model: nn.Module) -> dict[str, float]:
        """Return the accuracies before and after the swap, the gap, and how many predictions change and how much."""
        logits = predict(model, self.images).repeat(SWAPS, 1)
        figures = swap_gap(logits, predict(model, self.swapped), self.labels.repeat(SWAPS))
        return {name: value.item() for name, value in figures.items()}


def background_share(model: nn.Module, data: BackgroundBias) -> float:
    """Return the mean share of |relevance| on the background for the true class, the same measure for all methods."""
    explainer = ISNetRegularizer(model, composite=LRPFlex(), layers=())
    shares = []
    parts = (torch.split(part, BATCH) for part in (data.images, data.masks, data.labels))
    for images, masks, labels in zip(*parts, strict=True):
        heatmap = explainer.heatmap(images, labels).abs().sum((1, 2))
        shares.append((heatmap * ~masks[:, 0]).sum((1, 2)) / heatmap.sum((1, 2)))
    return torch.cat(shares).mean().item()


def final_figures(model: nn.Module, tests: dict[Background, BackgroundBias]) -> dict[str, float]:
    """Return the accuracy on each test set and the share of relevance on the background of the biased one."""
    figures = {name: accuracy(model, data.images, data.labels) for name, data in tests.items()}
    return {**figures, "background_share": background_share(model, tests["biased"])}
