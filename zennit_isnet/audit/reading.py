"""The data of an audit: masked images that can be read repeatedly, and a survey of them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset
from tqdm import tqdm

from zennit_isnet.checks import check_count, check_has_mask, check_images
from zennit_isnet.data.decoding import listed
from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.lrp.flex import box_from_normalization
from zennit_isnet.swap.backgrounds import check_pair

Normalization: TypeAlias = tuple[Sequence[float], Sequence[float]]

ITEM = "(image, mask, label) or (image, mask, label, has_mask)"

DONORS = 256
"""Number of images kept as background donors, on the CPU."""

SLACK = 1e-3


@dataclass(frozen=True)
class Batch:
    """Images that have a mask: their indices in the data set, pixels, masks and labels.

    Attributes
    ----------
    indices : Tensor
        ``(N,)``, int64.
    images : Tensor
        ``(N, C, H, W)``.
    masks : Tensor
        ``(N, 1, H, W)``.
    labels : Tensor
        ``(N,)``, int64.
    """

    indices: Tensor
    images: Tensor
    masks: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, chosen: Tensor) -> Batch:
        """Return some of the images; `chosen` holds indices or is a bool tensor ``(N,)``."""
        return Batch(*(part[chosen] for part in vars(self).values()))


class MaskedImages:
    """A data set that can be iterated repeatedly, always in the same order.

    Parameters
    ----------
    data : Dataset or DataLoader
        Data set with a length whose items are ``(image, mask, label)`` or ``(image, mask, label, has_mask)``. A
        loader's data set, batch size, workers and collation are used, but not its order.
    batch_size : int
        Used for a data set; a loader has its own.

    Attributes
    ----------
    title : str
        Name of the data: the type of the innermost data set, without subsets.
    classes : list of str or None
        Names of the classes, if the data set knows them.

    Raises
    ------
    InvalidTypeError
        If `data` is neither of these, or has no length.
    InvalidValueError
        If it is empty, or `batch_size` is not positive.
    """

    def __init__(self, data: Any, batch_size: int) -> None:
        check_count("batch_size", batch_size)
        loader: DataLoader[Any] = data if isinstance(data, DataLoader) else DataLoader(data, batch_size)
        dataset: Any = loader.dataset
        has_length = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
        if isinstance(dataset, IterableDataset | Tensor | str) or not has_length:
            legal = f"a data set with a length and items {ITEM}, or a DataLoader of one"
            raise InvalidTypeError(f"data must be {legal}; got {type(dataset).__name__}")
        if len(dataset) == 0:
            raise InvalidValueError("data must have at least one image; got none")
        self._loader: DataLoader[Any] = DataLoader(
            dataset, loader.batch_size or batch_size, num_workers=loader.num_workers, collate_fn=loader.collate_fn
        )
        self._places = list(range(len(dataset)))
        while isinstance(dataset, Subset):
            self._places = [int(dataset.indices[place]) for place in self._places]
            dataset = dataset.dataset
        self._within = dataset
        self.title = type(dataset).__name__
        names = getattr(dataset, "classes", None)
        self.classes = None if names is None else [str(name) for name in names]

    def __len__(self) -> int:
        return len(self._places)

    def name(self, index: int) -> str:
        """Name of an image: its file if the data set knows it, otherwise its index."""
        name, place = getattr(self._within, "name", None), self._places[index]
        return str(name(place)) if callable(name) else f"image {place}"

    def batches(self, description: str, *, progress: bool) -> Iterator[Batch]:
        """Iterate over the images that have a mask.

        Raises
        ------
        InvalidTypeError, InvalidValueError
            If a batch is not a tuple of images, masks and labels, or one of these has the wrong type or shape.
        """
        start = 0
        for items in tqdm(self._loader, desc=description, unit="batch", disable=not progress, leave=False):
            if not isinstance(items, list | tuple) or len(items) not in (3, 4):
                raise InvalidTypeError(f"an item of data must be {ITEM}; got {type(items).__name__}")
            images, masks = check_pair(check_images(items[0], values=True), items[1])
            labels = items[2]
            if images.ndim != 4 or images.shape[1] not in (1, 3):
                raise InvalidValueError(f"images must be (N, 3, H, W) or (N, 1, H, W); got {tuple(images.shape)}")
            if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.shape != (len(images),):
                problem = f"labels must be integers ({len(images)},), one class for each image; got {labels!r:.80}"
                remedy = (
                    "audit multi-label models one label at a time: a model with that logit alone, and labels 0 and 1"
                )
                raise InvalidTypeError(f"{problem}; {remedy}")
            flags = check_has_mask(items[3] if len(items) == 4 else None, len(images), images.device)
            yield Batch(torch.arange(start, start + len(images)), images, masks, labels.long()).where(flags)
            start += len(images)


@dataclass(frozen=True)
class Survey:
    """Summary of the data set.

    Attributes
    ----------
    count : int
        Number of images that are audited.
    left_out : int
        Number of images without a mask, or without background.
    low, high : Tensor
        Black and white in the model's input range, ``(C, 1, 1)``, or one number for all channels.
    colour : Tensor
        Mean over all pixels in the model's input range, ``(C, 1, 1)``.
    donors : Batch
        At most `DONORS` images, drawn uniformly.
    """

    count: int
    left_out: int
    low: Tensor
    high: Tensor
    colour: Tensor
    donors: Batch

    def visible(self, images: Tensor) -> Tensor:
        """Undo the normalisation: images in [0, 1]."""
        return ((images - self.low) / (self.high - self.low)).clamp(0, 1)


def usable(batch: Batch) -> Batch:
    """Return the images of a batch that have any background."""
    return batch.where(~(batch.masks == 1).flatten(1).all(1))


def survey(source: MaskedImages, normalization: Normalization | None, *, seed: int, progress: bool) -> Survey:
    """Read the data once; all problems with its masks are collected into one error.

    Parameters
    ----------
    source : MaskedImages
        The data.
    normalization : pair of sequences of float, optional
        Mean and standard deviation of each channel that the images were normalised with.
    seed : int
        Seed for drawing the donors.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    Survey

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If masks have no foreground, or values other than 0 and 1; the message names the images. If images are not in
        [0, 1] after undoing the normalisation, differ in size, or none has both a mask and background.
    """
    chance = random.Random(seed)
    low, high = (bound.float() for bound in box_from_normalization(*(normalization or (0.0, 1.0))))
    problems: dict[str, list[str]] = {"no foreground": [], "values other than 0 and 1": []}
    donors: list[Batch] = []
    sizes: set[tuple[int, ...]] = set()
    seen, pixels, total = 0, 0, torch.zeros(1, 1, 1, dtype=torch.float64)
    for batch in source.batches("reading the data", progress=progress):
        if not len(batch):
            continue
        sizes.add(tuple(batch.images.shape[1:]))
        flat = batch.masks.flatten(1)
        legal = ((flat == 0) | (flat == 1)).all(1)
        for problem, wrong in zip(problems, (legal & (flat == 0).all(1), ~legal), strict=True):
            problems[problem] += [source.name(index) for index in batch.indices[wrong].tolist()]
        _check_range(batch.images, low, high)
        total = total + batch.images.double().sum((0, 2, 3)).view(-1, 1, 1)
        pixels += batch.images[:, 0].numel()
        part = usable(batch)
        for position in range(len(part)):
            seen += 1
            place = len(donors) if len(donors) < DONORS else chance.randrange(seen)
            if place < DONORS:
                donors[place : place + 1] = [part.where(torch.tensor([position]))]
    if lines := [f"{what} in {len(of)} of {len(source)} masks: {listed(of)}" for what, of in problems.items() if of]:
        raise InvalidValueError("; ".join(lines) + "; fix these masks or leave their images out")
    if not seen:
        raise InvalidValueError(
            f"none of the {len(source)} images has a mask with background, so there is nothing to audit"
        )
    if len(sizes) > 1:
        raise InvalidValueError(f"images must have one shape (C, H, W); got {sorted(sizes)}; resize and crop them")
    donated = Batch(*map(torch.cat, zip(*(vars(donor).values() for donor in donors), strict=True)))
    return Survey(seen, len(source) - seen, low, high, (total / pixels).float(), donated)


def _check_range(images: Tensor, low: Tensor, high: Tensor) -> None:
    if low.numel() not in (1, images.shape[1]):
        raise InvalidValueError(f"normalization has {low.numel()} channels, images have {images.shape[1]}")
    plain = (images - low) / (high - low)
    least, most = plain.min().item(), plain.max().item()
    if least < -SLACK or most > 1 + SLACK:
        problem = f"images must lie in [0, 1] after undoing the normalisation; got {least:.4g} to {most:.4g}"
        raise InvalidValueError(f"{problem}; pass normalization=(mean, std), the values they were normalised with")
