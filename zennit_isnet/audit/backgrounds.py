"""Versions of an image that differ in the background, or have nothing but background."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from zennit_isnet.audit.reading import Batch
from zennit_isnet.audit.survey import Survey
from zennit_isnet.swap import swap_backgrounds
from zennit_isnet.swap.filling import fill_holes

Version: TypeAlias = Literal["kept", "swapped", "same_class", "mean", "black", "removed"]


@dataclass(frozen=True)
class Altered:
    """One version of a batch.

    Attributes
    ----------
    images : Tensor
        ``(N, C, H, W)``.
    counts : Tensor
        ``(N,)``, bool: False where the version cannot be made, because no donor fits or no background is left.
    """

    images: Tensor
    counts: Tensor


def versions(batch: Batch, survey: Survey, chance: random.Random) -> dict[Version, Altered]:
    """Make all versions of a batch.

    Parameters
    ----------
    batch : Batch
        Images with some foreground and some background.
    survey : Survey
        Colours and donors.
    chance : random.Random
        Draws the donors.

    Returns
    -------
    dict of str to Altered
        ``"kept"``: the images. ``"swapped"``: on the background of an image of another class. ``"same_class"``: on
        that of another image of the same class. ``"mean"`` and ``"black"``: on one colour. ``"removed"``: without
        their object.
    """
    return {
        "kept": Altered(batch.images, torch.ones(len(batch), dtype=torch.bool)),
        "swapped": _on_donors(batch, survey.donors, same_class=False, chance=chance),
        "same_class": _on_donors(batch, survey.donors, same_class=True, chance=chance),
        "mean": _painted(batch, survey.colour),
        "black": _painted(batch, survey.black),
        "removed": without_object(batch.images, batch.masks),
    }


def without_object(images: Tensor, masks: Tensor) -> Altered:
    """Replace the bounding box of each object by what lies around it.

    The box, and not the mask, because the blurred filling of a mask still shows the object's outline. Where the box
    leaves no pixel free, the version does not count.
    """
    rows, columns = masks.amax(3, keepdim=True) > 0, masks.amax(2, keepdim=True) > 0
    box = _between(rows, 2) & _between(columns, 3)
    return Altered(fill_holes(images, ~box), ~box.flatten(1).all(1))


def _between(marked: Tensor, dim: int) -> Tensor:
    """Mark everything from the first to the last mark along an axis."""
    marks = marked.int()
    return (marks.cummax(dim).values * marks.flip(dim).cummax(dim).values.flip(dim)).bool()


def _painted(batch: Batch, colour: Tensor) -> Altered:
    images = torch.where(batch.masks == 1, batch.images, colour.to(batch.images.dtype))
    return Altered(images, torch.ones(len(batch), dtype=torch.bool))


def _on_donors(batch: Batch, donors: Batch, *, same_class: bool, chance: random.Random) -> Altered:
    fits = (donors.labels == batch.labels[:, None]) == same_class
    fits &= donors.indices != batch.indices[:, None]
    counts = fits.any(1)
    if not bool(counts.any()):
        return Altered(batch.images, counts)
    drawn = torch.tensor([chance.choice(row.nonzero()[:, 0].tolist()) if row.any() else 0 for row in fits])
    images = torch.cat([batch.images, donors.images[drawn]])
    masks = torch.cat([batch.masks, donors.masks[drawn]])
    own = torch.arange(len(images))
    # each image takes the background of the donor that stands one batch behind it; donors stay as they are
    partner = torch.cat([own[len(batch) :], own[len(batch) :]])
    return Altered(swap_backgrounds(images, masks, partner)[: len(batch)], counts)
