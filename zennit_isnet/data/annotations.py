"""Images whose masks are drawn from annotation files."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePath
from typing import Literal, TypeAlias

from torchvision import tv_tensors

from zennit_isnet.checks import check_choice
from zennit_isnet.data.annotation_formats import AnnotatedImage, Area, draw, format_of, named
from zennit_isnet.data.decoding import Levels, Path, listed
from zennit_isnet.data.files import SEPARATOR, MaskedFiles, read_labels
from zennit_isnet.data.masked import Empty, MaskPolicy, Missing, PairTransform
from zennit_isnet.errors import InvalidTypeError, InvalidValueError

LabelSource: TypeAlias = Literal["category", "folder"]


class AnnotatedImages(MaskedFiles):
    """Images whose masks are drawn from annotations: COCO, LabelMe, or CVAT for images.

    The mask is the union of an image's annotations. A shape without area, such as a line, is an error unless
    `categories` leaves it out. Polygons include their outline, to within half a pixel.

    ======= =========================================================================================
    COCO    polygons, run lengths (compressed or not), boxes of annotations without a segmentation
    LabelMe polygons, rectangles, circles, masks
    CVAT    polygons, boxes, masks; tags are ignored
    ======= =========================================================================================

    Parameters
    ----------
    annotations : path
        A COCO file (``.json``), a "CVAT for images 1.1" file (``.xml``), or a folder with LabelMe files at any depth.
        The data set consists of the images that they name.
    root : path, optional
        The folder of the images. Paths in the annotations are relative to it and must not leave it; paths in a LabelMe
        file are relative to the file's position in this folder. If None, the folder of the annotations.
    labels : {"category", "folder"} or mapping of str to str, default="category"
        The label of an image: the categories of its annotations; the first folder of its path below `root`, as in
        `MaskedImageFolder`; or this mapping's value for its path below `root`, with several labels separated by ``|``.
    categories : collection of str, optional
        The categories that are foreground; annotations of others are ignored. If None, all.
    classes : sequence of str, optional
        Names of the classes, in the order of the logits. If None, the sorted labels that occur. Pass the training set's
        classes to a validation set.
    multi_label : bool, optional
        Whether an image may have several labels. If None, whether any image has.
    transform : callable, optional
        ``transform(image, mask) -> (image, mask)``, such as `training_transform` or `torchvision.transforms.v2`.
    missing : {"error", "skip-penalty", "drop"}, default="error"
        How images without an annotation are handled, see `MaskPolicy`.
    empty : {"error", "skip-penalty"}, default="error"
        How masks without foreground are handled, see `MaskPolicy`.
    resize_masks : bool, default=False
        Whether masks are resized if an image's size differs from the annotations, see `MaskPolicy`.

    Attributes
    ----------
    classes, num_classes, multi_label, targets, yields_has_mask
        As for `MaskedDataset`.
    dropped : list of str
        Images that ``missing="drop"`` left out.

    Raises
    ------
    InvalidValueError
        If a file cannot be read or has another format, a shape has no area, a path leaves `root`, an image does not
        exist, occurs twice, or has no legal label, or an image has no annotation and `missing` is ``"error"``. Messages
        name file and annotation. When an item is read: if run lengths do not fill their mask, and as for
        `MaskedImageFolder`.
    InvalidTypeError
        If an option has the wrong type.

    Examples
    --------
    >>> import json, tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from zennit_isnet.data import AnnotatedImages
    >>> square = [10, 10, 19, 10, 19, 19, 10, 19]
    >>> coco = {
    ...     "images": [{"id": 1, "file_name": "1.jpg", "width": 40, "height": 30}],
    ...     "categories": [{"id": 7, "name": "cat"}],
    ...     "annotations": [{"id": 1, "image_id": 1, "category_id": 7, "segmentation": [square]}],
    ... }
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("RGB", (40, 30), "white").save(Path(folder) / "1.jpg")
    ...     _ = (Path(folder) / "coco.json").write_text(json.dumps(coco))
    ...     data = AnnotatedImages(f"{folder}/coco.json")
    ...     image, mask, label = data[0]
    >>> data.classes, label, mask.shape, int(mask.sum())
    (['cat'], 0, torch.Size([1, 30, 40]), 100)
    """

    def __init__(
        self,
        annotations: Path,
        root: Path | None = None,
        *,
        labels: LabelSource | Mapping[str, str] = "category",
        categories: Collection[str] | None = None,
        classes: Sequence[str] | None = None,
        multi_label: bool | None = None,
        transform: PairTransform | None = None,
        missing: Missing = "error",
        empty: Empty = "error",
        resize_masks: bool = False,
    ) -> None:
        policy = MaskPolicy(missing, empty, resize_masks=resize_masks)
        if not isinstance(labels, Mapping):
            check_choice("labels", labels, LabelSource)
        annotations = os.fspath(annotations)
        read, areas = format_of(annotations)
        beside = annotations if os.path.isdir(annotations) else os.path.dirname(annotations)
        folder = os.path.normpath(beside if root is None else root)
        images: dict[str, AnnotatedImage] = {}
        for image in read(annotations):
            path = _below(folder, image)
            if path in images:
                raise InvalidValueError(f"{image.source}: image {path} occurs twice; merge its annotations")
            images[path] = image
        if isinstance(categories, str):
            raise InvalidTypeError(
                f"categories must be a collection of names; got {categories!r}: pass [{categories!r}]"
            )
        if categories is not None:
            images = _of_categories(images, categories)
        without = [path for path, image in images.items() if not image.shapes]
        if missing == "drop":
            images = {path: image for path, image in images.items() if image.shapes}
        if not images:
            raise InvalidValueError(f"{annotations} must have an image with an annotation; got {len(without)} without")
        rows = {f"image {path}": {"label": _label(folder, path, images[path], labels)} for path in images}
        classes, targets = read_labels(rows, classes, multi_label)
        self._drawings: dict[str, tuple[list[Area], tuple[int, int] | None]] = {}
        for path, image in images.items():
            drawn: list[Area] = []
            for shape in image.shapes:
                with named(shape.place):
                    drawn += areas(shape.raw)
            self._drawings[path] = drawn, image.size
        files = [(path, (image.source,) if image.shapes else ()) for path, image in images.items()]
        super().__init__(files, classes, targets, transform, policy)
        self.dropped = without if missing == "drop" else []

    def mask_name(self, index: int) -> str:
        """Name the image and its annotation file."""
        return f"of {self.name(index)} in {super().mask_name(index)}"

    def load_levels(self, index: int, image: tv_tensors.Image) -> Levels | None:
        """Draw the annotations as a mask, see `draw`."""
        areas, size = self._drawings[self.name(index)]
        if not areas:
            return None
        with named(f"mask {self.mask_name(index)}"):
            return Levels(draw(areas, size or (image.shape[-1], image.shape[-2])), 1.0)


def _below(root: str, image: AnnotatedImage) -> str:
    """Path of an image, which must not leave the folder."""
    path = os.path.normpath(os.path.join(root, image.path.replace("\\", "/")))  # written by tools on Windows
    if not PurePath(os.path.abspath(path)).is_relative_to(os.path.abspath(root)):
        raise InvalidValueError(f"{image.source}: image {image.path} lies outside the image folder root={root!r}")
    return path


def _of_categories(images: dict[str, AnnotatedImage], categories: Collection[str]) -> dict[str, AnnotatedImage]:
    occurring = {shape.category for image in images.values() for shape in image.shapes}
    if unknown := sorted(set(categories) - occurring):
        raise InvalidValueError(
            f"categories {listed(unknown)} do not occur; the annotations have {listed(sorted(occurring))}"
        )
    return {
        path: image._replace(shapes=[shape for shape in image.shapes if shape.category in categories])
        for path, image in images.items()
    }


def _label(root: str, path: str, image: AnnotatedImage, labels: LabelSource | Mapping[str, str]) -> str:
    if labels == "category":
        return SEPARATOR.join(sorted({shape.category for shape in image.shapes}))
    name = os.path.relpath(path, root).replace(os.sep, "/")
    if labels == "folder":
        if "/" not in name:
            raise InvalidValueError(
                f'labels="folder" needs class folders; image {path} is not in a folder of root={root!r}'
            )
        return name.split("/")[0]
    if name not in labels:
        raise InvalidValueError(f"image {path} has no label: add the key {name!r} to labels")
    return str(labels[name])
