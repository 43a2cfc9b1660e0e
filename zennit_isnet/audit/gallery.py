"""The images that a report shows, kept while the data pass by."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zennit_isnet.audit.reading import Batch
from zennit_isnet.audit.report import Examples, ImageResult
from zennit_isnet.audit.survey import Survey


@dataclass(frozen=True)
class Candidate:
    """One image with its mask and relevance, ``(C, H, W)``, ``(1, H, W)`` and ``(h, w)``, and its row in the report."""

    row: int
    share: float | None
    image: Tensor
    mask: Tensor
    relevance: Tensor


class Gallery:
    """The images with the highest shares of |relevance| on the background, and those whose rows were drawn.

    Parameters
    ----------
    count : int
        How many of the highest shares are kept.
    drawn : collection of int
        Rows of the images drawn at random.
    """

    def __init__(self, count: int, drawn: Collection[int]) -> None:
        self.count, self.drawn = count, frozenset(drawn)
        self._worst: list[Candidate] = []
        self._random: list[Candidate] = []

    def add(self, first: int, batch: Batch, rows: Sequence[ImageResult], relevance: Tensor) -> None:
        """Consider a batch, whose rows are numbered from `first`; an undefined share is never among the worst."""
        for i, row in enumerate(rows):
            candidate = Candidate(first + i, row.share, batch.images[i], batch.masks[i], relevance[i])
            if candidate.row in self.drawn:
                self._random.append(candidate)
            if candidate.share is not None:
                self._worst.append(candidate)
        self._worst = sorted(self._worst, key=lambda candidate: -(candidate.share or 0))[: self.count]

    def worst(self, survey: Survey) -> Examples:
        """Return the images with the highest shares, the highest first."""
        return _as_examples(self._worst, survey)

    def random(self, survey: Survey) -> Examples:
        """Return the images drawn at random, in the order of the data."""
        return _as_examples(self._random, survey)


def _as_examples(candidates: Sequence[Candidate], survey: Survey) -> Examples:
    if not candidates:
        return Examples((), torch.empty(0, 3, 1, 1), torch.empty(0, 1, 1, 1), torch.empty(0, 1, 1))
    return Examples(
        rows=tuple(candidate.row for candidate in candidates),
        images=survey.visible(torch.stack([candidate.image for candidate in candidates])),
        masks=torch.stack([candidate.mask for candidate in candidates]),
        relevance=torch.stack([candidate.relevance for candidate in candidates]),
    )
