"""What a run trains and tests on, whatever kind of data it is."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zennit_isnet.data import BackgroundBias, load_digits
from zennit_isnet.data.background_bias import Background

TEST_BACKGROUNDS: dict[Background, str] = {
    "biased": "biased backgrounds",
    "unbiased": "unbiased backgrounds",
    "confounding": "confounding backgrounds",
    "none": "no backgrounds",
}


@dataclass(frozen=True)
class Sets:
    """The data sets of a run; items are ``(image, mask, label)`` or ``(image, mask, label, has_mask)``.

    Parameters
    ----------
    train, validation : Dataset
        With augmentation and without.
    classes : list of str
        Names, by index.
    multi_label : bool
        Whether an image can have several labels.
    box : tuple
        Lowest and highest value of images as the model gets them.
    mean, std : tuple of float
        The normalisation, for pictures.
    tests : mapping of str to Dataset
        Further sets that the report has accuracies on.
    checkable : mapping of str to Dataset
        Those that read mask files, which can be checked.
    """

    train: Any
    validation: Any
    classes: list[str]
    multi_label: bool
    box: tuple[Any, Any]
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    tests: Mapping[str, Any] = field(default_factory=dict)
    checkable: Mapping[str, Any] = field(default_factory=dict)


def benchmark_sets(options: argparse.Namespace) -> Sets:
    """Return the built-in benchmark: digits whose background gives the class away, tested on four backgrounds."""
    digits = load_digits()

    def part(split: Any, background: Any = "biased") -> BackgroundBias:
        return BackgroundBias(
            split=split,
            background=background,
            bias=options.bias,
            size=options.size,
            seed=options.seed,
            source=digits,
        )

    return Sets(
        train=part("train"),
        validation=part("validation"),
        classes=[str(digit) for digit in range(BackgroundBias.num_classes)],
        multi_label=False,
        box=(0.0, 1.0),
        tests={f"test, {text}": part("test", background) for background, text in TEST_BACKGROUNDS.items()},
    )
