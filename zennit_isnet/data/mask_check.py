"""`check_masks`: whether the masks of a data set are what they should be, before a training with them."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import partial
from statistics import fmean
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from tqdm.contrib.concurrent import thread_map

from zennit_isnet.checks import check_count
from zennit_isnet.data.files import MaskedImageFolder
from zennit_isnet.data.masked import MaskedDataset
from zennit_isnet.errors import InvalidTypeError, InvalidValueError

# Foreground's share of an image, None where it could not be read, and what is wrong.
Finding: TypeAlias = tuple[float | None, list["MaskProblem"]]
ProblemKind: TypeAlias = Literal[
    "unreadable", "missing", "values", "size", "empty", "all-foreground", "inverted", "unused-mask", "empty-class"
]


@dataclass(frozen=True)
class MaskProblem:
    """One thing that is wrong, or looks wrong.

    Attributes
    ----------
    kind : str
        ``"unreadable"`` image or mask file; ``"missing"`` mask; ``"values"`` that the data set's `binarize` does not
        allow; ``"size"`` other than the image's; ``"empty"`` mask without foreground; ``"all-foreground"`` mask, which
        is legal, but teaches nothing; ``"inverted"``, if most of the border is foreground, and a larger share of it
        than of the rest; ``"unused-mask"`` without an image; ``"empty-class"`` without images.
    name : str
        The image, or the mask or class if it is without images.
    detail : str
        What was found, with the names of the files.
    """

    kind: ProblemKind
    name: str
    detail: str


@dataclass(frozen=True)
class ClassCoverage:
    """Masks of the images of one class.

    Attributes
    ----------
    name : str
        The class, or ``"all"``.
    images, missing, empty, full : int
        Number of images, of those without a mask, with a mask without foreground, and with a mask without background.
    mean, lowest, highest : float
        Foreground's share of the image, in [0, 1], over the masks that could be read; NaN if there is none.
    """

    name: str
    images: int
    missing: int
    empty: int
    full: int
    mean: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class MaskReport:
    """Coverage by class, and all problems.

    Attributes
    ----------
    classes : tuple of ClassCoverage
        One for each class. With several labels an image counts for each of its classes.
    total : ClassCoverage
        The same for all images.
    problems : tuple of MaskProblem
        In the order of the images.
    """

    classes: tuple[ClassCoverage, ...]
    total: ClassCoverage
    problems: tuple[MaskProblem, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return not self.problems

    def __str__(self) -> str:
        rows = [["class", "images", "missing", "empty", "full", "mean", "min", "max"]]
        for row in (*self.classes, self.total):
            rows.append([f"{value:.1%}" if isinstance(value, float) else str(value) for value in astuple(row)])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]) for name, *cells in rows]
        found = [f"  - {problem.kind}: {problem.detail}" for problem in self.problems]
        count = "no problems" if self.ok else f"{len(found)} problem{'s' if len(found) > 1 else ''}:"
        return "\n".join([*lines, count, *found])


def check_masks(dataset: MaskedDataset, *, workers: int | None = None, progress: bool = True) -> MaskReport:
    """Read all images and masks of a data set and collect everything that is wrong with them.

    Nothing is raised for what is found. The transform and the policies for missing and empty masks play no part;
    make the data set with ``missing="skip-penalty"``, so that missing masks are no error at its construction.

    Parameters
    ----------
    dataset : MaskedDataset
        Such as `MaskedImageFolder`; wrap others in `with_masks`.
    workers : int, optional
        Number of threads that read; 0 or 1 reads one image after the other, for data sets that are not thread-safe.
        Default: the number of processors, at most 8, because files are decoded in parallel.
    progress : bool, default True
        Whether to show a progress bar.

    Returns
    -------
    MaskReport
        ``report.ok``, ``report.problems``, ``report.classes``; ``print(report)`` shows a table.

    Raises
    ------
    InvalidTypeError
        If `dataset` is no `MaskedDataset` or `workers` no int.
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
    class  images  missing  empty  full   mean    min    max
    cat         1        0      0     0  25.0%  25.0%  25.0%
    dog         1        0      1     0   0.0%   0.0%   0.0%
    all         2        0      1     0  12.5%   0.0%  25.0%
    1 problem:
      - empty: mask of TensorDataset[1] has no foreground
    """
    if not isinstance(dataset, MaskedDataset):
        raise InvalidTypeError(f"dataset must be a MaskedDataset, see with_masks; got {type(dataset).__name__}")
    workers = min(8, os.cpu_count() or 1) if workers is None else workers
    check_count("workers", workers, low=0)
    bar = {"desc": "checking masks", "unit": "image", "disable": not progress}
    findings = thread_map(partial(_inspect, dataset), range(len(dataset)), max_workers=max(workers, 1), **bar)
    rows, problems = [], [problem for _, found in findings for problem in found]
    for label, name in enumerate(dataset.classes):
        belongs = dataset.targets[:, label] == 1 if dataset.multi_label else dataset.targets == label
        of_class = [findings[index] for index in belongs.nonzero()[:, 0].tolist()]
        if not of_class:
            problems.append(MaskProblem("empty-class", name, f"no image has the class {name}"))
        rows.append(_coverage(name, of_class))
    if isinstance(dataset, MaskedImageFolder):
        for mask in dataset.unused_masks:
            problems.append(MaskProblem("unused-mask", mask, f"mask {mask} belongs to no image"))
    return MaskReport(tuple(rows), _coverage("all", findings), tuple(problems))


def _inspect(dataset: MaskedDataset, index: int) -> Finding:
    name, mask_name = dataset.name(index), dataset.mask_name(index)
    kind: ProblemKind = "unreadable"
    try:
        image = dataset.load_image(index)
        levels = dataset.load_levels(index, image)
        if levels is None:
            return None, [MaskProblem("missing", name, f"image {name} has no mask")]
        kind = "values"
        mask = dataset.foreground(index, levels)
    except InvalidValueError as error:
        return None, [MaskProblem(kind, name, str(error))]
    found: dict[ProblemKind, str] = {}
    size, mask_size = tuple(image.shape[-2:]), tuple(mask.shape[-2:])
    if size != mask_size and not dataset.policy.resize_masks:
        found["size"] = f"image {name} has {size[0]}×{size[1]} pixels, its mask {mask_size[0]}×{mask_size[1]}"
    coverage = float(mask.float().mean())
    if coverage == 0:
        found["empty"] = f"mask {mask_name} has no foreground"
    elif coverage == 1:
        found["all-foreground"] = f"mask {mask_name} has no background"
    elif _looks_inverted(mask[0]):
        found["inverted"] = f"mask {mask_name} has its foreground mostly along the border"
    return coverage, [MaskProblem(kind, name, detail) for kind, detail in found.items()]


def _looks_inverted(mask: Tensor) -> bool:
    """Whether most of the outermost pixels are foreground, and a larger share of them than of the rest."""
    border = torch.ones_like(mask)
    border[1:-1, 1:-1] = False
    outer, inner = mask[border].float().mean(), mask[~border].float().mean()
    return bool((outer > 0.5) & (outer > inner))


def _coverage(name: str, findings: Sequence[Finding]) -> ClassCoverage:
    shares = [share for share, _ in findings if share is not None] or [math.nan]
    missing = sum(problem.kind == "missing" for _, found in findings for problem in found)
    empty, full = shares.count(0.0), shares.count(1.0)
    return ClassCoverage(name, len(findings), missing, empty, full, fmean(shares), min(shares), max(shares))
