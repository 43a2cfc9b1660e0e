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

RESAMPLES = 200
"""Number of bootstrap samples, for the interval of F1."""


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
        right and one wrong, because a few groups that are all right do not tell that images are independent; they have
        the size of the group of a random image.

        References
        ----------
        .. [1] Korn, E. L., Graubard, B. I. "Confidence intervals for proportions with small expected number of positive
           counts estimated from survey data". Surv. Methodol. 24 (1998).
        """
        sizes, hits = Counter(groups), Counter(compress(groups, right))
        count, part = len(groups), sum(hits.values())
        if not count:
            return cls(0, 0, 0.0)
        usual = alike = sum(size**2 for size in sizes.values()) / count
        value = (part + usual) / (count + 2 * usual)
        pairs = [*((hits[group], size) for group, size in sizes.items()), (0, usual), (usual, usual)]
        spread = sum((hit - value * size) ** 2 for hit, size in pairs) * len(pairs) / (len(pairs) - 1)
        effect = spread / (value * (1 - value) * (count + 2 * usual))
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

    Recalls have Wilson's interval, balanced accuracy that of `Balanced`, and AUROC Wilson's for as many images as have
    its variance [1]_, made symmetric in the classes [2]_; of several classes, for the one with the fewest. F1 has a
    bootstrap interval, which is too narrow for few images: groups are drawn with replacement within each class, so that
    no sample lacks a class. Where all samples agree, it has none.

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

    References
    ----------
    .. [1] Hanley, J. A., McNeil, B. J. "The meaning and use of the area under a receiver operating characteristic (ROC)
       curve". Radiology 143 (1982).
    .. [2] Newcombe, R. G. "Confidence intervals for an effect size measure based on the Mann-Whitney statistic. Part 2:
       asymptotic methods and evaluation". Stat. Med. 25 (2006). Method 4.
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
    ends["macro_f1"] = _drawn(logits, labels, groups)
    if "auroc" in values:
        area = min(values["auroc"], 1.0)
        ends["auroc"] = wilson(area, _images_of_area(area, labels, groups, count))
    return {name: [value, *ends.get(name, ())] for name, value in values.items()}


def _recall(right: Tensor, among: Tensor, groups: Sequence[str]) -> GroupedProportion:
    """Return the proportion of correct images among some."""
    return GroupedProportion.of(right[among].tolist(), [groups[index] for index in among.nonzero()[:, 0].tolist()])


def _drawn(logits: Tensor, labels: Tensor, groups: Sequence[str]) -> list[float]:
    """Return the bootstrap interval of F1; empty if the samples agree, or if most of them lack a label."""
    several = labels.is_floating_point()
    members: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, (kind, group) in enumerate(zip([0] * len(labels) if several else labels.tolist(), groups, strict=True)):
        members[kind][group].append(index)
    pools = [list(of_groups.values()) for of_groups in members.values()]
    drawing, samples = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        drawn = [index for pool in pools for at in drawing.integers(len(pool), size=len(pool)) for index in pool[at]]
        if not several or torch.equal(_mixed(labels[drawn]), _mixed(labels)):
            samples.append(figures(logits[drawn], labels[drawn], areas=False)["macro_f1"])
    if len(samples) <= RESAMPLES / 2 or min(samples) == max(samples):
        return []
    ends: list[float] = np.quantile(samples, [0.025, 0.975]).tolist()
    return ends


def _mixed(labels: Tensor) -> Tensor:
    """Return which labels are on for some images and off for others, ``(C,)``."""
    return labels.bool().any(0) & ~labels.bool().all(0)


def _images_of_area(area: float, labels: Tensor, groups: Sequence[str], count: int) -> float:
    """Return how many images have a proportion of the same variance as an AUROC; for the class with the fewest."""
    on = labels.bool() if labels.is_floating_point() else F.one_hot(labels, count).bool()
    found = []
    for one in _mixed(on).nonzero()[:, 0].tolist():
        n, m = (_recall(torch.ones_like(side), side, groups).effective for side in (on[:, one], ~on[:, one]))
        found.append(n * m / (1 + ((n + m) / 2 - 1) * ((1 - area) / (2 - area) + area / (1 + area))))
    return min(found)
