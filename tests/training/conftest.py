"""Small data, nets and trainers for the Lightning wing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import Dataset

from zennit_isnet.training import MaskedData

QUIET = (
    # what Lightning says about small data, about itself and about PyTorch
    "ignore:The '\\w+' does not have many workers",
    "ignore:The number of training batches",
    "ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated",
    "ignore:Checkpoint directory .* exists and is not empty",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/training" in item.path.as_posix():
            for one in QUIET:
                item.add_marker(pytest.mark.filterwarnings(one))


class Squares(Dataset[Any]):
    """Grey squares of two classes, bright and dark, on backgrounds that name the class; images come with noise."""

    classes = ("dark", "bright")

    def __init__(self, count: int, *, without_mask: tuple[int, ...] = ()) -> None:
        self.labels = torch.arange(count) % 2
        self.without_mask = without_mask
        self.full: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, int, bool]:
        label = int(self.labels[index])
        image = torch.full((3, 12, 12), 0.2 + 0.6 * label)
        image[:, 3:9, 3:9] = 0.3 + 0.4 * label
        mask = torch.zeros(1, 12, 12, dtype=torch.bool)
        mask[:, 3:9, 3:9] = True
        mask |= index in self.full
        return image + 0.05 * torch.rand(3, 12, 12), mask, label, index not in self.without_mask


@pytest.fixture
def data() -> Callable[..., MaskedData]:
    """Make a data module of squares."""

    def make(**options: Any) -> MaskedData:
        return MaskedData(Squares(18, without_mask=(0,)), Squares(7), {"far": Squares(5)}, batch_size=4, **options)

    return make


@pytest.fixture
def net() -> Callable[[], nn.Module]:
    """Make a small network, always the same; dropout draws from PyTorch's generator."""

    def make() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 2),
        )

    return make


@pytest.fixture
def trainer(tmp_path: Path) -> Callable[..., Trainer]:
    """Make a quiet trainer."""

    def make(epochs: int, **options: Any) -> Trainer:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        quiet |= {"enable_checkpointing": "callbacks" in options, "num_sanity_val_steps": 0, "accelerator": "cpu"}
        return Trainer(max_epochs=epochs, default_root_dir=tmp_path, **quiet, **options)

    return make
