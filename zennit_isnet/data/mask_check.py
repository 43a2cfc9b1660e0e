"""`check_masks`: check the masks of a data set before training with them."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import partial
from statistics import fmean
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor
from tqdm.contrib.concurrent import thread_map

from zennit_isnet.checks import check_count, looks_turned
from zennit_isnet.data.decoding import EXAMPLES, NAMED, TOP_8, listed
from zennit_isnet.data.files import MaskedFiles, MaskedImageFolder
from zennit_isnet.data.masked import MaskedDataset
from zennit_isnet.errors import InvalidTypeError, InvalidValueError

ProblemKind: TypeAlias = Literal[
    "unreadable",
    "contrast",
    "missing",
    "values",
    "size",
    "turned",
    "empty",
    "all-foreground",
    "inverted",
    "swapped",
    "unused-mask",
    "empty-class",
]

TELLING = 0.2
"""Smallest distance of an AUC from 0.5 for a note that objects of a class differ in size."""

CERTAIN = 3.0
"""The same in standard deviations of the AUC under chance, so that chance differences are not mentioned."""


@dataclass(frozen=True)
class MaskProblem:
    """One thing that is wrong or looks wrong.

    Attributes
    ----------
    kind : str
        ``"unreadable"``: an image or mask file; ``"contrast"``: an image's bytes span at most a quarter of their range,
        like 12 bits stored in 16; ``"missing"``: no mask; ``"values"``: values that the data set's `binarize` does not
        allow; ``"size"``: another size than the image; ``"turned"``: rotated by 90° against the image; ``"empty"``: a
        mask without foreground; ``"all-foreground"``: a mask without background, which is legal but has no effect;
        ``"inverted"``: most of the border is foreground, and a larger share of it than of the rest; ``"swapped"``:
        images and masks, which replaces the other problems of these images; ``"unused-mask"``: a mask without an image;
        ``"empty-class"``: a class without images.
    name : str
        The image, or the mask or class if there is no image.
    detail : str
        The finding, with the file names.
    """

    kind: ProblemKind
    name: str
    detail: str


@dataclass(frozen=True)
class ClassCoverage:
    """Masks of one class.

    Attributes
    ----------
    name : str
        The class, or ``"all"``.
    images, missing, empty, full : int
        Number of images; and of images without a mask, with a mask without foreground, and with one without background.
    mean, lowest, highest : float
        Foreground share of the image, in [0, 1], over the readable masks; NaN if there is none.
    auc : float
        How well this share alone separates the class from the others, see `size_auc`; NaN if there are no others.
    """

    name: str
    images: int
    missing: int
    empty: int
    full: int
    mean: float
    lowest: float
    highest: float
    auc: float


@dataclass(frozen=True)
class MaskReport:
    """Mask coverage by class, and all problems.

    Attributes
    ----------
    classes : tuple of ClassCoverage
        One for each class. A multi-label image counts for each of its classes.
    total : ClassCoverage
        The same for all images.
    problems : tuple of MaskProblem
        In the order of the images.
    notes : tuple of str
        Legal, but worth knowing: images without a mask, files that are not read, masks that are resized, classes that
        the mask size gives away.
    """

    classes: tuple[ClassCoverage, ...]
    total: ClassCoverage
    problems: tuple[MaskProblem, ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether there are no problems."""
        return not self.problems

    def __str__(self) -> str:
        rows = [["class", "images", "missing", "empty", "full", "mean", "min", "max", "AUC"]]
        for row in (*self.classes, self.total):
            *values, auc = astuple(row)
            cells = [_shown(value, ".1%") if isinstance(value, float) else str(value) for value in values]
            rows.append([*cells, _shown(auc, ".2f")])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]) for name, *cells in rows]
        notes = [f"note: {note}" for note in self.notes]
        total = len(self.problems)
        count = "no problems" if self.ok else f"{total} problem{'s' if total > 1 else ''}:"
        return "\n".join([*lines, *notes, count, *self._told()])

    def _told(self) -> list[str]:
        """List the problems; for a kind that most images have, and so probably one cause, only three examples."""
        counts = Counter(problem.kind for problem in self.problems)
        common = {kind for kind, count in counts.items() if count > max(NAMED, self.total.images / 2)}
        told = [f"  - {problem.kind}: {problem.detail}" for problem in self.problems if problem.kind not in common]
        for kind in sorted(common):
            details = [problem.detail for problem in self.problems if problem.kind == kind]
            told.append(f"  - {kind}: {listed(details, EXAMPLES)}")
        return told


def _shown(value: float, form: str) -> str:
    return "–" if math.isnan(value) else format(value, form)


def check_masks(dataset: MaskedDataset, *, workers: int | None = None, progress: bool = True) -> MaskReport:
    """Read all images and masks of a data set and collect all problems with them.

    Problems are reported, not raised. The transform and the policies for missing and empty masks are not used. Make the
    data set with ``missing="skip-penalty"``, so that missing masks are not an error at construction.

    Parameters
    ----------
    dataset : MaskedDataset
        For example `MaskedImageFolder`; wrap other data sets in `with_masks`.
    workers : int, optional
        Number of threads that read files; 0 or 1 reads one image at a time, for data sets that are not thread-safe. If
        None, the number of CPUs, at most 8.
    progress : bool, default=True
        Whether to show a progress bar.

    Returns
    -------
    MaskReport
        ``report.ok``, ``report.problems``, ``report.classes``; ``print(report)`` shows a table.

    Raises
    ------
    InvalidTypeError
        If `dataset` is not a `MaskedDataset` or `workers` not an int.
    InvalidValueError
        If `workers` is negative.

    Examples
    --------
    >>> import torch
    >>> from torch.utils.data import TensorDataset
    >>> from zennit_isnet.data import check_masks, with_masks
    >>> images = TensorDataset(torch.rand(2, 3, 8, 8), torch.tensor([0, 1]))
    >>> masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    >>> masks[0, 2:6, 2:6] = True
    >>> data = with_masks(images, masks, classes=["cat", "dog"], targets=[0, 1])
    >>> print(check_masks(data, progress=False))
    class  images  missing  empty  full   mean    min    max   AUC
    cat         1        0      0     0  25.0%  25.0%  25.0%  1.00
    dog         1        0      1     0   0.0%   0.0%   0.0%  0.00
    all         2        0      1     0  12.5%   0.0%  25.0%     –
    1 problem:
      - empty: mask of TensorDataset[1] has no foreground
    """
    if not isinstance(dataset, MaskedDataset):
        raise InvalidTypeError(f"dataset must be a MaskedDataset (wrap it by with_masks); got {type(dataset).__name__}")
    workers = min(8, os.cpu_count() or 1) if workers is None else workers
    check_count("workers", workers, low=0)
    bar = {"desc": "checking masks", "unit": "image", "disable": not progress}
    findings = thread_map(partial(_inspect, dataset), range(len(dataset)), max_workers=max(workers, 1), **bar)
    swapped = [dataset.name(index) for index, finding in enumerate(findings) if finding.swapped]
    all_are = 2 * len(swapped) > len(findings)
    told = [finding for finding in findings if not (all_are and finding.swapped)]
    problems = [problem for finding in told for problem in finding.problems]
    if all_are:
        detail = (
            f"images and masks look swapped: images have two values and their masks many: {listed(swapped, EXAMPLES)}"
        )
        problems.append(MaskProblem("swapped", swapped[0], detail))
    shares = torch.tensor([math.nan if finding.share is None else finding.share for finding in findings])
    known = ~shares.isnan()
    ranks = size_ranks(shares[known])
    rows, telling = [], []
    for label, name in enumerate(dataset.classes):
        belongs = dataset.targets[:, label] == 1 if dataset.multi_label else dataset.targets == label
        of_class = [findings[index] for index in belongs.nonzero()[:, 0].tolist()]
        if not of_class:
            problems.append(MaskProblem("empty-class", name, f"no image has the class {name}"))
        auc = size_auc(ranks, belongs[known])
        rows.append(_coverage(name, of_class, auc))
        if _is_telling(auc, belongs[known]):
            telling.append(f"{name} {auc:.2f}")
    if isinstance(dataset, MaskedImageFolder):
        for mask in dataset.unused_masks:
            problems.append(MaskProblem("unused-mask", mask, f"mask {mask} does not belong to an image"))
    notes = [*dataset.notes] if isinstance(dataset, MaskedFiles) else []
    if resized := [dataset.mask_name(index) for index, finding in enumerate(findings) if finding.resized]:
        notes.append(f"masks with another resolution than their images are resized: {listed(resized, EXAMPLES)}")
    if telling:
        remark = "mask size alone separates classes, a confounder that the heatmap loss does not remove"
        notes.append(f"{remark}; AUC (0.5: no information): {listed(telling)}")
    return MaskReport(tuple(rows), _coverage("all", findings), tuple(problems), tuple(notes))


class Finding(NamedTuple):
    """Findings for one image and its mask; `share` is None if it could not be read."""

    share: float | None
    problems: list[MaskProblem]
    resized: bool
    swapped: bool


def _inspect(dataset: MaskedDataset, index: int) -> Finding:
    name, mask_name = dataset.name(index), dataset.mask_name(index)
    found: dict[ProblemKind, str] = {}
    share, two_valued, swapped, resized = None, False, False, False
    kind: ProblemKind = "unreadable"
    try:
        image = dataset.load_image(index)
        if image.dtype == torch.uint8:
            low, high = int(image.min()), int(image.max())
            two_valued = bool(((image == low) | (image == high)).all())
            if high - low <= TOP_8 // 4 + 1:
                cause = "typical of 12 bits stored in 16: save it with 8 bits, or scaled to all 16"
                found["contrast"] = f"image {name} has only values from {low} to {high} of 0 to {TOP_8}; {cause}"
        levels = dataset.load_levels(index, image)
        if levels is None:
            found["missing"] = f"image {name} has no mask"
        else:
            swapped = two_valued and len(levels.values.unique()) > NAMED
            kind = "values"
            mask = dataset.foreground(index, levels)
            share, size, own = float(mask.float().mean()), tuple(image.shape[-2:]), tuple(mask.shape[-2:])
            sizes = f"image {name} has {size[0]}×{size[1]} pixels, its mask {own[0]}×{own[1]}"
            if looks_turned(own, size):
                found["turned"] = f"{sizes}, so it looks rotated"
            elif size != own and not (resized := dataset.policy.resize_masks):
                found["size"] = sizes
            if share == 0:
                found["empty"] = f"mask {mask_name} has no foreground"
            elif share == 1:
                found["all-foreground"] = f"mask {mask_name} has no background"
            elif _looks_inverted(mask[0]):
                found["inverted"] = f"mask {mask_name} has its foreground mostly along the border"
    except InvalidValueError as error:
        found[kind] = str(error)
    return Finding(share, [MaskProblem(kind, name, detail) for kind, detail in found.items()], resized, swapped)


def _looks_inverted(mask: Tensor) -> bool:
    """Whether most border pixels are foreground, and a larger share of them than of the rest."""
    border = torch.ones_like(mask)
    border[1:-1, 1:-1] = False
    outer, inner = mask[border].float().mean(), mask[~border].float().mean()
    return bool((outer > 0.5) & (outer > inner))


def _coverage(name: str, findings: Sequence[Finding], auc: float = math.nan) -> ClassCoverage:
    shares = [finding.share for finding in findings if finding.share is not None] or [math.nan]
    missing = sum(problem.kind == "missing" for finding in findings for problem in finding.problems)
    empty, full = shares.count(0.0), shares.count(1.0)
    return ClassCoverage(name, len(findings), missing, empty, full, fmean(shares), min(shares), max(shares), auc)


def size_ranks(sizes: Tensor) -> Tensor:
    """Ranks of sizes ``(N,)``, from 1; ties share their mean rank."""
    ordered = sizes.sort().values
    return (torch.searchsorted(ordered, sizes) + torch.searchsorted(ordered, sizes, right=True) + 1).double() / 2


def size_auc(ranks: Tensor, own: Tensor) -> float:
    """How well size alone separates the objects of a class from the others: the area under the ROC curve.

    Parameters
    ----------
    ranks : torch.Tensor
        Ranks of the sizes of all objects, from `size_ranks`, shape ``(N,)``.
    own : torch.Tensor
        True for the objects of the class, shape ``(N,)``, dtype bool.

    Returns
    -------
    float
        The probability that an object of the class is larger than one of the others, with ties counted as one half; NaN
        if either group is empty.

    Examples
    --------
    >>> ranks = size_ranks(torch.tensor([0.3, 0.2, 0.1, 0.2]))
    >>> size_auc(ranks, torch.tensor([True, True, False, False]))
    0.875
    """
    count = int(own.sum())
    pairs = count * (len(own) - count)
    return (float(ranks[own].sum()) - count * (count + 1) / 2) / pairs if pairs else math.nan


def _is_telling(auc: float, own: Tensor) -> bool:
    """Whether an AUC is far from 0.5, and farther than by chance; False for NaN."""
    count = int(own.sum())
    chance = math.sqrt((len(own) + 1) / (12 * max(count * (len(own) - count), 1)))
    return abs(auc - 0.5) >= max(TELLING, CERTAIN * chance)
