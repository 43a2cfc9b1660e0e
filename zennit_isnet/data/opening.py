"""Opens images with masks in any form: folders, a CSV file, or annotations."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from zennit_isnet.data.annotations import AnnotatedImages, LabelSource
from zennit_isnet.data.decoding import Binarize, Path, listed
from zennit_isnet.data.files import MaskedFiles, MaskedImageFolder, MaskedImageTable, files_below
from zennit_isnet.errors import InvalidValueError


def open_masked(
    images: Path,
    masks: Path | Sequence[Path] | None = None,
    *,
    root: Path | None = None,
    columns: Mapping[str, str] | None = None,
    mask_suffix: str = "",
    labels: LabelSource | None = None,
    binarize: Binarize = "strict",
    classes: Sequence[str] | None = None,
    multi_label: bool | None = None,
    **options: Any,
) -> MaskedFiles:
    """Open a data set.

    Parameters
    ----------
    images : path
        A folder of images with a folder for each class, a CSV file, or annotations (see `is_annotated`).
    masks : path or sequence of path, optional
        The parallel folders of masks of a folder of images.
    root, columns, mask_suffix, labels, binarize, multi_label
        Passed to the kind of data set that uses them.
    classes : sequence of str, optional
        Names of the classes in the order of the logits. A table's images with other labels are left out; otherwise
        other labels are an error. Folders are numbered in this order.
    **options
        Of all of them.

    Returns
    -------
    MaskedImageFolder, MaskedImageTable or AnnotatedImages
    """
    if masks is None and is_annotated(images):
        options |= {"classes": classes, "multi_label": multi_label}
        return AnnotatedImages(images, root, labels=labels or "category", **options)
    if masks is None and os.path.isdir(images):
        raise InvalidValueError(f"a folder of images needs a folder of masks; got only {os.fspath(images)!r}")
    if masks is None:
        options |= {"classes": classes, "multi_label": multi_label, "other_labels": "drop"}
        return MaskedImageTable(images, root, columns=columns, binarize=binarize, **options)
    data = MaskedImageFolder(images, masks, mask_suffix=mask_suffix, allow_empty=True, binarize=binarize, **options)
    return data if classes is None else renumbered(data, classes, f"the folders of {images}")


def renumbered(data: MaskedFiles, classes: Sequence[str], where: str) -> Any:
    """Number the classes of a data set in the order of a list of names, which must contain them all."""
    unknown = sorted(set(data.classes) - set(classes))
    if unknown or len(set(classes)) < len(classes):
        problem = f"got {listed(unknown)}" if unknown else "a class occurs twice"
        raise InvalidValueError(f"{where} must be among the classes {listed(list(classes))}; {problem}")
    if data.multi_label:
        raise InvalidValueError(f"{where} must be one per image; got an image with several")
    numbers = torch.tensor([list(classes).index(name) for name in data.classes])
    data.targets, data.classes = numbers[data.targets], list(classes)
    return data


def is_annotated(images: Path) -> bool:
    """Whether a path holds annotations: a JSON or XML file, or a folder with JSON files."""
    if os.path.isdir(images):
        return bool(files_below(os.fspath(images), (".json",)))
    return os.fspath(images).lower().endswith((".json", ".xml"))
