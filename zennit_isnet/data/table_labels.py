"""The labels in the rows of a table: names or integers, one or several an image."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor

from zennit_isnet.errors import InvalidValueError

SEPARATOR = "|"

_NAMED = 8


class Row(NamedTuple):
    """A row of a table, and where it stands, for messages."""

    place: str
    cells: dict[str, str]


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
    if "label" not in rows[0].cells:
        return _from_columns(rows, classes, multi_label)
    words = [[word.strip() for word in row.cells["label"].split(SEPARATOR) if word.strip()] for row in rows]
    several = any(SEPARATOR in row.cells["label"] for row in rows) if multi_label is None else multi_label
    if not several:
        for row, labels in zip(rows, words, strict=True):
            if len(labels) != 1:
                raise InvalidValueError(
                    f"{row.place}: must have one label, got {row.cells['label']!r}; multi_label=True allows any number"
                )
    names = _occurring(words) if classes is None else list(classes)
    index = _index_of(names)
    for row, labels in zip(rows, words, strict=True):
        if unknown := [label for label in labels if label not in index]:
            raise InvalidValueError(
                f"{row.place}: label {unknown[0]!r} is none of the {len(names)} classes {', '.join(names[:_NAMED])}"
                f"{', ...' if len(names) > _NAMED else ''}"
            )
    indices = [[index[label] for label in labels] for labels in words]
    if not several:
        return names, torch.tensor(indices, dtype=torch.int64).flatten()
    targets = torch.zeros(len(rows), len(names))
    for target, positions in zip(targets, indices, strict=True):
        target[positions] = 1
    return names, targets


def _from_columns(
    rows: Sequence[Row], classes: Sequence[str] | None, multi_label: bool | None
) -> tuple[list[str], Tensor]:
    columns = [column for column in rows[0].cells if column not in ("image", "mask")]
    names = columns if classes is None else list(classes)
    if unknown := [name for name in names if name not in columns]:
        raise InvalidValueError(f"{rows[0].place}: has no column for the classes {', '.join(unknown)}")
    for row in rows:
        for name in names:
            if row.cells[name] not in ("0", "1"):
                raise InvalidValueError(
                    f"{row.place}: column {name} must hold 0 or 1, got {row.cells[name]!r}; there is no column label, "
                    f"so each column other than image and mask is a class unless classes= names them"
                )
    targets = torch.tensor([[float(row.cells[name]) for name in names] for row in rows])
    if multi_label is None or multi_label:
        return names, targets
    for row, target in zip(rows, targets, strict=True):
        if target.sum() != 1:
            raise InvalidValueError(f"{row.place}: must have one class with multi_label=False, got {int(target.sum())}")
    return names, targets.argmax(1)


def _occurring(words: Sequence[Sequence[str]]) -> list[str]:
    """Names that occur, sorted; all integers up to the largest if there are only integers."""
    names = sorted({label for labels in words for label in labels})
    if not names or not all(name.isdecimal() for name in names):
        return names
    present = {int(name) for name in names}
    if len(present) <= max(present):
        absent = next(label for label in count() if label not in present)
        raise InvalidValueError(
            f"integer labels must be from 0 and without gaps, but no image has the label {absent}; where a class may "
            f"have no image, name all of them with classes="
        )
    return [str(label) for label in sorted(present)]


def _index_of(names: Sequence[str]) -> dict[str, int]:
    """Index of each name; of integers too, unless names are integers, whose order may be another."""
    index = {name: position for position, name in enumerate(names)}
    if any(name.isdecimal() for name in names):
        return index
    return {**index, **{str(position): position for position in range(len(names))}}
