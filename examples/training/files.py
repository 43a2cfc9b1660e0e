"""Data sets of image and mask files."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch.utils.data import Subset

from training.sets import Sets
from zennit_isnet.data import (
    MaskedImageFolder,
    MaskedImageTable,
    OxfordPetMasks,
    evaluation_transform,
    training_transform,
)
from zennit_isnet.errors import InvalidValueError

Maker = Callable[..., Any]


@dataclass(frozen=True)
class Source:
    """Makers of the training set, of the validation set (None: a part of the former), and of test sets."""

    train: Maker
    validation: Maker | None = None
    tests: dict[str, Maker] = field(default_factory=dict)


def folder_source(options: argparse.Namespace) -> Source:
    """Return the source of ``--data folder``: one folder of images and one of masks, with a subfolder a class."""
    make = partial(
        MaskedImageFolder,
        mask_suffix=options.mask_suffix,
        binarize=options.binarize,
        resize_masks=options.resize_masks,
    )
    train = partial(make, options.images, options.masks)
    return Source(train, options.val_images and partial(make, options.val_images, options.val_masks))


def table_source(options: argparse.Namespace) -> Source:
    """Return the source of ``--data csv``: a table of image, mask and label."""
    make = partial(MaskedImageTable, root=options.root, binarize=options.binarize, resize_masks=options.resize_masks)
    train = partial(make, options.csv, classes=options.class_names)
    return Source(train, options.val_csv and partial(make, options.val_csv))


def pet_source(options: argparse.Namespace) -> Source:
    """Return the source of ``--data oxford-pet``."""
    make = partial(
        OxfordPetMasks,
        options.root,
        labels=options.pet_labels,
        download=options.download,
        resize_masks=options.resize_masks,
    )
    return Source(partial(make, split="trainval"), tests={"test": partial(make, split="test")})


SOURCES = {"folder": folder_source, "csv": table_source, "oxford-pet": pet_source}


def file_sets(options: argparse.Namespace) -> Sets:
    """Return the data sets that the command line names.

    Raises
    ------
    ISNetError
        If files are missing or do not fit together.
    """
    augmented = training_transform(
        options.size, options.mean, options.std, scale=(options.crop_scale, 1.0), flip=options.flip
    )
    plain = evaluation_transform(options.size, options.mean, options.std)
    source = SOURCES[options.data](options)
    train = source.train(transform=augmented, missing=options.missing, empty=options.empty)
    # a centre crop may lose the object, and an image without a mask can be tested all the same
    lenient = {
        "transform": plain,
        "missing": "skip-penalty" if options.missing == "skip-penalty" else "error",
        "empty": "skip-penalty",
    }
    if source.validation is None:
        # the same images have the same indices in both
        unchanged = source.train(**{**lenient, "missing": options.missing})
        training_part, validation = _split(train, unchanged, options)
    else:
        training_part, validation = train, _with_classes_of(train, source.validation, options, lenient)
    return Sets(
        train=training_part,
        validation=validation,
        classes=list(train.classes),
        multi_label=train.multi_label,
        box=plain.box,
        mean=options.mean,
        std=options.std,
        tests={name: make(**lenient) for name, make in source.tests.items()},
        checkable={"training": train} if source.validation is None else {"training": train, "validation": validation},
    )


def _with_classes_of(train: Any, make: Maker, options: argparse.Namespace, lenient: dict[str, Any]) -> Any:
    known = {"classes": train.classes, "multi_label": train.multi_label} if options.data == "csv" else {}
    validation = make(**lenient, **known)
    if list(validation.classes) != list(train.classes):
        raise InvalidValueError(
            f"the validation set must have the classes of the training set, {train.classes}; got {validation.classes}"
        )
    return validation


def _split(train: Any, unchanged: Any, options: argparse.Namespace) -> tuple[Subset[Any], Subset[Any]]:
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(options.seed)).tolist()
    held_out = max(1, round(options.val_split * len(order)))
    return Subset(train, order[held_out:]), Subset(unchanged, order[:held_out])
