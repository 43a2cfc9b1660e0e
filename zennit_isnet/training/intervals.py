"""95 % intervals of test figures, when images come in groups such as patients."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from statistics import fmean

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from zennit_isnet.audit.verdict import Balanced, Proportion, Z
from zennit_isnet.training.figures import figures

MOST_CLASSES = 20
"""Largest number of classes for an AUROC interval, which is slow."""

RESAMPLES = 200
"""Number of bootstrap samples, for the intervals of AUROC and F1."""


@dataclass(frozen=True)
class GroupedProportion(Proportion):
    """Proportion of images that come in groups, such as the correct ones of a class.

    Parameters
    ----------
    part, count : int
        As for `Proportion`.
    effective : float
        Number of independent images that would say as much.

    Examples
    --------
    >>> found = GroupedProportion.of([True] * 90 + [False] * 10, list(map(str, range(100))))
    >>> found.value, [round(end, 3) for end in found.interval]
    (0.9, [0.826, 0.945])
    """

    effective: float

    @classmethod
    def of(cls, right: Sequence[bool], groups: Sequence[str]) -> GroupedProportion:
        """Count images, and how much those of a group are alike.

        The design effect is the variance of the proportion relative to that of independent images. It lies between 1
        and its value if the images of a group are all right or all wrong. It is estimated with two groups more, one
        right and one wrong, because a few groups that are all right do not tell that images are independent.

        References
        ----------
        .. [1] Korn, E. L., Graubard, B. I. "Confidence intervals for proportions with small expected number of positive
           counts estimated from survey data". Surv. Methodol. 24 (1998).
        """
        sizes, hits = Counter(groups), Counter(compress(groups, right))
        count, part = len(groups), sum(hits.values())
        if not count:
            return cls(0, 0, 0.0)
        usual = count / len(sizes)
        value = (part + usual) / (count + 2 * usual)
        pairs = [*((hits[group], size) for group, size in sizes.items()), (0, usual), (usual, usual)]
        spread = sum((hit - value * size) ** 2 for hit, size in pairs) * len(pairs) / (len(pairs) - 1)
        effect = spread / (value * (1 - value) * (count + 2 * usual))
        alike = sum(size**2 for size in sizes.values()) / count
        return cls(part, count, count / min(max(effect, 1.0), alike))

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval for the effective number of images; (0, 1) without images."""
        return (0.0, 1.0) if self.value is None else wilson(self.value, self.effective)


def wilson(value: float, count: float) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a proportion of `count` images, which need not be whole.

    Examples
    --------
    >>> [round(end, 3) for end in wilson(1.0, 3)]
    [0.439, 1.0]
    """
    centre = (value + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z * math.sqrt(value * (1 - value) / count + Z**2 / (4 * count**2)) / (1 + Z**2 / count)
    return max(0.0, centre - half), min(1.0, centre + half)


def with_intervals(logits: Tensor, labels: Tensor, groups: Sequence[str]) -> dict[str, list[float]]:
    """Return each of `figures` with its 95 % interval.

    Recalls have Wilson's interval, and balanced accuracy that of `Balanced`. AUROC and F1 have a bootstrap interval:
    groups are drawn with replacement within each class, so that no sample lacks a class. Where all samples agree, AUROC
    has Wilson's interval for as many images as the smaller side has, because its variance is at most that of their
    proportion; F1 has none. AUROC for many classes has none either.

    If all images have one class, only its recall is returned: ``sensitivity`` or ``specificity`` for two classes,
    otherwise ``recall``.

    Parameters
    ----------
    logits, labels : Tensor
        See `figures`.
    groups : sequence of str
        Group of each image, such as the patient.

    Notes
    -----
    The classes count as independent. Several labels of an image do not: the ends of their intervals are averaged, as if
    all were right together. Samples in which a label is on, or off, for no image are left out.
    """
    values = figures(logits, labels)
    if not values:
        return {}
    count = logits.shape[1]
    ends: dict[str, Sequence[float]]
    if labels.is_floating_point():
        on = labels.bool()
        right = (logits.float().sigmoid() > 0.5) == on
        sides = [[_recall(right[:, one], side[:, one], groups) for side in (on, ~on)] for one in range(count)]
        both = [Balanced(tuple(pair)).interval for pair in sides if all(part.count for part in pair)]
        ends = {"balanced_accuracy": [fmean(side) for side in zip(*both, strict=True)]}
    else:
        right = logits.float().softmax(1).argmax(1) == labels
        recalls = [_recall(right, labels == one, groups) for one in range(count)]
        names = ["specificity", "sensitivity"] if count == 2 else ["recall"] * count
        present = labels.unique().tolist()
        if len(present) == 1:
            alone = recalls[present[0]]
            return {names[present[0]]: [alone.part / alone.count, *alone.interval]}
        ends = {name: recall.interval for name, recall in zip(names, recalls, strict=True)}
        ends["balanced_accuracy"] = Balanced(tuple(recalls)).interval
    ends |= _drawn(logits, labels, groups)
    if "auroc" in ends and ends["auroc"][0] == ends["auroc"][1]:
        ends["auroc"] = wilson(values["auroc"], _smaller_side(labels, groups, count))
    if "macro_f1" in ends and ends["macro_f1"][0] == ends["macro_f1"][1]:
        del ends["macro_f1"]
    return {name: [value, *ends.get(name, ())] for name, value in values.items()}


def _recall(right: Tensor, among: Tensor, groups: Sequence[str]) -> GroupedProportion:
    """Return the proportion of correct images among some."""
    return GroupedProportion.of(right[among].tolist(), [groups[index] for index in among.nonzero()[:, 0].tolist()])


def _drawn(logits: Tensor, labels: Tensor, groups: Sequence[str]) -> dict[str, Sequence[float]]:
    """Return the bootstrap intervals of AUROC and F1."""
    several = labels.is_floating_point()
    members: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, (kind, group) in enumerate(zip([0] * len(labels) if several else labels.tolist(), groups, strict=True)):
        members[kind][group].append(index)
    pools = [list(of_groups.values()) for of_groups in members.values()]
    drawing, samples = np.random.default_rng(0), defaultdict(list)
    for _ in range(RESAMPLES):
        drawn = [index for pool in pools for at in drawing.integers(len(pool), size=len(pool)) for index in pool[at]]
        if several and not torch.equal(_mixed(labels[drawn]), _mixed(labels)):
            continue
        for name, value in figures(logits[drawn], labels[drawn], areas=logits.shape[1] <= MOST_CLASSES).items():
            samples[name].append(value)
    return {
        name: np.quantile(samples[name], [0.025, 0.975]).tolist()
        for name in ("macro_f1", "auroc")
        if len(samples[name]) > RESAMPLES / 2
    }


def _mixed(labels: Tensor) -> Tensor:
    """Return which labels are on for some images and off for others, ``(C,)``."""
    return labels.bool().any(0) & ~labels.bool().all(0)


def _smaller_side(labels: Tensor, groups: Sequence[str], count: int) -> float:
    """Return the fewest images with or without a class, as a number of independent ones, if all are alike."""
    on = labels.bool() if labels.is_floating_point() else F.one_hot(labels, count).bool()
    sides = [side[:, one] for one in _mixed(on).nonzero()[:, 0].tolist() for side in (on, ~on)]
    return min(_recall(torch.ones_like(side), side, groups).effective for side in sides)
