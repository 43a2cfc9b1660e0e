"""`check_masks`: whether the masks of a data set are what they should be, before a training with them."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from zennit_isnet.data.folder import MaskedImageFolder
from zennit_isnet.data.mask_report import ClassCoverage, MaskProblem, MaskReport, ProblemKind
from zennit_isnet.data.masked import MaskedDataset
from zennit_isnet.errors import InvalidTypeError, InvalidValueError

_DEFAULT_WORKERS = 8


class _Finding(NamedTuple):
    coverage: float | None
    problems: tuple[MaskProblem, ...]
    missing: bool = False


def check_masks(dataset: MaskedDataset, *, workers: int | None = None, progress: bool = True) -> MaskReport:
    """Read all images and masks of a data set and collect everything that is wrong with them.

    Nothing is raised for what is found. The transform and the policies for missing and empty masks play no part;
    make the data set with ``missing="skip-penalty"``, so that missing masks are no error at its construction.

    Parameters
    ----------
    dataset : MaskedDataset
        Such as `MaskedImageFolder`; wrap others in `with_masks`.
    workers : int, optional
        Number of threads that read; 0 reads in the calling thread, for data sets that are not thread-safe. Default:
        the number of processors, at most 8, because files are decoded in parallel.
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
    >>> data = with_masks(images, masks, classes=["cat", "dog"], targets=[0, 1], names=["1.png", "2.png"])
    >>> print(check_masks(data, progress=False))
    class  images  missing  empty  full   mean    min    max
    cat         1        0      0     0  25.0%  25.0%  25.0%
    dog         1        0      1     0   0.0%   0.0%   0.0%
    all         2        0      1     0  12.5%   0.0%  25.0%
    1 problem:
      - empty: mask of 2.png has no foreground
    """
    if not isinstance(dataset, MaskedDataset):
        raise InvalidTypeError(f"dataset must be a MaskedDataset, see with_masks; got {type(dataset).__name__}")
    if workers is None:
        workers = min(_DEFAULT_WORKERS, os.cpu_count() or 1)
    if not isinstance(workers, int) or isinstance(workers, bool):
        raise InvalidTypeError(f"workers must be an int; got {workers!r}")
    if workers < 0:
        raise InvalidValueError(f"workers must not be negative; got {workers}")
    findings = _inspected(dataset, workers, progress)
    rows, problems = [], [problem for finding in findings for problem in finding.problems]
    for label, name in enumerate(dataset.classes):
        belongs = dataset.targets[:, label] == 1 if dataset.multi_label else dataset.targets == label
        of_class = [finding for finding, flag in zip(findings, belongs.tolist(), strict=True) if flag]
        if not of_class:
            problems.append(MaskProblem("empty-class", name, f"no image has the class {name}"))
        rows.append(_coverage(name, of_class))
    if isinstance(dataset, MaskedImageFolder):
        problems += [
            MaskProblem("unused-mask", mask, f"mask {mask} belongs to no image") for mask in dataset.unused_masks
        ]
    return MaskReport(tuple(rows), _coverage("all", findings), tuple(problems))


def _inspected(dataset: MaskedDataset, workers: int, progress: bool) -> list[_Finding]:
    def inspect(index: int) -> _Finding:
        return _inspect(dataset, index)

    places = range(len(dataset))
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        findings = pool.map(inspect, places) if workers else map(inspect, places)
        return list(tqdm(findings, total=len(places), desc="checking masks", unit="image", disable=not progress))


def _inspect(dataset: MaskedDataset, index: int) -> _Finding:
    name, mask_name = dataset.name(index), dataset.mask_name(index)

    def problem(kind: ProblemKind, detail: str) -> MaskProblem:
        return MaskProblem(kind, name, detail)

    try:
        image = dataset.load_image(index)
        levels = dataset.load_levels(index, image)
    except InvalidValueError as error:
        return _Finding(None, (problem("unreadable", str(error)),))
    if levels is None:
        return _Finding(None, (problem("missing", f"image {name} has no mask"),), missing=True)
    try:
        mask = dataset.foreground(index, levels)
    except InvalidValueError as error:
        return _Finding(None, (problem("values", str(error)),))
    problems = []
    size, mask_size = tuple(image.shape[-2:]), tuple(mask.shape[-2:])
    if size != mask_size and not dataset.policy.resize_masks:
        problems.append(
            problem("size", f"image {name} has {size[0]}×{size[1]} pixels, its mask {mask_size[0]}×{mask_size[1]}")
        )
    coverage = float(mask.float().mean())
    if coverage == 0:
        problems.append(problem("empty", f"mask {mask_name} has no foreground"))
    elif coverage == 1:
        problems.append(problem("all-foreground", f"mask {mask_name} has no background"))
    elif _looks_inverted(mask[0]):
        problems.append(problem("inverted", f"mask {mask_name} has its foreground mostly along the border"))
    return _Finding(coverage, tuple(problems))


def _looks_inverted(mask: Tensor) -> bool:
    """Whether most of the outermost pixels are foreground, and a larger share of them than of the rest."""
    border = torch.ones_like(mask)
    border[1:-1, 1:-1] = False
    outer, inner = mask[border].float().mean(), mask[~border].float().mean()
    return bool((outer > 0.5) & (outer > inner))


def _coverage(name: str, findings: Sequence[_Finding]) -> ClassCoverage:
    shares = [finding.coverage for finding in findings if finding.coverage is not None]
    return ClassCoverage(
        name,
        images=len(findings),
        missing=sum(finding.missing for finding in findings),
        empty=shares.count(0.0),
        full=shares.count(1.0),
        mean=fmean(shares) if shares else math.nan,
        lowest=min(shares, default=math.nan),
        highest=max(shares, default=math.nan),
    )
