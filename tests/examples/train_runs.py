"""Small data and short runs of ``examples/train.py``."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import train
from torch import Tensor
from torchvision.io import write_jpeg, write_png
from training import checkpoints

from zennit_isnet.data import BackgroundBias, load_digits

SCRIPT = Path(train.__file__)
CLASSES = ("five", "four", "six")
"""Names of the folders; they sort in another order than the digits."""

DIGITS = {"five": 5, "four": 4, "six": 6}

SHORT = (
    *("--model", "squeezenet1_1", "--size", "32", "--lr", "0.01", "--epochs", "2", "--plain-epochs", "1"),
    *("--batch-size", "8", "--panel", "0", "--log-every", "1"),
)
"""Two epochs of a small model with dropout; squeezenet's head is a convolution."""


@cache
def photographed_digits(per_class: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Digits over photographs: by class images ``(n, 3, 32, 32)`` in [0, 1] and masks ``(n, 1, 32, 32)``."""
    images, labels = load_digits()
    source = tuple(part[::10] for part in (images, labels))
    data = BackgroundBias(bias="texture", background="unbiased", source=source)
    return {
        name: (data.images[data.labels == digit][:per_class], data.masks[data.labels == digit][:per_class])
        for name, digit in DIGITS.items()
    }


def write_folder(root: Path, per_class: int = 8) -> list[str]:
    """Write JPEG images and PNG masks in a folder for each class; return the options that name them."""
    for name, (images, masks) in photographed_digits(per_class).items():
        for kind in ("images", "masks"):
            (root / kind / name).mkdir(parents=True)
        for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
            write_jpeg((255 * image).byte(), str(root / "images" / name / f"{number}.jpg"), quality=95)
            write_png(255 * mask.byte(), str(root / "masks" / name / f"{number}.png"))
    return ["--data", "folder", "--images", str(root / "images"), "--masks", str(root / "masks")]


def run(*options: str, output: Path) -> None:
    """Run the script in this process."""
    train.main([*options, "--output", str(output)])


def command(*options: str, output: Path) -> list[str]:
    """The same as a command of its own."""
    return [sys.executable, str(SCRIPT), *options, "--output", str(output)]


def last_state(output: Path) -> dict[str, Any]:
    """What the last checkpoint of a run holds."""
    return checkpoints.load(output / "last.pt")
