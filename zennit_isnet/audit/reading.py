"""The data of an audit: masked images, read as often as needed, and what must be known before a model is judged."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset
from tqdm import tqdm

from zennit_isnet.checks import check_count, check_has_mask, check_images, check_masks
from zennit_isnet.data.decoding import listed
from zennit_isnet.errors import InvalidTypeError, InvalidValueError

Normalization: TypeAlias = tuple[Sequence[float], Sequence[float]]

ITEM = "(image, mask, label) or (image, mask, label, has_mask)"

DONORS = 256
"""Images that are kept to lend their backgrounds; all of them on the CPU."""

SLACK = 1e-3


@dataclass(frozen=True)
class Batch:
    """Images that have a mask: their places in the data set, pixels, masks and labels.

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

    @classmethod
    def joined(cls, batches: Sequence[Batch]) -> Batch:
        """Return several batches as one."""
        return cls(*map(torch.cat, zip(*(vars(batch).values() for batch in batches), strict=True)))

    def where(self, chosen: Tensor) -> Batch:
        """Return the images for which `chosen`, bool ``(N,)``, holds."""
        return Batch(*(part[chosen] for part in vars(self).values()))


class MaskedImages:
    """A data set that can be gone through again and again, always in the same order.

    Parameters
    ----------
    data : Dataset or DataLoader
        Data set with a length whose items are ``(image, mask, label)`` or ``(image, mask, label, has_mask)``. Of a
        loader, the data set, batch size, workers and collation are used, not its order.
    batch_size : int
        For a data set.

    Raises
    ------
    InvalidTypeError
        If `data` is neither, or has no length.
    InvalidValueError
        If it is empty, or `batch_size` is not positive.
    """

    def __init__(self, data: Any, batch_size: int) -> None:
        check_count("batch_size", batch_size)
        dataset: Any = data.dataset if isinstance(data, DataLoader) else data
        has_length = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
        if isinstance(dataset, IterableDataset | Tensor | str) or not has_length:
            problem = f"data must be a data set with a length and items {ITEM}, or a DataLoader of one"
            raise InvalidTypeError(f"{problem}; got {type(dataset).__name__}")
        if len(dataset) == 0:
            raise InvalidValueError("data must have at least one image; got none")
        self.dataset: Dataset[Any] = dataset
        options: dict[str, Any] = {"batch_size": batch_size}
        if isinstance(data, DataLoader):
            options = {"num_workers": data.num_workers, "collate_fn": data.collate_fn}
            options["batch_size"] = data.batch_size or batch_size
        self._loader: DataLoader[Any] = DataLoader(dataset, shuffle=False, **options)

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    @property
    def title(self) -> str:
        """What to call the data: the type of the data set."""
        return type(self._within()[0]).__name__

    @property
    def classes(self) -> list[str] | None:
        """Names of the classes where the data set knows them."""
        names = getattr(self._within()[0], "classes", None)
        return None if names is None else [str(name) for name in names]

    def name(self, index: int) -> str:
        """Name of an image: its file where the data set knows it, else its place."""
        inner, index = self._within(index)
        name = getattr(inner, "name", None)
        return str(name(index)) if callable(name) else f"image {index}"

    def _within(self, index: int = 0) -> tuple[Any, int]:
        """Return the data set within all subsets, and the place there of an image."""
        inner: Any = self.dataset
        while isinstance(inner, Subset):
            inner, index = inner.dataset, int(inner.indices[index])
        return inner, index

    def batches(self, description: str, *, progress: bool) -> Iterator[Batch]:
        """Go through the images that have a mask.

        Raises
        ------
        InvalidTypeError, InvalidValueError
            If a batch is no tuple of images, masks and labels, or one of them has the wrong type or shape.
        """
        start = 0
        for items in tqdm(self._loader, desc=description, unit="batch", disable=not progress, leave=False):
            batch, flags = _checked(items, start)
            start += len(batch)
            yield batch.where(flags) if not bool(flags.all()) else batch


def _checked(items: Any, start: int) -> tuple[Batch, Tensor]:
    if not isinstance(items, list | tuple) or len(items) not in (3, 4):
        raise InvalidTypeError(f"an item of data must be {ITEM}; got {type(items).__name__}")
    images = check_images(items[0], values=True)
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise InvalidValueError(f"images must have shape (N, 3, H, W) or (N, 1, H, W); got {tuple(images.shape)}")
    masks = check_masks(items[1], images)
    if masks.shape[2:] != images.shape[2:]:
        raise InvalidValueError(f"masks must have their images' size {images.shape[2:]}; got {masks.shape[2:]}")
    labels = items[2]
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.shape != (len(images),):
        raise InvalidTypeError(
            f"labels must be whole numbers ({len(images)},), one class for each image; got {labels!r:.80}; audit "
            "several labels one label at a time: wrap the model to return that label's logit alone, with labels 0 and 1"
        )
    flags = check_has_mask(items[3] if len(items) == 4 else None, len(images), images.device)
    return Batch(torch.arange(start, start + len(images)), images, masks, labels.long()), flags


@dataclass(frozen=True)
class Survey:
    """The data set at a glance.

    Attributes
    ----------
    labels : Tensor
        Of the images that take part, ``(n,)``.
    left_out : int
        Number of images without a mask, or without background.
    mean, std : Tensor
        What the images were normalised with, ``(C, 1, 1)``; 0 and 1 if with nothing.
    colour : Tensor
        Mean over all pixels of the images as the model takes them, ``(C, 1, 1)``.
    donors : Batch
        At most `DONORS` images, drawn uniformly.
    """

    labels: Tensor
    left_out: int
    mean: Tensor
    std: Tensor
    colour: Tensor
    donors: Batch

    @property
    def black(self) -> Tensor:
        """Black as the model takes it, ``(C, 1, 1)``."""
        return (0 - self.mean) / self.std

    def visible(self, images: Tensor) -> Tensor:
        """Undo the normalisation: images in [0, 1]."""
        return (images * self.std + self.mean).clamp(0, 1)


def usable(batch: Batch) -> Batch:
    """Return the images of a batch that have some background."""
    return batch.where(~(batch.masks == 1).flatten(1).all(1))


def survey(source: MaskedImages, normalization: Normalization | None, *, seed: int, progress: bool) -> Survey:
    """Go through the data once; all problems of its masks are collected before one error is raised.

    Parameters
    ----------
    source : MaskedImages
        The data.
    normalization : pair of sequences of float, optional
        Mean and standard deviation of each channel, which the images were normalised with.
    seed : int
        Of the draw of donors.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    Survey

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If masks have no foreground, or values other than 0 and 1; the message names the images. If images are not in
        [0, 1] after the normalisation is undone, differ in size, or none has a mask and some background.
    """
    chance = random.Random(seed)
    mean, std = _as_channels(normalization)
    empty: list[str] = []
    strange: list[str] = []
    labels: list[Tensor] = []
    donors: list[Batch] = []
    sizes: set[tuple[int, ...]] = set()
    seen, pixels, total = 0, 0, torch.zeros(1, 1, 1, dtype=torch.float64)
    for batch in source.batches("reading the data", progress=progress):
        if not len(batch):
            continue
        sizes.add(tuple(batch.images.shape[1:]))
        flat = batch.masks.flatten(1)
        legal = ((flat == 0) | (flat == 1)).all(1)
        empty += [source.name(int(i)) for i in batch.indices[legal & (flat == 0).all(1)]]
        strange += [source.name(int(i)) for i in batch.indices[~legal]]
        _check_range(batch.images, mean, std)
        total = total + batch.images.double().sum((0, 2, 3)).view(-1, 1, 1)
        pixels += batch.images[:, 0].numel()
        part = usable(batch)
        labels.append(part.labels)
        for position in range(len(part)):
            seen += 1
            place = len(donors) if len(donors) < DONORS else chance.randrange(seen)
            if place < DONORS:
                donor = part.where(torch.arange(len(part)) == position)
                donors[place : place + 1] = [donor]
    _raise_problems(empty, strange, len(source))
    if not seen:
        raise InvalidValueError(f"none of the {len(source)} images has a mask and some background; nothing to audit")
    if len(sizes) > 1:
        raise InvalidValueError(f"images must have one shape (C, H, W); got {sorted(sizes)}; resize and crop them")
    colour = (total / pixels).float()
    return Survey(torch.cat(labels), len(source) - seen, mean, std, colour, donors=Batch.joined(donors))


def _as_channels(normalization: Normalization | None) -> tuple[Tensor, Tensor]:
    if normalization is None:
        return torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
    try:
        mean, std = (torch.tensor([float(value) for value in values]).view(-1, 1, 1) for values in normalization)
    except (TypeError, ValueError) as error:
        raise InvalidTypeError(
            f"normalization must be (mean, std), sequences of numbers; got {normalization!r}"
        ) from error
    if len(mean) != len(std) or len(mean) not in (1, 3) or not bool((std > 0).all() and mean.isfinite().all()):
        raise InvalidValueError(f"normalization must be finite, for 1 or 3 channels, std > 0; got {normalization!r}")
    return mean, std


def _check_range(images: Tensor, mean: Tensor, std: Tensor) -> None:
    if len(mean) not in (1, images.shape[1]):
        raise InvalidValueError(f"normalization has {len(mean)} channels, images have {images.shape[1]}")
    plain = images * std + mean
    low, high = plain.min().item(), plain.max().item()
    if low < -SLACK or high > 1 + SLACK:
        problem = f"images must lie in [0, 1] once their normalisation is undone; got {low:.4g} to {high:.4g}"
        raise InvalidValueError(f"{problem}; pass what they were normalised with as normalization=(mean, std)")


def _raise_problems(empty: list[str], strange: list[str], count: int) -> None:
    lines = []
    for names, problem in ((empty, "no foreground"), (strange, "values other than 0 and 1")):
        if names:
            lines.append(f"{problem} in {len(names)} of {count} masks: {listed(names)}")
    if lines:
        raise InvalidValueError("; ".join(lines) + "; mend these masks or leave their images out")
