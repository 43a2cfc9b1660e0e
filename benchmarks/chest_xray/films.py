"""Chest films with lung masks from a folder of tables, and the changes made to them for each test.

The folder holds one CSV file per source, with the columns ``file``, ``mask``, ``label``, ``split`` and ``patient``;
paths are relative to the folder.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import normalize

from zennit_isnet.swap import swap_backgrounds

LABELS = ("normal", "covid")
"""Class 0 and class 1."""

TAGGED = 0.95
"""Share of the covid training films that carry the tag."""


@dataclass(frozen=True)
class Films:
    """Films of one source and split.

    Attributes
    ----------
    images : Tensor
        ``(N, 1, S, S)`` in [0, 1].
    masks : Tensor
        ``(N, 1, S, S)``, True on the lungs.
    labels : Tensor
        ``(N,)``, positions in `LABELS`.
    files, patients : tuple of str
        One for each film.
    """

    images: Tensor
    masks: Tensor
    labels: Tensor
    files: tuple[str, ...]
    patients: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


def read_films(folder: Path, source: str, split: str, size: int) -> Films:
    """Read the covid and normal films of a table."""
    with (folder / f"{source}.csv").open(newline="", encoding="utf-8") as table:
        rows = [row for row in csv.DictReader(table) if row["split"] == split and row["label"] in LABELS]

    def picture(path: str, resampling: Image.Resampling) -> Tensor:
        with Image.open(folder / path) as opened:
            return torch.from_numpy(np.asarray(opened.convert("L").resize((size, size), resampling)).copy())

    images = torch.stack([picture(row["file"], Image.Resampling.BILINEAR) for row in rows]).unsqueeze(1) / 255
    masks = torch.stack([picture(row["mask"], Image.Resampling.NEAREST) for row in rows]).unsqueeze(1) > 127
    labels = torch.tensor([LABELS.index(row["label"]) for row in rows])
    return Films(images, masks, labels, tuple(row["file"] for row in rows), tuple(row["patient"] for row in rows))


def normalized(images: Tensor) -> Tensor:
    """Three channels, normalised as for networks with ImageNet weights."""
    return normalize(images.expand(-1, 3, -1, -1), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def tag_corner(size: int) -> tuple[slice, slice]:
    """Rows and columns of the tag: a white square of one percent of the area, in the upper left corner."""
    start, side = round(size / 28), round(size / 10)
    return slice(start, start + side), slice(start, start + side)


def without_corner(films: Films) -> Films:
    """Return the films with the tag's area counted as background."""
    masks = films.masks.clone()
    masks[(..., *tag_corner(masks.shape[-1]))] = False
    return replace(films, masks=masks)


def tagged(films: Films, which: Tensor) -> Films:
    """Return the films with the tag on those selected by a flag ``(N,)``."""
    images = films.images.clone()
    rows, columns = tag_corner(images.shape[-1])
    images[which, :, rows, columns] = 1.0
    return replace(films, images=images)


def with_tags(films: Films, generator: Generator) -> Films:
    """Return training or validation films of the marker task: a tag on nearly all covid films and on no others."""
    films = without_corner(films)
    drawn = torch.rand(len(films), generator=generator) < TAGGED
    return tagged(films, (films.labels == 1) & drawn)


def on_other_class(films: Films, generator: Generator) -> Films:
    """Return each film's lungs on the background of a random film of the other class."""
    donors = torch.empty(len(films), dtype=torch.long)
    for label in (0, 1):
        own, others = (films.labels == label).nonzero()[:, 0], (films.labels != label).nonzero()[:, 0]
        donors[own] = others[torch.randint(len(others), (len(own),), generator=generator)]
    return replace(films, images=swap_backgrounds(films.images, films.masks, donors))


def cropped(films: Films) -> Films:
    """Return the films with an eighth cut off each side, resized to their original size."""
    size = films.images.shape[-1]
    inner = slice(size // 8, size - size // 8)
    images = F.interpolate(films.images[..., inner, inner], size=(size, size), mode="bilinear", antialias=True)
    masks = F.interpolate(films.masks[..., inner, inner].float(), size=(size, size), mode="nearest-exact") > 0
    return replace(films, images=images, masks=masks)


def blanked(films: Films) -> Films:
    """Return the films with a black background."""
    return replace(films, images=films.images * films.masks)


TESTS: Mapping[str, Mapping[str, Callable[[Films, Generator], Films]]] = {
    "marker": {
        "as trained": lambda films, _: tagged(without_corner(films), films.labels == 1),
        "without tag": lambda films, _: without_corner(films),
        "tag on the other class": lambda films, _: tagged(without_corner(films), films.labels == 0),
        "other backgrounds": lambda films, generator: on_other_class(
            tagged(without_corner(films), films.labels == 1), generator
        ),
    },
    "source": {
        "in distribution": lambda films, _: films,
        "other backgrounds": on_other_class,
        "cropped borders": lambda films, _: cropped(films),
    },
}
"""Tests of each task; the first is in distribution."""

EXTERNAL = ("actualmed", "hannover", "figure1")
"""Sources from other hospitals."""
