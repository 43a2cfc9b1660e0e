"""Images, masks and labels of a data set, in its own order, as often as they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset
from tqdm import tqdm

from zennit_isnet.checks import check_has_mask, check_images, check_masks
from zennit_isnet.errors import InvalidTypeError, InvalidValueError

ITEM = "(image, mask, label) or (image, mask, label, has_mask)"


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

    def where(self, chosen: Tensor) -> Batch:
        """Return the images for which `chosen`, bool ``(N,)``, holds."""
        return Batch(self.indices[chosen], self.images[chosen], self.masks[chosen], self.labels[chosen])


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
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise InvalidValueError(f"batch_size must be a whole number, at least 1; got {batch_size!r}")
        dataset: Any = data.dataset if isinstance(data, DataLoader) else data
        has_length = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
        if isinstance(dataset, IterableDataset | Tensor | str) or not has_length:
            raise InvalidTypeError(
                f"data must be a data set with a length and items {ITEM}, or a DataLoader of one; "
                f"got {type(dataset).__name__}"
            )
        if len(dataset) == 0:
            raise InvalidValueError("data must have at least one image; got none")
        self.dataset: Dataset[Any] = dataset
        options: dict[str, Any] = {"batch_size": batch_size}
        if isinstance(data, DataLoader):
            options = {
                "batch_size": data.batch_size or batch_size,
                "num_workers": data.num_workers,
                "collate_fn": data.collate_fn,
            }
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
        raise InvalidValueError(
            f"images must have shape (N, 3, H, W) or (N, 1, H, W), for they are shown; got {tuple(images.shape)}"
        )
    masks = check_masks(items[1], images)
    if masks.shape[2:] != images.shape[2:]:
        raise InvalidValueError(
            f"masks must have the size of their images, {tuple(images.shape[2:])}; got {tuple(masks.shape[2:])}"
        )
    labels = items[2]
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.shape != (len(images),):
        came = f"{labels.dtype} of shape {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise InvalidTypeError(
            f"labels must be whole numbers ({len(images)},), one class for each image; got {came}; audit a model of "
            "several labels one label at a time: wrapped so that it returns that label's logit alone, (N, 1), with "
            "labels 0 and 1"
        )
    flags = check_has_mask(items[3] if len(items) == 4 else None, len(images), images.device)
    return Batch(torch.arange(start, start + len(images)), images, masks, labels.long()), flags
