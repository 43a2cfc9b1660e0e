"""Images, masks and labels listed in a CSV file."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from zennit_isnet.data.decoding import Binarize, Path, listed
from zennit_isnet.data.files import MaskedFiles
from zennit_isnet.data.masked import Empty, MaskPolicy, Missing, PairTransform
from zennit_isnet.errors import InvalidValueError

SEPARATOR = "|"


class MaskedImageTable(MaskedFiles):
    r"""Images, masks and labels from a CSV file, with one label or several labels an image.

    The first line names the columns ``image``, ``mask`` and either ``label`` or one column a class:

    .. code-block:: text

        image,mask,label        image,mask,label            image,mask,cat,dog
        1.jpg,1.png,cat         1.jpg,1.png,cat|dog         1.jpg,1.png,1,1
        2.jpg,,dog              2.jpg,2.png,dog             2.jpg,2.png,0,1

    Labels are names, or integers from 0. An empty ``mask`` means that the image has none. Beside ``label`` other
    columns are ignored.

    Parameters
    ----------
    table : path
        The CSV file: UTF-8, commas.
    root : path, optional
        The folder that paths in the file start from. Default: the folder of the CSV file.
    classes : sequence of str, optional
        Names of the classes, in the order of the logits; integer labels are indices into them. Default: the columns
        of classes, or the sorted names that occur, or ``"0"``, ``"1"``, ... up to the largest integer. Give a
        validation set the classes of the training set.
    multi_label : bool, optional
        Whether an image may have several labels. Default: whether there is a column for each class, or a ``label``
        has a ``|``.
    transform : callable, optional
        ``transform(image, mask) -> (image, mask)``, such as `training_transform` or `torchvision.transforms.v2`.
    missing : {"error", "skip-penalty", "drop"}, default "error"
        What becomes of images without a mask, see `MaskPolicy`.
    empty : {"error", "skip-penalty"}, default "error"
        What becomes of masks without foreground, see `MaskPolicy`.
    binarize : {"strict", "half", "nonzero"} or collection of int, default "strict"
        Which values of a mask are foreground, see `MaskPolicy`.
    resize_masks : bool, default False
        Whether masks of another size than their image are resized, see `MaskPolicy`.

    Attributes
    ----------
    classes, num_classes, multi_label, targets, yields_has_mask
        As for `MaskedDataset`.
    dropped : list of str
        Images that ``missing="drop"`` left out.

    Raises
    ------
    InvalidValueError
        If the file cannot be read or has other columns, a label is illegal (the message names file and line), a class
        has no image where `classes` is not given, an image does not exist, or an image has no mask and `missing` is
        ``"error"``. At reading as for `MaskedImageFolder`.
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
        classes: Sequence[str] | None = None,
        multi_label: bool | None = None,
        transform: PairTransform | None = None,
        missing: Missing = "error",
        empty: Empty = "error",
        binarize: Binarize = "strict",
        resize_masks: bool = False,
    ) -> None:
        policy = MaskPolicy(missing, empty, binarize, resize_masks)
        table = os.fspath(table)
        rows = _read_rows(table)
        classes, targets = read_labels(rows, classes, multi_label)
        folder = os.path.dirname(table) if root is None else os.fspath(root)
        cells = [(row.cells["image"], row.cells["mask"]) for row in rows]
        files = [(os.path.join(folder, image), os.path.join(folder, mask) if mask else None) for image, mask in cells]
        super().__init__(files, classes, targets, transform, policy)


class Row(NamedTuple):
    """A row of a table, and where it stands, for messages."""

    place: str
    cells: dict[str, str]


def _read_rows(table: str) -> list[Row]:
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            reader.fieldnames = columns = [column.strip() for column in reader.fieldnames or ()]
            rows = [Row(f"{table}, line {reader.line_num}", cells) for cells in reader]
    except (OSError, UnicodeError, csv.Error) as error:
        raise InvalidValueError(f"table {table} cannot be read: {error}") from error
    if not {"image", "mask"} < set(columns) or len(set(columns)) < len(columns):
        needed = "image, mask, and label or one for each class, once"
        raise InvalidValueError(f"table {table} must have the columns {needed}; got {', '.join(columns) or 'none'}")
    if not rows:
        raise InvalidValueError(f"table {table} has no rows")
    for row in rows:
        if None in row.cells or None in row.cells.values() or not row.cells["image"].strip():
            raise InvalidValueError(f"{row.place}: must have {len(columns)} cells and an image; got {row.cells}")
    return [Row(row.place, {column: cell.strip() for column, cell in row.cells.items()}) for row in rows]


def read_labels(
    rows: Sequence[Row], classes: Sequence[str] | None, multi_label: bool | None
) -> tuple[list[str], Tensor]:
    """Read classes and targets.

    Parameters
    ----------
    rows : sequence of Row
        With a cell ``label``, or a cell of 0 or 1 for each class.
    classes : sequence of str, optional
        The legal classes; by default those that occur.
    multi_label : bool, optional
        Whether an image may have several labels; by default whether one has.

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
    >>> read_labels([Row("line 2", {"label": "dog"}), Row("line 3", {"label": "cat"})], None, None)
    (['cat', 'dog'], tensor([1, 0]))
    >>> read_labels([Row("line 2", {"label": "0|2"})], ["cat", "dog", "fox"], None)
    (['cat', 'dog', 'fox'], tensor([[1., 0., 1.]]))
    """
    if classes is not None and (isinstance(classes, str) or len(set(classes)) != len(classes) or not classes):
        raise InvalidValueError(f"classes must be different names; got {classes!r}")
    if "label" in rows[0].cells:
        words = [[word.strip() for word in row.cells["label"].split(SEPARATOR) if word.strip()] for row in rows]
        names = _occurring(words) if classes is None else list(classes)
        several = any(SEPARATOR in row.cells["label"] for row in rows) if multi_label is None else multi_label
    else:
        columns = [column for column in rows[0].cells if column not in ("image", "mask")]
        names = columns if classes is None else list(classes)
        words = _marked(rows, names)
        several = multi_label is None or multi_label
    index = {name: position for position, name in enumerate(names)}
    if not any(name.isdecimal() for name in names):  # else integers are names, whose order may be another
        index |= {str(position): position for position in range(len(names))}
    for row, labels in zip(rows, words, strict=True):
        if unknown := [label for label in labels if label not in index]:
            raise InvalidValueError(f"{row.place}: label {unknown[0]!r} is none of the classes {listed(names)}")
        if len(labels) != 1 and not several:
            found = ", ".join(labels) or "none"
            raise InvalidValueError(f"{row.place}: must have one label, got {found}; multi_label=True allows more")
    indices = [[index[label] for label in labels] for labels in words]
    if not several:
        return names, torch.tensor(indices, dtype=torch.int64).flatten()
    targets = torch.zeros(len(rows), len(names))
    for target, positions in zip(targets, indices, strict=True):
        target[positions] = 1
    return names, targets


def _marked(rows: Sequence[Row], names: Sequence[str]) -> list[list[str]]:
    """Names of the columns that hold 1 in each row."""
    if unknown := [name for name in names if name not in rows[0].cells]:
        raise InvalidValueError(f"{rows[0].place}: has no column for the classes {', '.join(unknown)}")
    for row in rows:
        for name in names:
            if row.cells[name] not in ("0", "1"):
                problem = f"column {name} must hold 0 or 1, got {row.cells[name]!r}"
                raise InvalidValueError(f"{row.place}: {problem}; without a column label, each is a class of classes=")
    return [[name for name in names if row.cells[name] == "1"] for row in rows]


def _occurring(words: Sequence[Sequence[str]]) -> list[str]:
    """Names that occur, sorted; all integers up to the largest if there are only integers."""
    names = sorted({label for labels in words for label in labels})
    if not all(name.isdecimal() for name in names):
        return names
    present = sorted({int(name) for name in names})
    for position, label in enumerate(present):
        if position != label:
            problem = f"must be from 0 and without gaps, but no image has the label {position}"
            raise InvalidValueError(f"integer labels {problem}; classes= names all")
    return [str(label) for label in present]
