"""Image and mask files for tests: real digits over real photographs."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torchvision.transforms.v2.functional import to_pil_image

from zennit_isnet.data import BackgroundBias

ORIENTATION = 0x0112
"""The EXIF tag; 6 turns an image by 90°."""


class Layout(NamedTuple):
    """Two parallel folders and what their files show, in the files' order."""

    images: Path
    masks: Path
    pixels: torch.Tensor
    foreground: torch.Tensor
    labels: list[int]
    files: list[str]


def save_image(path: Path, pixels: torch.Tensor) -> Path:
    """Save floating-point colours ``(3, H, W)`` in [0, 1]."""
    return saved(to_pil_image((pixels * 255).round().to(torch.uint8)), path)


def save_mask(path: Path, mask: torch.Tensor) -> Path:
    """Save a boolean mask ``(1, H, W)`` as 0 and 255."""
    return saved(to_pil_image(mask.to(torch.uint8) * 255), path)


def saved(picture: Image.Image, path: Path, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)
    return path


def write_layout(root: Path, pairs: BackgroundBias, per_class: int = 2, classes: int = 2) -> Layout:
    """Write ``images/CLASS/NUMBER.png`` and ``masks/CLASS/NUMBER.png``, sorted by class and number."""
    order = [index for label in range(classes) for index in (pairs.labels == label).nonzero()[:per_class, 0].tolist()]
    labels = pairs.labels[order].tolist()
    files = [f"digit{label}/{index:03}.png" for label, index in zip(labels, order, strict=True)]
    for file, index in zip(files, order, strict=True):
        save_image(root / "images" / file, pairs.images[index])
        save_mask(root / "masks" / file, pairs.masks[index])
    pixels = (pairs.images[order] * 255).round().to(torch.uint8)
    return Layout(root / "images", root / "masks", pixels, pairs.masks[order], labels, files)
