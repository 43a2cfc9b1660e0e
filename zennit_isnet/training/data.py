"""Batches of masked images for Lightning, from data sets or from files."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Subset
from torchvision.transforms import v2

from zennit_isnet.checks import check_count, check_number
from zennit_isnet.data import BackgroundBias, MaskedImageTable, evaluation_transform, load_digits, training_transform
from zennit_isnet.data.background_bias import Background, Bias
from zennit_isnet.data.decoding import Binarize
from zennit_isnet.data.files import MaskedFiles
from zennit_isnet.data.masked import Empty, Missing
from zennit_isnet.data.opening import open_masked
from zennit_isnet.data.transforms import Fit
from zennit_isnet.errors import InvalidValueError
from zennit_isnet.training.seeding import EpochOrder, Keyed

logger = logging.getLogger(__name__)

PARTS = ("train", "val", "test")
"""What the column `split` may hold."""

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class MaskedData(LightningDataModule):
    """Batches ``(images, masks, labels, has_mask, indices)`` of data sets with foreground masks.

    Their order and the random transforms depend on seed, epoch and index alone: a run that is resumed after an epoch,
    or with another number of workers, sees what it would have seen.

    Parameters
    ----------
    train, val : Dataset
        Items ``(image, mask, label)`` or ``(image, mask, label, has_mask)``, such as those of `zennit_isnet.data`.
    tests : mapping of str to Dataset, optional
        Test sets by name.
    batch_size : int, default 32
        Images of a batch in each process.
    workers : int, default 0
        Processes that read images.
    seed : int, default 0
        Of order and transforms.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If `batch_size` or `workers` is not allowed. From `train_dataloader`: if no batch can be filled.

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
        """Return the name of each image of a test set, and of the group that it belongs to: here itself."""
        data, of_part = _whole(self.tests[test])
        name = getattr(data, "name", str)
        names = [str(name(of_part[index])) for index in indices]
        return list(zip(names, names, strict=True))

    def train_dataloader(self) -> DataLoader[Any]:
        """Return shuffled batches; a last one of fewer images is left out."""
        world, rank = self._processes()
        order = EpochOrder(range(len(self.train)), world, rank, seed=self.seed, drop_last=world > 1)
        order.set_epoch(0 if self.trainer is None else self.trainer.current_epoch)
        if len(order) < self.batch_size:
            found = f"{len(self.train)} training images in {world} process(es) and batches of {self.batch_size}"
            raise InvalidValueError(f"a batch must not be larger than the images of a process; got {found}")
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
        """Batches of a fixed order that mixes the classes, for backgrounds are swapped within a batch."""
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
            # its own: an iteration draws a number for its workers, which must not come from the training's generator
            generator=torch.Generator().manual_seed(self.seed),
        )

    def _processes(self) -> tuple[int, int]:
        return (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)


class MaskedImages(MaskedData):
    """Images, masks and labels in files.

    Parameters
    ----------
    images : str, optional
        A folder with a folder for each class, a CSV file, or annotations (COCO, CVAT, LabelMe).
    masks : str, optional
        The parallel folder of masks; CSV files and annotations name masks themselves.
    val : sequence of str, default ()
        The same for validation: ``[images]`` or ``[images, masks]``. Default: a part of the training images.
    tests : mapping of str to sequence of str, optional
        The same for each test set, such as other hospitals, by name.
    benchmark : {"patch", "texture"}, optional
        The built-in digits, whose background names the class, in place of files.
    root : str, optional
        Folder that paths in CSV files start from; default: that of the file.
    columns : mapping of str to str, optional
        What a CSV file calls the columns ``image``, ``mask`` and ``label``, such as ``{image: file}``.
    split : str, optional
        Column of the CSV file that says ``train``, ``val`` or ``test`` of each image.
    group : str, optional
        Column of what must not be divided between training, validation and test, such as the patient; the intervals of
        tests are over groups.
    val_share : float, default 0.2
        Part of the training images of each class, in whole groups, for validation where neither `val` nor `split` is
        given.
    classes : sequence of str, optional
        Names of the classes in the order of the logits, of two the positive one last; see `MaskedImageTable`. Images
        of a table with other labels are left out. Default: the sorted names.
    labels : {"category", "folder"} or str, optional
        Where the labels of annotations come from, see `AnnotatedImages`.
    mask_suffix, missing, empty, binarize, resize_masks
        See `MaskedImageFolder`. Validation and test images may have no mask, and their crops may lose the object.
    size : int, optional
        Height and width of the images for the model. Default 224, or 32 of the benchmark.
    fit : {"crop", "whole"}, default "crop"
        How images are tested: the centre, as torchvision does, or the whole image, squeezed into the square. The
        centre lacks the corners, where the markers of X-rays are.
    crop_scale : float, default 0.08
        Smallest part of an image in a training crop; 0.08 is torchvision's, X-rays want 0.5 and more.
    flip : float, default 0.5
        Chance of a mirrored training image.
    channels : {1, 3}, default 3
        Colour channels of the model's images.
    mean, std : sequence of float, optional
        For the normalization. Default: those of ImageNet, of grey images their means; of the benchmark none.
    batch_size, workers, seed
        See `MaskedData`; `seed` also decides which images validate.

    Raises
    ------
    InvalidValueError
        If options do not belong together, or as the data sets of `zennit_isnet.data` raise it.

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
            raise InvalidValueError(f"give images, or benchmark; got images={images!r} and benchmark={benchmark!r}")
        if benchmark is not None and channels != 3:
            raise InvalidValueError(f"the digits of benchmark have 3 channels; got channels={channels}")
        if (mean is None) != (std is None):
            raise InvalidValueError(f"give mean and std, or neither; got mean={mean} and std={std}")
        if split is not None and val:
            raise InvalidValueError(f"give val, or the column split that names the validation images; got {val}")
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
            # images that are only tested need no mask, and a crop may lose the object
            how |= {"empty": "skip-penalty", "missing": "skip-penalty", "transform": v2.Compose([*grey, still])}
            how |= {"classes": train.classes, "multi_label": train.multi_label}
            if val:
                parts: dict[str, Any] = {"train": train, "val": _opened(val, how)}
            else:
                # the same images in the same order
                again = {**how, "missing": "drop"} if missing == "drop" else how
                parts = _divided(train, _opened(source, again), split, group, val_share, seed)
            others = {name: _opened(part, how) for name, part in (tests or {}).items()}
            if both := sorted(parts.keys() & others):
                raise InvalidValueError(f"a test must not be called {both[0]!r}: images of the column split are")
            if group is not None:
                _check_groups(parts, others, group)
            sets = parts.pop("train"), parts.pop("val"), parts | others
            if absent := [name for name, count in zip(train.classes, _counts(sets[0]), strict=True) if not count]:
                raise InvalidValueError(f"each class must have a training image; got none of {', '.join(absent)}")
        super().__init__(*sets, batch_size=batch_size, workers=workers, seed=seed)

    def describe(self, test: str, indices: Sequence[int]) -> list[tuple[str, str]]:
        """Return the file of each image of a test set, and its group: its cell in that column, else itself."""
        found, data = super().describe(test, indices), self.tests[test]
        if self.group is None or not isinstance(_whole(data)[0], MaskedImageTable):
            return found
        groups = _cells(data, self.group)
        return [(name, groups[index]) for (name, _), index in zip(found, indices, strict=True)]


def _whole(part: Any) -> tuple[Any, Sequence[int]]:
    """The data set that a part is taken from, and which of its images they are."""
    if not isinstance(part, Subset):
        return part, range(len(part))
    data, indices = _whole(part.dataset)
    return data, [indices[index] for index in part.indices]


def _digits(bias: Bias, size: int, seed: int) -> tuple[Any, Any, dict[str, Any]]:
    """Training, validation and test sets of the built-in benchmark; it is tested on other backgrounds too."""
    part = partial(BackgroundBias, bias=bias, size=size, seed=seed, source=load_digits())
    tests = {f"{name} backgrounds": part(split="test", background=name) for name in get_args(Background)}
    return part(split="train"), part(split="validation"), tests


def _opened(source: Sequence[str], options: Mapping[str, Any]) -> MaskedFiles:
    """Open a folder, table or annotations."""
    if not 1 <= len(source) <= 2:
        raise InvalidValueError(f"give a CSV file, or a folder of images and one of masks; got {list(source)}")
    data = open_masked(*source, **options)
    for note in data.notes:
        logger.info("%s: %s", source[0], note)
    wanted = options.get("multi_label")
    if wanted is not None and data.multi_label != wanted:
        kinds = ("one label", "several labels")
        raise InvalidValueError(f"{source[0]} must have {kinds[wanted]} for each image, as the training images have")
    return data


def _divided(
    train: MaskedFiles, tested: MaskedFiles, split: str | None, group: str | None, share: float, seed: int
) -> dict[str, Subset[Any]]:
    """Divide the images of one source: by a column, or at random in each class, and then a group stays together."""
    if split is not None:
        names = _cells(train, split)
        if wrong := sorted(set(names) - set(PARTS)):
            raise InvalidValueError(f"the column {split!r} must hold {', '.join(PARTS)}; got {', '.join(wrong[:3])}")
    else:
        groups = list(map(str, range(len(train)))) if group is None else _cells(train, group)
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
        raise InvalidValueError(f"some images must train and some validate; got {found}")
    return {part: Subset(train if part == "train" else tested, at) for part, at in at_of.items() if at}


def _check_groups(parts: Mapping[str, Any], others: Mapping[str, MaskedFiles], column: str) -> None:
    """Raise if a group is divided between the parts of the home data, or a table has no such column."""
    seen: dict[str, str] = {}
    for name, part in parts.items():
        for cell in sorted(set(_cells(part, column))):
            if seen.setdefault(cell, name) != name:
                found = f"{cell!r} is in {seen[cell]} and in {name}"
                raise InvalidValueError(f"groups of the column {column!r} must not be divided; {found}")
    for part in others.values():
        if isinstance(part, MaskedImageTable):
            part.column(column)


def _counts(part: Any) -> list[int]:
    """Number of images of each class in a data set of files, or a part of one."""
    data, indices = _whole(part)
    targets = data.targets[list(indices)]
    if data.multi_label:
        return [int(count) for count in targets.sum(0)]
    return [int(count) for count in torch.bincount(targets, minlength=len(data.classes))]


def _cells(part: Any, column: str) -> list[str]:
    """What a column of the table says of each image."""
    data, indices = _whole(part)
    if not isinstance(data, MaskedImageTable):
        raise InvalidValueError(f"the column {column!r} needs a CSV file of the images; they are in no table")
    cells = data.column(column)
    return [cells[index] for index in indices]
