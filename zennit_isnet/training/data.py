"""Batches of masked images for Lightning, from data sets or files."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader, Subset
from torchvision.transforms import v2

from zennit_isnet.checks import check_count, check_number
from zennit_isnet.data import BackgroundBias, MaskedImageTable, evaluation_transform, load_digits, training_transform
from zennit_isnet.data.background_bias import Background, Bias
from zennit_isnet.data.decoding import Binarize, listed
from zennit_isnet.data.files import MaskedFiles
from zennit_isnet.data.masked import Empty, Missing
from zennit_isnet.data.opening import open_masked
from zennit_isnet.data.transforms import Fit
from zennit_isnet.errors import InvalidValueError
from zennit_isnet.training.seeding import EpochOrder, Keyed

logger = logging.getLogger(__name__)

PARTS = ("train", "val", "test")
"""Allowed values in the column `split`."""

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class MaskedData(LightningDataModule):
    """Batches ``(images, masks, labels, has_mask, indices)`` from data sets with foreground masks.

    Their order and the random transforms depend only on seed, epoch and index: a run that is resumed after an epoch, or
    with another number of workers, sees the same batches as an uninterrupted run.

    Parameters
    ----------
    train, val : Dataset
        Items ``(image, mask, label)`` or ``(image, mask, label, has_mask)``, such as those of `zennit_isnet.data`.
    tests : mapping of str to Dataset, optional
        Test sets by name.
    batch_size : int, default=32
        Images per batch and process.
    workers : int, default=0
        Number of processes that load images.
    seed : int, default=0
        Seed of order and transforms.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If `batch_size` or `workers` is not allowed. In `train_dataloader`: if no batch can be filled.

    Examples
    --------
    >>> from zennit_isnet.data import BackgroundBias
    >>> from zennit_isnet.training import MaskedData
    >>> train, val = (BackgroundBias(split=split) for split in ("train", "validation"))
    >>> images, masks, labels, has_mask, indices = next(iter(MaskedData(train, val, batch_size=4).train_dataloader()))
    >>> images.shape, masks.shape
    (torch.Size([4, 3, 32, 32]), torch.Size([4, 1, 32, 32]))
    """

    def __init__(
        self,
        train: Any,
        val: Any,
        tests: Mapping[str, Any] | None = None,
        *,
        batch_size: int = 32,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_count("batch_size", batch_size)
        check_count("workers", workers, low=0)
        self.train, self.val, self.tests = train, val, dict(tests or {})
        self.batch_size, self.workers, self.seed = batch_size, workers, seed

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the logits."""
        return list(_whole(self.train)[0].classes)

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several labels."""
        return bool(getattr(_whole(self.train)[0], "multi_label", False))

    def describe(self, test: str, indices: Sequence[int]) -> list[tuple[str, str]]:
        """Return the name of each test image and of its group: here the image itself."""
        names = _names(Subset(self.tests[test], indices))
        return list(zip(names, names, strict=True))

    def train_dataloader(self) -> DataLoader[Any]:
        """Return shuffled batches; an incomplete last batch is dropped."""
        world, rank = self._processes()
        order = EpochOrder(range(len(self.train)), world, rank, seed=self.seed, drop_last=world > 1)
        order.set_epoch(0 if self.trainer is None else self.trainer.current_epoch)
        if len(order) < self.batch_size:
            found = f"{len(self.train)} training images in {world} process(es) and batches of {self.batch_size}"
            raise InvalidValueError(f"a batch must not have more images than a process; got {found}")
        return self._loader(self.train, order, drop_last=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the validation images."""
        return self._in_order(self.val)

    def test_dataloader(self) -> list[DataLoader[Any]]:
        """Return the images of each test set."""
        return [self._in_order(data) for data in self.tests.values()]

    def calibration_dataloader(self) -> DataLoader[Any]:
        """Return all validation images, in each process."""
        return self._in_order(self.val, (1, 0))

    def _in_order(self, data: Any, processes: tuple[int, int] | None = None) -> DataLoader[Any]:
        """Return batches in a fixed order that mixes classes, because backgrounds are swapped within a batch."""
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0)).tolist()
        world, rank = processes or self._processes()
        return self._loader(data, EpochOrder(order, world, rank, shuffle=False))

    def _loader(self, data: Any, order: EpochOrder, *, drop_last: bool = False) -> DataLoader[Any]:
        return DataLoader(
            Keyed(data, self.seed),
            self.batch_size,
            sampler=order,
            num_workers=self.workers,
            drop_last=drop_last,
            pin_memory=torch.cuda.is_available(),
            # a separate generator: iterating draws a seed for the workers, which must not change the training's draws
            generator=torch.Generator().manual_seed(self.seed),
        )

    def _processes(self) -> tuple[int, int]:
        return (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)


class MaskedImages(MaskedData):
    """Images, masks and labels from files.

    Parameters
    ----------
    images : str, optional
        A folder with a folder for each class, a CSV file, or annotations (COCO, CVAT, LabelMe).
    masks : str, optional
        The parallel folder of masks; CSV files and annotations define masks themselves.
    val : sequence of str, default=()
        The same for validation: ``[images]`` or ``[images, masks]``, or ``[file, root]`` for a CSV file or annotations
        with a root of its own. If empty, part of the training images.
    tests : mapping of str to sequence of str, optional
        The same for each test set, by name, such as other hospitals.
    benchmark : {"patch", "texture"}, optional
        Use the built-in digits, whose background gives the class away, instead of files.
    root : str, optional
        Folder that paths in CSV files and annotations are relative to. If None, the file's folder.
    columns : mapping of str to str, optional
        Names of the columns ``image``, ``mask`` and ``label`` in the CSV files, such as ``{image: file}``.
    split : str, optional
        Column of the CSV file that assigns each image to ``train``, ``val`` or ``test``.
    group : str, optional
        Column of groups that must not be split between training, validation and test, such as patients; test intervals
        are computed over groups. An image with a blank cell is a group of its own. Test sets in other CSV files are not
        compared, because numbers of patients may coincide by chance.
    val_share : float, default=0.2
        Fraction of each class's training images, in whole groups, used for validation if neither `val` nor `split` is
        given.
    classes : sequence of str, optional
        Names of the classes in the order of the logits; for two classes, the positive one last. See `MaskedImageTable`.
        A table's images with other labels are left out. If None, the sorted names.
    labels : {"category", "folder"} or str, optional
        Source of labels for annotations, see `AnnotatedImages`.
    mask_suffix, missing, empty, binarize, resize_masks
        See `MaskedImageFolder`. Validation and test images may lack a mask, and their crops may miss the object.
    size : int, optional
        Height and width of the model's images. If None, 224, or 32 for the benchmark.
    fit : {"crop", "whole"}, default="crop"
        Test images: the centre crop, as in torchvision, or the whole image, squeezed into the square. The centre crop
        cuts off the corners, where X-rays have their markers.
    crop_scale : float, default=0.08
        Smallest area of a training crop, as a fraction of the image; 0.08 is torchvision's, use 0.5 or more for X-rays.
    flip : float, default=0.5
        Probability of a horizontal flip in training.
    channels : {1, 3}, default=3
        Channels of the model's images.
    mean, std : sequence of float, optional
        For the normalization. If None, ImageNet's, averaged over the channels for grey images; none for the benchmark.
    batch_size, workers, seed
        See `MaskedData`; `seed` also determines the validation images.

    Raises
    ------
    InvalidValueError
        If options do not fit together, a training image or its group is also used for validation or a test, or raised
        by the data sets of `zennit_isnet.data`. In `load_state_dict`: if a run would be resumed on other images.

    Examples
    --------
    >>> from zennit_isnet.training import MaskedImages
    >>> data = MaskedImages(benchmark="patch")
    >>> data.classes[:3], len(data.tests)
    (['0', '1', '2'], 4)
    """

    def __init__(
        self,
        images: str | None = None,
        masks: str | None = None,
        *,
        val: Sequence[str] = (),
        tests: Mapping[str, Sequence[str]] | None = None,
        benchmark: Bias | None = None,
        root: str | None = None,
        columns: Mapping[str, str] | None = None,
        split: str | None = None,
        group: str | None = None,
        val_share: float = 0.2,
        classes: Sequence[str] | None = None,
        labels: str | None = None,
        mask_suffix: str = "",
        missing: Missing = "error",
        empty: Empty = "error",
        binarize: Binarize = "strict",
        resize_masks: bool = False,
        size: int | None = None,
        fit: Fit = "crop",
        crop_scale: float = 0.08,
        flip: float = 0.5,
        channels: Literal[1, 3] = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        batch_size: int = 32,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        if (images is None) == (benchmark is None):
            raise InvalidValueError(
                f"pass either images or benchmark; got images={images!r} and benchmark={benchmark!r}"
            )
        if benchmark is not None and channels != 3:
            raise InvalidValueError(f"benchmark needs channels=3; got channels={channels}")
        if (mean is None) != (std is None):
            raise InvalidValueError(f"pass both mean and std, or neither; got mean={mean} and std={std}")
        if split is not None and val:
            raise InvalidValueError(
                f"pass either val or split, which already names the validation images; got val={val}"
            )
        check_number("val_share", val_share, high=1.0)
        self.fit = fit
        self.size, self.channels, self.group = size or (32 if benchmark else 224), channels, group
        if mean is None or std is None:
            mean, std = IMAGENET if channels == 3 else tuple([sum(part) / 3] for part in IMAGENET)
        self.mean, self.std = ([0.0], [1.0]) if benchmark else (list(mean), list(std))
        sets: tuple[Any, Any, dict[str, Any]]
        if benchmark is not None:
            sets = _digits(benchmark, self.size, seed)
        else:
            grey = [v2.Grayscale()] if channels == 1 else []
            moved = training_transform(self.size, self.mean, self.std, scale=(crop_scale, 1.0), flip=flip)
            still = evaluation_transform(self.size, self.mean, self.std, fit=fit)
            how: dict[str, Any] = {"root": root, "columns": columns, "mask_suffix": mask_suffix, "labels": labels}
            how |= {"binarize": binarize, "resize_masks": resize_masks}
            source = [part for part in (images, masks) if part is not None]
            first = {**how, "empty": empty, "missing": missing, "transform": v2.Compose([*grey, moved])}
            train = _opened(source, {**first, "classes": classes})
            if not train.multi_label and len(train.classes) < 2:
                raise InvalidValueError(
                    f"{images} must have images of at least two classes; got only {train.classes[0]!r}"
                )
            # test images do not need a mask, and a crop may lose the object
            how |= {"empty": "skip-penalty", "missing": "skip-penalty", "transform": v2.Compose([*grey, still])}
            how |= {"classes": train.classes, "multi_label": train.multi_label}
            if val:
                parts: dict[str, Any] = {"train": train, "val": _opened(*_rooted(val, how))}
            else:
                # the same images in the same order
                again = {**how, "missing": "drop"} if missing == "drop" else how
                parts = _divided(train, open_masked(*source, **again), split, group, val_share, seed)
            others = {name: _opened(*_rooted(part, how)) for name, part in (tests or {}).items()}
            if both := sorted(parts.keys() & others):
                raise InvalidValueError(
                    f"a test set must not be named {both[0]!r}: the column split already defines it"
                )
            _check_apart(parts["train"], {name: part for name, part in (parts | others).items() if name != "train"})
            if group is not None:
                same = [name for name, part in (tests or {}).items() if os.path.samefile(part[0], source[0])]
                _check_groups(parts | {name: others[name] for name in same}, others, group)
            sets = parts.pop("train"), parts.pop("val"), parts | others
            if absent := [name for name, count in zip(train.classes, _counts(sets[0]), strict=True) if not count]:
                raise InvalidValueError(f"each class must have a training image; got none for {', '.join(absent)}")
        super().__init__(*sets, batch_size=batch_size, workers=workers, seed=seed)

    def describe(self, test: str, indices: Sequence[int]) -> list[tuple[str, str]]:
        """Return the file of each test image, and its group: its cell in the group column, or itself."""
        found, data = super().describe(test, indices), self.tests[test]
        if self.group is None or not isinstance(_whole(data)[0], MaskedImageTable):
            return found
        groups = _groups(data, self.group)
        return [(name, groups[index]) for (name, _), index in zip(found, indices, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """Return a fingerprint of the training and validation images and their labels, for checkpoints."""
        return {"images": self._fingerprint}

    @cached_property
    def _fingerprint(self) -> str:
        # each checkpoint has it, and data sets may be large
        parts = [list(zip(_names(part), _labels(part).tolist(), strict=True)) for part in (self.train, self.val)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raise if a run would be resumed on other images; a test may follow a change."""
        training = self.trainer is None or self.trainer.state.fn == TrainerFn.FITTING
        if training and state_dict != self.state_dict():
            raise InvalidValueError(
                "a resumed run must have the training and validation images, and labels, that it began with; they have "
                "changed: restore the files and tables, or start again with another output folder"
            )


def _whole(part: Any) -> tuple[Any, Sequence[int]]:
    """Return the data set that a part comes from, and the indices of its images."""
    if not isinstance(part, Subset):
        return part, range(len(part))
    data, indices = _whole(part.dataset)
    return data, [indices[index] for index in part.indices]


def _names(part: Any) -> list[str]:
    """Return the name of each image, such as its file."""
    data, indices = _whole(part)
    name = getattr(data, "name", str)
    return [str(name(index)) for index in indices]


def _labels(part: Any) -> torch.Tensor:
    """Return the label of each image."""
    data, indices = _whole(part)
    labels: torch.Tensor = data.targets[list(indices)]
    return labels


def _digits(bias: Bias, size: int, seed: int) -> tuple[Any, Any, dict[str, Any]]:
    """Return the training, validation and test sets of the built-in benchmark, including other backgrounds."""
    part = partial(BackgroundBias, bias=bias, size=size, seed=seed, source=load_digits())
    tests = {f"{name} backgrounds": part(split="test", background=name) for name in get_args(Background)}
    return part(split="train"), part(split="validation"), tests


def _opened(source: Sequence[str], options: Mapping[str, Any]) -> MaskedFiles:
    """Open a folder, a table or annotations."""
    if not 1 <= len(source) <= 2:
        raise InvalidValueError(
            f"pass a CSV file, annotations, or a folder of images and one of masks; got {list(source)}"
        )
    data = open_masked(*source, **options)
    for note in data.notes:
        logger.info("%s: %s", source[0], note)
    wanted = options.get("multi_label")
    if wanted is not None and data.multi_label != wanted:
        kinds = ("one label", "several labels")
        raise InvalidValueError(f"{source[0]} must have {kinds[wanted]} per image, like the training images")
    return data


def _rooted(source: Sequence[str], options: Mapping[str, Any]) -> tuple[Sequence[str], Mapping[str, Any]]:
    """Take the folder after a CSV file or annotations as their root."""
    if len(source) == 2 and os.path.isfile(source[0]):
        return source[:1], {**options, "root": source[1]}
    return source, options


def _divided(
    train: MaskedFiles, tested: MaskedFiles, split: str | None, group: str | None, share: float, seed: int
) -> dict[str, Subset[Any]]:
    """Split the images of one source: by a column, or at random within each class and by whole groups."""
    if split is not None:
        names = _cells(train, split)
        if wrong := sorted(set(names) - set(PARTS)):
            raise InvalidValueError(f"the column {split!r} must contain {', '.join(PARTS)}; got {', '.join(wrong[:3])}")
    else:
        # an image that occurs in several rows stays in one part
        groups = _names(train) if group is None else _groups(train, group)
        members: dict[str, list[int]] = defaultdict(list)
        for at, name in enumerate(groups):
            members[name].append(at)
        kinds = [str(target.tolist()) for target in train.targets]
        wanted = {kind: share * count for kind, count in Counter(kinds).items()}
        held: set[str] = set()
        names_of_groups = list(members)
        for position in torch.randperm(len(members), generator=torch.Generator().manual_seed(seed)).tolist():
            images = members[names_of_groups[position]]
            if wanted[kinds[images[0]]] > 0:
                held.add(names_of_groups[position])
                for at in images:
                    wanted[kinds[at]] -= 1
        names = ["val" if name in held else "train" for name in groups]
    at_of = {part: [at for at, name in enumerate(names) if name == part] for part in PARTS}
    if not at_of["train"] or not at_of["val"]:
        found = f"{len(at_of['train'])} and {len(at_of['val'])} of {len(names)} images"
        raise InvalidValueError(f"there must be training and validation images; got {found}")
    return {part: Subset(train if part == "train" else tested, at) for part, at in at_of.items() if at}


def _check_apart(train: Any, tests: Mapping[str, Any]) -> None:
    """Raise if a training image is also used for validation or a test."""
    trained = set(map(os.path.realpath, _names(train)))
    for test, part in tests.items():
        if shared := [name for name in _names(part) if os.path.realpath(name) in trained]:
            raise InvalidValueError(
                f"validation and test images must not be training images; got {len(shared)} of {len(part)} in "
                f"{test!r}: {listed(shared)}"
            )


def _check_groups(parts: dict[str, Any], others: dict[str, Any], column: str) -> None:
    """Raise if a group is split between parts, or a table lacks the column; warn of blank cells."""
    seen: dict[str, str] = {}
    for name, part in parts.items():
        for group in sorted(set(_groups(part, column))):
            if seen.setdefault(group, name) != name:
                found = f"{group!r} is in {seen[group]} and in {name}"
                raise InvalidValueError(f"groups in the column {column!r} must not be split; {found}")
    tables = [part for part in (parts | others).values() if isinstance(_whole(part)[0], MaskedImageTable)]
    cells = [cell for part in tables for cell in _cells(part, column)]
    if blank := cells.count(""):
        warnings.warn(
            f"{blank} of {len(cells)} images have a blank cell in the column {column!r}; each counts as a group of its "
            "own, so images of the same group may be split",
            stacklevel=3,
        )


def _counts(part: Any) -> list[int]:
    """Return the number of images of each class in a data set of files, or a subset."""
    data, targets = _whole(part)[0], _labels(part)
    if data.multi_label:
        return [int(count) for count in targets.sum(0)]
    return [int(count) for count in torch.bincount(targets, minlength=len(data.classes))]


def _cells(part: Any, column: str) -> list[str]:
    """Return a table column's cell for each image."""
    data, indices = _whole(part)
    if not isinstance(data, MaskedImageTable):
        raise InvalidValueError(f"the column {column!r} needs images from a CSV file; got another source")
    cells = data.column(column)
    return [cells[index] for index in indices]


def _groups(part: Any, column: str) -> list[str]:
    """Return the group of each image: its cell in a table's column, or its file where the cell is blank."""
    return [cell or name for cell, name in zip(_cells(part, column), _names(part), strict=True)]
