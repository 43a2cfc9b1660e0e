"""Data sets with images and masks in files: lists of files, parallel folders, a CSV file, and Oxford-IIIT Pet."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping, Sequence
from operator import eq
from typing import Literal, TypeAlias
from unicodedata import normalize

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.datasets import OxfordIIITPet
from torchvision.datasets.folder import IMG_EXTENSIONS

from zennit_isnet.checks import check_choice
from zennit_isnet.data.decoding import EXAMPLES, Binarize, Levels, Path, binarized, listed, read_image, read_levels
from zennit_isnet.data.dicom import DICOM_EXTENSIONS
from zennit_isnet.data.masked import Empty, MaskedDataset, MaskPolicy, Missing, PairTransform
from zennit_isnet.errors import InvalidValueError

EXTENSIONS = (*IMG_EXTENSIONS, *DICOM_EXTENSIONS)
"""Extensions of image files."""

PetSplit: TypeAlias = Literal["trainval", "test"]
PetLabels: TypeAlias = Literal["breed", "species"]
OtherLabels: TypeAlias = Literal["error", "drop"]

BINARY = {"0": False, "1": True, "False": False, "True": True}
"""Allowed cells in the column of a class."""

NOT_NAMES = re.compile(r"-\d+(\.\d*)?|\d*\.\d+|nan|<na>", re.IGNORECASE)
"""Cells in a label column that are errors, unless `classes` lists them."""

COLUMNS = ("image", "mask", "label")
"""Columns of a CSV file that may have other names."""

SEPARATOR = "|"
"""Separator of several labels or masks of an image in a CSV file."""

HELPERS = {
    *("__MACOSX", "__pycache__", "@eaDir", "@Recycle", "#recycle", "#snapshot", "$RECYCLE.BIN", "lost+found"),
    *("System Volume Information", "Thumbs.db", "desktop.ini"),
}
"""Folders and files created by programs, which are ignored, like all names that start with a dot."""

PARTS = {
    *("train", "training", "val", "valid", "validation", "dev", "test", "testing"),
    *("image", "images", "img", "imgs", "mask", "masks"),
}
"""Names of folders that suggest a data set's parent folder instead of its class folders."""

FOREGROUND = {1, 3}
"""Foreground values of a trimap: the animal and its border, so that relevance on its fur is not penalised."""


class MaskedFiles(MaskedDataset):
    """Images with masks, given as lists of files; base class for folders and tables.

    Parameters
    ----------
    files : sequence of (str, tuple of str)
        Each image file with its mask files, whose union is the mask; an empty tuple if there is no mask.
    classes : sequence of str
        Names of the classes.
    targets : torch.Tensor
        Labels, as for `MaskedDataset`.
    transform, policy
        As for `MaskedDataset`. A mask with a nonexistent file counts as missing.
    others : sequence of str, optional
        Possible mask files that do not belong to an image. If None, unknown.

    Attributes
    ----------
    dropped : list of str
        Images that ``missing="drop"`` left out.
    notes : list of str
        Sentences for the `check_masks` report: legal, but worth knowing.

    Raises
    ------
    InvalidValueError
        If an image does not exist, a mask does not exist and `missing` is ``"error"``, all mask names seem wrong, or no
        image remains.
    """

    def __init__(
        self,
        files: Sequence[tuple[str, tuple[str, ...]]],
        classes: Sequence[str],
        targets: Tensor,
        transform: PairTransform | None,
        policy: MaskPolicy,
        others: Sequence[str] | None = None,
    ) -> None:
        absent = [image for image, _ in files if not os.path.isfile(image)]
        if absent:
            raise InvalidValueError(f"{len(absent)} of {len(files)} images do not exist: {listed(absent)}")
        # an incomplete mask counts as missing: it would mark the rest of the object as background
        has_mask = [bool(masks) and all(map(os.path.isfile, masks)) for _, masks in files]
        without = [pair for pair, found in zip(files, has_mask, strict=True) if not found]
        self.notes = []
        if without:
            told = [f"{image}{_looked_for(masks, others)}" for image, masks in without[:EXAMPLES]]
            more = ", ..." if len(without) > EXAMPLES else ""
            self.notes.append(f"{len(without)} of {len(files)} images have no mask: {', '.join(told)}{more}")
            if others and len(without) == len(files):
                raise InvalidValueError(
                    f"{self.notes[0]}; masks must have the same relative paths and names as their images"
                )
            if policy.missing == "error":
                raise InvalidValueError(f'{self.notes[0]}; pass missing="skip-penalty" or "drop" to allow this')
        kept = [index for index, found in enumerate(has_mask) if found or policy.missing != "drop"]
        self._files = [(files[index][0], files[index][1] if has_mask[index] else ()) for index in kept]
        self._kept = kept
        self.dropped = [image for image, _ in without] if policy.missing == "drop" else []
        super().__init__(classes, targets[kept], transform, policy)

    def name(self, index: int) -> str:
        """Path of the image file."""
        return self._files[index][0]

    def mask_name(self, index: int) -> str:
        """Path of the mask file, or paths of several."""
        return " and ".join(self._files[index][1])

    def load_image(self, index: int) -> tv_tensors.Image:
        """Read the image file, see `read_image`."""
        return read_image(self.name(index))

    def load_levels(self, index: int, image: tv_tensors.Image) -> Levels | None:
        """Read the mask file, see `read_levels`; for several, the union of their foregrounds."""
        masks = self._files[index][1]
        if len(masks) < 2:
            return read_levels(masks[0]) if masks else None
        parts = [binarized(read_levels(mask), self.policy.binarize, f"mask {mask}") for mask in masks]
        if len(sizes := {"×".join(map(str, part.shape[1:])) for part in parts}) > 1:
            raise InvalidValueError(f"masks {self.mask_name(index)} must have the same size; got {' and '.join(sizes)}")
        return Levels(torch.stack(parts).any(0)[0], 1.0)


def _looked_for(masks: Sequence[str], others: Sequence[str] | None) -> str:
    """Return where a missing mask was expected, and the file with the most similar name."""
    mask = next((mask for mask in masks if not os.path.isfile(mask)), None)
    if mask is None:
        return ""
    folder, wanted = os.path.dirname(mask) or ".", _plain(mask)

    def likeness(file: str) -> tuple[bool, bool, int, int]:
        found = _plain(file)
        name, own = os.path.basename(wanted), os.path.basename(found)
        return name == own, name in own, sum(map(eq, wanted, found)), -len(found)

    if others is not None:
        nearest = max(others, key=likeness, default="")
        unread = "" if nearest.lower().endswith(IMG_EXTENSIONS) else ", which is not read"
    else:
        beside = _shown(os.listdir(folder)) if os.path.isdir(folder) else []
        nearest, unread = max((os.path.join(folder, name) for name in beside), key=likeness, default=""), ""
    return f" (looked for {mask}, nearest is {nearest}{unread})" if nearest else f" (looked for {mask})"


def _plain(path: str) -> str:
    """Return a path without extensions, normalised in case and Unicode form."""
    folder, name = os.path.split(normalize("NFC", path).casefold())
    return os.path.join(folder, name.split(".")[0])


def _shown(names: Sequence[str]) -> list[str]:
    """Return sorted names of files and folders, without hidden and program-generated ones."""
    return sorted(name for name in names if not name.startswith(".") and name not in HELPERS)


def files_below(root: str, extensions: tuple[str, ...]) -> list[str]:
    """Return the sorted paths of all files with one of these extensions in a folder and its subfolders."""
    return _divided_below(root, extensions)[0]


def _divided_below(root: str, extensions: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Return files with one of these extensions, and other files, by folder and name, without hidden ones."""
    files = []
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = _shown(folders)
        files += [os.path.join(folder, name) for name in _shown(names)]
    files.sort(key=os.path.split)
    wanted = [file for file in files if file.lower().endswith(extensions)]
    return wanted, [file for file in files if not file.lower().endswith(extensions)]


class MaskedImageFolder(MaskedFiles):
    """Images in one folder per class, as for `torchvision.datasets.ImageFolder`, with masks in a parallel folder.

    The image ``images_root/CLASS/.../NAME.jpg`` has the mask ``masks_root/CLASS/.../NAME.png``: the same relative path,
    in any Unicode form, with any of torchvision's image extensions. Classes are the sorted names of the folders. Hidden
    files and folders, and program-generated ones such as ``.ipynb_checkpoints``, ``__MACOSX`` and ``@eaDir``, are
    ignored.

    Parameters
    ----------
    images_root : path
        The folder of images, including DICOM images, see `read_image`.
    masks_root : path or sequence of path
        The folder of masks, or several folders, such as one for each lung. The mask of an image is then the union of
        its masks in all folders. All of them must exist: half a mask would mark the other half of the object as
        background.
    mask_suffix : str, default=""
        Suffix of mask names after the image name, such as ``"_mask"``. With it, both folders may be the same.
    allow_empty : bool, default=False
        Whether a class folder may be empty, for instance in a small validation set.
    transform : callable, optional
        ``transform(image, mask) -> (image, mask)``, such as `training_transform` or `torchvision.transforms.v2`.
    missing : {"error", "skip-penalty", "drop"}, default="error"
        How images without a mask are handled, see `MaskPolicy`.
    empty : {"error", "skip-penalty"}, default="error"
        How masks without foreground are handled, see `MaskPolicy`.
    binarize : {"strict", "half", "nonzero"} or collection of int, default="strict"
        Which values of a mask are foreground, see `MaskPolicy`.
    resize_masks : bool, default=False
        Whether to resize masks whose size differs from their image, see `MaskPolicy`.

    Attributes
    ----------
    classes, num_classes, multi_label, targets, yields_has_mask
        As for `MaskedDataset`.
    dropped : list of str
        Images that ``missing="drop"`` left out.
    unused_masks : list of str
        Mask files that belong to no image.
    notes : list of str
        Images without a mask and files that are not read, for the report of `check_masks`.

    Raises
    ------
    InvalidValueError
        If a folder does not exist, has no classes or looks like the folder above, a class has no image, an image
        has several masks or a mask several images, no mask belongs to an image, or an image has no mask and `missing`
        is ``"error"``. When an item is read: if a file cannot be read, or a mask is rotated against its image or has
        another size, illegal values or no foreground. Messages name the files.
    InvalidTypeError
        If an option has the wrong type.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from zennit_isnet.data import MaskedImageFolder, evaluation_transform
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for kind, mode in (("images", "RGB"), ("masks", "L")):
    ...         for animal in ("cat", "dog"):
    ...             file = Path(folder) / kind / animal / "1.png"
    ...             file.parent.mkdir(parents=True)
    ...             Image.new(mode, (40, 30), "white").save(file)
    ...     data = MaskedImageFolder(f"{folder}/images", f"{folder}/masks", transform=evaluation_transform(32))
    ...     image, mask, label = data[1]
    >>> data.classes, label, image.shape, mask.shape
    (['cat', 'dog'], 1, torch.Size([3, 32, 32]), torch.Size([1, 32, 32]))
    """

    def __init__(
        self,
        images_root: Path,
        masks_root: Path | Sequence[Path],
        *,
        mask_suffix: str = "",
        allow_empty: bool = False,
        transform: PairTransform | None = None,
        missing: Missing = "error",
        empty: Empty = "error",
        binarize: Binarize = "strict",
        resize_masks: bool = False,
    ) -> None:
        policy = MaskPolicy(missing, empty, binarize, resize_masks)
        images_root = os.fspath(images_root)
        several = [masks_root] if isinstance(masks_root, (str, os.PathLike)) else masks_root
        roots = [os.fspath(root) for root in several]
        if not roots or not all(map(os.path.isdir, roots)):
            raise InvalidValueError(f"masks_root must be an existing folder or several of them; got {masks_root!r}")
        classes, unread = _class_folders(images_root, roots, mask_suffix)
        images, labels = [], []
        # in one folder, the suffix tells the masks from the images
        shared = [root for root in roots if os.path.samefile(root, images_root)]
        for label, name in enumerate(classes):
            found, other_files = _divided_below(os.path.join(images_root, name), EXTENSIONS)
            if shared:
                of_others = _masks_among(found, mask_suffix)
                found = [file for file in found if file not in of_others]
            if not found and not allow_empty:
                endings = f"with one of the extensions {', '.join(EXTENSIONS)}"
                raise InvalidValueError(f"class {name} has no image {endings}; pass allow_empty=True to allow this")
            images += found
            labels += [label] * len(found)
            unread += other_files
        masks_of, no_masks, beside = {}, [], []
        for mask_folder in roots:
            masks, other_files = _divided_below(mask_folder, IMG_EXTENSIONS)
            if mask_folder in shared:
                beside += masks
                of_others = _masks_among(masks, mask_suffix)
                masks, other_files = [file for file in masks if file in of_others], []
            masks_of[mask_folder] = by_stem(mask_folder, masks)
            no_masks += other_files
        files = []
        for stem, image in by_stem(images_root, images).items():
            name = normalize("NFC", stem + mask_suffix)
            # the pattern is shown in messages about a missing mask
            pairs = masks_of.items()
            files.append((image, tuple(of.pop(name, os.path.join(root, f"{name}.*")) for root, of in pairs)))
        self.unused_masks = sorted(mask for masks in masks_of.values() for mask in masks.values())
        targets = torch.tensor(labels, dtype=torch.int64)
        super().__init__(files, classes, targets, transform, policy, [*self.unused_masks, *no_masks, *beside])
        if unread := unread + no_masks:
            endings = f"outside class folders, or without one of the extensions {', '.join(EXTENSIONS)}"
            self.notes.append(f"files that are not read ({len(unread)}), {endings}: {listed(unread, EXAMPLES)}")


def _class_folders(images_root: str, masks_roots: Sequence[str], mask_suffix: str) -> tuple[list[str], list[str]]:
    """Return the names of the class folders, and the files beside them."""
    try:
        names = _shown(os.listdir(images_root))
    except OSError as error:
        raise InvalidValueError(f"images_root must be an existing folder: {error}") from error
    paths = {name: os.path.join(images_root, name) for name in names}
    classes = [name for name, path in paths.items() if os.path.isdir(path)]
    needed = "images_root must hold a folder of images for each class"
    if not classes:
        raise InvalidValueError(f"{needed}; got {images_root!r}, which contains no folder")
    if {name.casefold() for name in classes} <= PARTS:
        remedy = "which look like splits of a data set: pass the folder below that contains the classes"
        raise InvalidValueError(f"{needed}; got {images_root!r} with {listed(classes, EXAMPLES)}, {remedy}")
    for masks_root in masks_roots:
        of_masks = os.path.join(os.path.realpath(masks_root), "")
        for name in classes:
            if of_masks.startswith(os.path.join(os.path.realpath(paths[name]), "")):
                found = f"{images_root!r}, whose folder {name} contains masks_root {masks_root!r}"
                raise InvalidValueError(f"{needed}; got {found}")
        if of_masks == os.path.join(os.path.realpath(images_root), "") and not mask_suffix:
            another = "different from images_root, or pass mask_suffix"
            raise InvalidValueError(f"masks_root must be {another}; got {masks_root!r}")
    return classes, [path for name, path in paths.items() if name not in classes]


def _masks_among(files: Sequence[str], suffix: str) -> set[str]:
    """Return the files that are named like another one with the suffix."""
    stems = {file: normalize("NFC", os.path.splitext(file)[0]) for file in files}
    masks = {stem + normalize("NFC", suffix) for stem in stems.values()}
    return {file for file, stem in stems.items() if stem in masks}


def by_stem(root: str, files: Sequence[str]) -> dict[str, str]:
    """Return files by their relative paths without extension, in order."""
    grouped: dict[str, list[str]] = {}
    for file in files:
        # composed, like most programs write names; macOS decomposes them
        grouped.setdefault(normalize("NFC", os.path.splitext(os.path.relpath(file, root))[0]), []).append(file)
    doubles = [" and ".join(same) for same in grouped.values() if len(same) > 1]
    if doubles:
        raise InvalidValueError(
            f"images and masks are paired by name without extension, which must be unique; got {listed(doubles)}"
        )
    return {stem: file for stem, (file,) in grouped.items()}


class MaskedImageTable(MaskedFiles):
    r"""Images, masks and labels from a CSV file, with one or several labels per image.

    The first line names the columns ``image``, ``mask`` and either ``label`` or one column per class:

    .. code-block:: text

        image,mask,label        image,mask,label            image,mask,cat,dog
        1.jpg,1.png,cat         1.jpg,1.png,cat|dog         1.jpg,1.png,1,1
        2.jpg,,dog              2.jpg,2.png,dog             2.jpg,2.png,0,1

    Labels are names, or integers from 0, also as ``1.0``; columns of classes hold 0 and 1, also as ``0.0`` or ``True``.
    Negative, fractional and NaN labels are errors, and so are blank cells in class columns, which could mean no or
    unknown. An empty ``mask`` means that the image has none. Several masks, as in ``left.png|right.png``, are combined
    into their union; all must exist. If there is a ``label`` column, other columns are ignored, and so is a column
    without a name, such as the pandas index.

    Parameters
    ----------
    table : path
        The CSV file: UTF-8, commas.
    root : path, optional
        The folder that paths in the file are relative to. If None, the folder of the CSV file. Absolute paths, ``..``
        and links are followed anywhere, so inspect tables from others before use.
    columns : mapping of str to str, optional
        Names of the columns ``image``, ``mask`` and ``label`` in the file, such as ``{"image": "file"}``. A column that
        is replaced, such as another one called ``image``, is not read.
    classes : sequence of str, optional
        Names of the classes, in the order of the logits; integer labels are indices into them. If None, the class
        columns, or the sorted names that occur, or ``"0"``, ``"1"``, ... up to the largest integer. Pass the training
        set's classes to a validation set.
    other_labels : {"error", "drop"}, default="error"
        How images with a label outside `classes` are handled.
    multi_label : bool, optional
        Whether an image may have several labels. If None, whether there is a column for each class or a ``label``
        contains a ``|``.
    transform : callable, optional
        ``transform(image, mask) -> (image, mask)``, such as `training_transform` or `torchvision.transforms.v2`.
    missing : {"error", "skip-penalty", "drop"}, default="error"
        How images without a mask are handled, see `MaskPolicy`.
    empty : {"error", "skip-penalty"}, default="error"
        How masks without foreground are handled, see `MaskPolicy`.
    binarize : {"strict", "half", "nonzero"} or collection of int, default="strict"
        Which values of a mask are foreground, see `MaskPolicy`.
    resize_masks : bool, default=False
        Whether to resize masks whose size differs from their image, see `MaskPolicy`.

    Attributes
    ----------
    classes, num_classes, multi_label, targets, yields_has_mask
        As for `MaskedDataset`.
    dropped : list of str
        Images that ``missing="drop"`` left out.
    notes : list of str
        Images without a mask, for the report of `check_masks`.

    Raises
    ------
    InvalidValueError
        If the file cannot be read or has other columns, `columns` has another key or names an absent column, a label is
        illegal (the message names file and line), a class has no image and `classes` is None, an image does not exist,
        or an image has no mask and `missing` is ``"error"``. When an item is read: as for `MaskedImageFolder`.
    InvalidTypeError
        If an option has the wrong type.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from zennit_isnet.data import MaskedImageTable
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("RGB", (40, 30), "white").save(Path(folder) / "1.jpg")
    ...     Image.new("1", (40, 30), 1).save(Path(folder) / "1.png")
    ...     table = Path(folder) / "train.csv"
    ...     _ = table.write_text("image,mask,label\n1.jpg,1.png,cat|dog\n")
    ...     data = MaskedImageTable(table)
    ...     image, mask, label = data[0]
    >>> data.classes, data.multi_label, label
    (['cat', 'dog'], True, tensor([1., 1.]))
    """

    def __init__(
        self,
        table: Path,
        root: Path | None = None,
        *,
        columns: Mapping[str, str] | None = None,
        classes: Sequence[str] | None = None,
        other_labels: OtherLabels = "error",
        multi_label: bool | None = None,
        transform: PairTransform | None = None,
        missing: Missing = "error",
        empty: Empty = "error",
        binarize: Binarize = "strict",
        resize_masks: bool = False,
    ) -> None:
        policy = MaskPolicy(missing, empty, binarize, resize_masks)
        check_choice("other_labels", other_labels, OtherLabels)
        rows = _read_rows(table, columns or {})
        found = len(rows)
        if classes is not None and other_labels == "drop":
            rows = {place: row for place, row in rows.items() if _is_of(classes, row)}
            if not rows:
                raise InvalidValueError(f"table {table} must have images of the classes {listed(list(classes))}")
        classes, targets = read_labels(rows, classes, multi_label)
        folder = os.path.dirname(table) if root is None else os.fspath(root)
        files = []
        for row in rows.values():
            masks = [mask.strip() for mask in row["mask"].split(SEPARATOR) if mask.strip()]
            files.append((_existing(folder, row["image"]), tuple(_existing(folder, mask) for mask in masks)))
        self._rows = list(rows.values())
        super().__init__(files, classes, targets, transform, policy)
        if found > len(rows):
            self.notes.append(f"{found - len(rows)} of {found} images have other labels and are left out")

    def column(self, name: str) -> list[str]:
        """Return the cells of a column of the file, one for each image of the data set.

        Raises
        ------
        InvalidValueError
            If the file has no such column.
        """
        if name not in self._rows[0]:
            raise InvalidValueError(f"column must be one of {', '.join(self._rows[0])}; got {name!r}")
        return [self._rows[index][name] for index in self._kept]


def _is_of(classes: Sequence[str], row: Mapping[str, str]) -> bool:
    """Whether all labels of a row are among the classes, by name or by number."""
    words = [_integer(word.strip()) for word in row.get("label", "").split(SEPARATOR) if word.strip()]
    numbers = set() if any(name.isdecimal() for name in classes) else {str(index) for index in range(len(classes))}
    return numbers.union(classes).issuperset(words)


def _existing(folder: str, name: str) -> str:
    """Return a path in the Unicode form in which it exists, or unchanged."""
    paths = [os.path.join(folder, form) for form in (name, normalize("NFC", name), normalize("NFD", name))]
    return next(filter(os.path.isfile, paths), paths[0])


def _read_rows(table: Path, names: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return rows by their place in the file, for messages."""
    if unknown := [our for our in names if our not in COLUMNS]:
        raise InvalidValueError(f"columns must have keys among {', '.join(COLUMNS)}; got {unknown[0]!r}")
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            reader.fieldnames = found = [column.strip() for column in reader.fieldnames or ()]
            rows = {f"{table}, line {reader.line_num}": row for row in reader}
    except (OSError, UnicodeError, csv.Error) as error:
        raise InvalidValueError(f"table {table} cannot be read: {error}") from error
    shown = ", ".join(found) or "none"
    if absent := [our for our, theirs in names.items() if theirs not in found]:
        problem = f"names the column {names[absent[0]]!r} for {absent[0]}, but table {table} has {shown}"
        raise InvalidValueError(f"columns={dict(names)} {problem}")
    ours = {theirs: our for our, theirs in names.items()}
    # a column of ours that the caller replaces is left out
    read = [column for column in found if column in ours or column not in names]
    columns = [ours.get(column, column) for column in read]
    if not {"image", "mask"} < {*columns} - {""} or len(set(columns)) < len(columns):
        needed = "image, mask, and label or one per class, each once"
        raise InvalidValueError(f"table {table} must have the columns {needed}; got {shown}")
    if not rows:
        raise InvalidValueError(f"table {table} has no rows")
    for place, row in rows.items():
        if None in row or None in row.values() or not row[names.get("image", "image")].strip():
            raise InvalidValueError(f"{place}: a row must have {len(found)} cells and an image; got {row}")
    return {
        place: {our: row[column].strip() for our, column in zip(columns, read, strict=True)}
        for place, row in rows.items()
    }


def read_labels(
    rows: Mapping[str, Mapping[str, str]], classes: Sequence[str] | None, multi_label: bool | None
) -> tuple[list[str], Tensor]:
    """Read classes and targets.

    Parameters
    ----------
    rows : mapping of str to mapping of str to str
        Cells of each row by column (``label``, or 0 or 1 for each class), by the row's place for messages.
    classes : sequence of str, optional
        The legal classes. If None, those that occur.
    multi_label : bool, optional
        Whether an image may have several labels. If None, whether any image has.

    Returns
    -------
    classes : list of str
    targets : torch.Tensor
        int64 ``(N,)``, or float32 ``(N, C)`` of 0 and 1 if `multi_label`.

    Raises
    ------
    InvalidValueError
        If a label is illegal; the message says where.

    Examples
    --------
    >>> read_labels({"line 2": {"label": "dog"}, "line 3": {"label": "cat"}}, None, None)
    (['cat', 'dog'], tensor([1, 0]))
    >>> read_labels({"line 2": {"label": "0|2"}}, ["cat", "dog", "fox"], None)
    (['cat', 'dog', 'fox'], tensor([[1., 0., 1.]]))
    """
    if classes is not None and (isinstance(classes, str) or len(set(classes)) != len(classes) or not classes):
        raise InvalidValueError(f"classes must be distinct names; got {classes!r}")
    columns = next(iter(rows.values()))
    if "label" in columns:
        words = []
        for place, row in rows.items():
            cells = [word.strip() for word in row["label"].split(SEPARATOR) if word.strip()]
            words.append([cell if cell in (classes or ()) else _integer(cell) for cell in cells])
            if classes is None and (wrong := [word for word in words[-1] if NOT_NAMES.fullmatch(word)]):
                problem = f"column label must contain names, or integers from 0; got {wrong[0]!r}"
                raise InvalidValueError(f"{place}: {problem}; remove the row, or pass all names as classes=")
        names = _occurring(words) if classes is None else list(classes)
        several = any(SEPARATOR in row["label"] for row in rows.values()) if multi_label is None else multi_label
    else:
        named = [column for column in columns if column not in ("image", "mask", "")]
        names = named if classes is None else list(classes)
        for place, row in rows.items():
            if wrong := [name for name in names if _integer(row.get(name, "")) not in BINARY]:
                problem = f"column {wrong[0]} must contain 0 or 1; got {row.get(wrong[0], 'no such column')!r}"
                raise InvalidValueError(
                    f"{place}: {problem}; without a column label, every other column must be a class, see classes="
                )
        words = [[name for name in names if BINARY[_integer(row[name])]] for row in rows.values()]
        several = multi_label is None or multi_label
    index = {name: position for position, name in enumerate(names)}
    if not any(name.isdecimal() for name in names):  # otherwise integers are names, possibly in another order
        index |= {str(position): position for position in range(len(names))}
    # integers may have leading zeros
    words = [[word if word in index or not word.isdecimal() else str(int(word)) for word in cells] for cells in words]
    for place, labels in zip(rows, words, strict=True):
        if unknown := [label for label in labels if label not in index]:
            raise InvalidValueError(f"{place}: label must be one of {listed(names)}; got {unknown[0]!r}")
        if len(labels) != 1 and not several:
            found = ", ".join(labels) or "none"
            raise InvalidValueError(
                f"{place}: must have one label; got {found}; pass multi_label=True to allow several"
            )
    indices = [[index[label] for label in labels] for labels in words]
    if not several:
        return names, torch.tensor(indices, dtype=torch.int64).flatten()
    targets = torch.zeros(len(rows), len(names))
    for target, positions in zip(targets, indices, strict=True):
        target[positions] = 1
    return names, targets


def _integer(cell: str) -> str:
    """Return a cell as an integer if pandas made it a float, otherwise unchanged."""
    whole, _, fraction = cell.partition(".")
    return whole if whole.isdecimal() and not fraction.strip("0") else cell


def _occurring(words: Sequence[Sequence[str]]) -> list[str]:
    """Return the sorted names that occur; all integers up to the largest if there are only integers."""
    names = sorted({label for labels in words for label in labels})
    if not all(name.isdecimal() for name in names):
        return names
    present = {int(name) for name in names}
    if gaps := set(range(len(present))) - present:
        problem = f"must count from 0 without gaps, but no image has the label {min(gaps)}"
        raise InvalidValueError(f"integer labels {problem}; pass all names as classes=")
    return [str(label) for label in sorted(present)]


class OxfordPetMasks(MaskedFiles):
    """Oxford-IIIT Pet with its trimaps as foreground masks: 37 breeds, or cats and dogs.

    Parameters
    ----------
    root : path
        The folder that contains ``oxford-iiit-pet``, or where to download it, as for
        `torchvision.datasets.OxfordIIITPet`.
    split : {"trainval", "test"}, default="trainval"
        3,680 or 3,669 images.
    labels : {"breed", "species"}, default="breed"
        37 classes, or cat and dog.
    download : bool, default=False
        Whether torchvision may download the data set (about 800 MB).
    transform, missing, empty, resize_masks
        As for `MaskedImageFolder`.

    Raises
    ------
    InvalidValueError
        If the data set does not exist, an option is illegal, an image does not exist, or a trimap does not exist and
        `missing` is ``"error"``. When an item is read: as for `MaskedImageFolder`.

    Examples
    --------
    >>> from zennit_isnet.data import OxfordPetMasks, training_transform
    >>> data = OxfordPetMasks("datasets", transform=training_transform(224), download=True)  # doctest: +SKIP
    >>> image, mask, label = data[0]  # doctest: +SKIP

    References
    ----------
    .. [1] Parkhi, O. M., Vedaldi, A., Zisserman, A., Jawahar, C. V. "Cats and dogs". CVPR 2012.
    """

    def __init__(
        self,
        root: Path,
        split: PetSplit = "trainval",
        *,
        labels: PetLabels = "breed",
        download: bool = False,
        transform: PairTransform | None = None,
        missing: Missing = "error",
        empty: Empty = "error",
        resize_masks: bool = False,
    ) -> None:
        check_choice("split", split, PetSplit)
        check_choice("labels", labels, PetLabels)
        try:
            pets = OxfordIIITPet(root, split, download=download)
        except (RuntimeError, OSError) as error:
            problem = f"could not be loaded from root={os.fspath(root)!r} with download={download}: {error}"
            raise InvalidValueError(f"Oxford-IIIT Pet {problem}") from error
        folder = os.path.join(root, "oxford-iiit-pet")
        with open(os.path.join(folder, "annotations", f"{split}.txt"), encoding="utf-8") as file:
            names, breeds, species = zip(*(line.split()[:3] for line in file), strict=True)
        numbers, classes = (breeds, pets.classes) if labels == "breed" else (species, pets.bin_classes)
        files = [(f"{folder}/images/{name}.jpg", (f"{folder}/annotations/trimaps/{name}.png",)) for name in names]
        targets = torch.tensor([int(number) - 1 for number in numbers])
        super().__init__(files, classes, targets, transform, MaskPolicy(missing, empty, FOREGROUND, resize_masks))
