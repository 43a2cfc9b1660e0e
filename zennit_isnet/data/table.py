"""Images, masks and labels listed in a CSV file."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from typing import Any

from zennit_isnet.data.binarization import Binarize
from zennit_isnet.data.decoding import Path
from zennit_isnet.data.files import MaskedFiles
from zennit_isnet.data.masked import PairTransform
from zennit_isnet.data.policy import Empty, MaskPolicy, Missing
from zennit_isnet.data.table_labels import Row, read_labels
from zennit_isnet.errors import InvalidValueError


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
        images = [os.path.join(folder, row.cells["image"]) for row in rows]
        masks = [os.path.join(folder, row.cells["mask"]) if row.cells["mask"] else None for row in rows]
        super().__init__(images, masks, classes, targets, transform, policy)


def _read_rows(table: str) -> list[Row]:
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            reader.fieldnames = columns = [column.strip() for column in reader.fieldnames or ()]
            rows = [Row(f"{table}, line {reader.line_num}", _stripped(cells)) for cells in reader]
    except (OSError, UnicodeError, csv.Error) as error:
        raise InvalidValueError(f"table {table} cannot be read: {error}") from error
    if not {"image", "mask"} < set(columns) or len(set(columns)) < len(columns):
        raise InvalidValueError(
            f"table {table} must have the columns image, mask and label, or image, mask and one for each class, once; "
            f"got {', '.join(columns) or 'none'}"
        )
    if not rows:
        raise InvalidValueError(f"table {table} has no rows")
    for row in rows:
        if None in row.cells or None in row.cells.values() or not row.cells["image"]:
            raise InvalidValueError(f"{row.place}: must have {len(columns)} cells and an image; got {row.cells}")
    return rows


def _stripped(cells: dict[str, Any]) -> dict[str, Any]:
    return {column: cell.strip() if isinstance(cell, str) else cell for column, cell in cells.items()}
