"""Opens images with masks of whatever form: folders, a CSV file, or annotations."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from zennit_isnet.data.annotations import AnnotatedImages, LabelSource
from zennit_isnet.data.decoding import Binarize, Path
from zennit_isnet.data.files import MaskedFiles, MaskedImageFolder, MaskedImageTable, files_below


def open_masked(
    images: Path,
    masks: Path | Sequence[Path] | None = None,
    *,
    root: Path | None = None,
    columns: Mapping[str, str] | None = None,
    mask_suffix: str = "",
    labels: LabelSource | None = None,
    binarize: Binarize = "strict",
    **options: Any,
) -> MaskedFiles:
    """Open a data set.

    Parameters
    ----------
    images : path
        A folder of images with a folder for each class, a CSV file, or annotations (see `is_annotated`).
    masks : path or sequence of path, optional
        The parallel folders of masks of a folder of images.
    root, columns, mask_suffix, labels, binarize
        Of the data set that it is; the others have no use for them.
    **options
        Of all of them.

    Returns
    -------
    MaskedImageFolder, MaskedImageTable or AnnotatedImages
    """
    if masks is None and is_annotated(images):
        return AnnotatedImages(images, root, labels=labels or "category", **options)
    if masks is None:
        return MaskedImageTable(images, root, columns=columns, binarize=binarize, **options)
    return MaskedImageFolder(images, masks, mask_suffix=mask_suffix, allow_empty=True, binarize=binarize, **options)


def is_annotated(images: Path) -> bool:
    """Whether a path holds annotations: a JSON or XML file, or a folder with JSON files."""
    if os.path.isdir(images):
        return bool(files_below(os.fspath(images), (".json",)))
    return os.fspath(images).lower().endswith((".json", ".xml"))
