"""What must be known of a data set before a model is judged on it: masks that are wrong, colours, donors."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from zennit_isnet.audit.reading import Batch, MaskedImages
from zennit_isnet.errors import InvalidTypeError, InvalidValueError

Normalization: TypeAlias = tuple[Sequence[float], Sequence[float]]

DONORS = 256
"""Images that are kept to lend their backgrounds; all of them on the CPU."""

NAMED = 10
SLACK = 1e-3


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


def joined(batches: Sequence[Batch]) -> Batch:
    """Return several batches as one."""
    parts = ("indices", "images", "masks", "labels")
    return Batch(*(torch.cat([getattr(batch, part) for batch in batches]) for part in parts))


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
    return Survey(
        labels=torch.cat(labels),
        left_out=len(source) - seen,
        mean=mean,
        std=std,
        colour=(total / pixels).float(),
        donors=joined(donors),
    )


def _as_channels(normalization: Normalization | None) -> tuple[Tensor, Tensor]:
    if normalization is None:
        return torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
    try:
        mean, std = (torch.tensor([float(value) for value in values]).view(-1, 1, 1) for values in normalization)
    except (TypeError, ValueError) as error:
        raise InvalidTypeError(
            f"normalization must be (mean, std), each a sequence of one number a channel; got {normalization!r}"
        ) from error
    if len(mean) != len(std) or len(mean) not in (1, 3) or not bool((std > 0).all() and mean.isfinite().all()):
        raise InvalidValueError(
            f"normalization must be (mean, std) for 1 or 3 channels, finite and std > 0; got {normalization!r}"
        )
    return mean, std


def _check_range(images: Tensor, mean: Tensor, std: Tensor) -> None:
    if len(mean) not in (1, images.shape[1]):
        raise InvalidValueError(f"normalization has {len(mean)} channels, images have {images.shape[1]}")
    plain = images * std + mean
    low, high = plain.min().item(), plain.max().item()
    if low < -SLACK or high > 1 + SLACK:
        raise InvalidValueError(
            f"images must lie in [0, 1] once their normalisation is undone; got {low:.4g} to {high:.4g}; pass the mean "
            "and standard deviation they were normalised with as normalization=(mean, std)"
        )


def _raise_problems(empty: list[str], strange: list[str], count: int) -> None:
    problems = [(empty, "no foreground"), (strange, "values other than 0 and 1")]
    lines = []
    for names, problem in problems:
        if names:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            lines.append(f"{problem} in {len(names)} of {count} masks: {', '.join(names[:NAMED])}{more}")
    if lines:
        raise InvalidValueError("; ".join(lines) + "; mend these masks or leave their images out")
