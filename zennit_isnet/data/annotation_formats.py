"""Readers of annotation files: images and their shapes in COCO, LabelMe and CVAT format."""

from __future__ import annotations

import base64
import cmath
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any, NamedTuple, TypeAlias
from xml.etree import ElementTree

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from zennit_isnet.data.files import files_below
from zennit_isnet.data.limits import check_pixels
from zennit_isnet.errors import InvalidValueError

FAR = 1e6
"""Coordinates beyond this are not pixels; Pillow needs them to fit into its integers."""

BROKEN = (
    *(OSError, ValueError, TypeError, AttributeError, IndexError, OverflowError, RecursionError),
    ElementTree.ParseError,
)
"""Errors raised when reading a malformed file."""


class Runs(NamedTuple):
    """A rectangle of pixels as run lengths, alternating background and foreground.

    Attributes
    ----------
    counts : sequence of int or str
        Run lengths from the first pixel, starting with background; or COCO's compressed string.
    left, top, width, height : int
        The rectangle.
    by_column : bool
        Whether runs go down the columns of the whole image, as in COCO, instead of along the rows of the rectangle.
    """

    counts: Sequence[int] | str
    left: int
    top: int
    width: int
    height: int
    by_column: bool = False


Polygon: TypeAlias = list[float]  # alternating x and y
Area: TypeAlias = Polygon | Runs


class Shape(NamedTuple):
    """One annotated shape on an image.

    Attributes
    ----------
    place : str
        File and annotation, for messages.
    category : str
        Its category.
    raw : object
        The file's entry, which the format's ``areas`` function converts.
    """

    place: str
    category: str
    raw: Any


class AnnotatedImage(NamedTuple):
    """An image and its annotations.

    Attributes
    ----------
    source : str
        The annotation file.
    path : str
        The image's path as given in the file.
    size : (int, int) or None
        Width and height that the coordinates refer to; None if the file does not say.
    shapes : list of Shape
    """

    source: str
    path: str
    size: tuple[int, int] | None
    shapes: list[Shape]


class AnnotationFormat(NamedTuple):
    """A format's functions for reading files.

    Attributes
    ----------
    read : callable
        ``read(path) -> list of AnnotatedImage``.
    areas : callable
        ``areas(raw) -> list of Polygon and Runs``, of which a shape is the union.
    """

    read: Callable[[str], list[AnnotatedImage]]
    areas: Callable[[Any], list[Area]]


def format_of(path: str) -> AnnotationFormat:
    """Return the format: a folder is LabelMe, an XML file CVAT, and a JSON file COCO."""
    if os.path.isdir(path):
        return AnnotationFormat(_read_labelme, _labelme_areas)
    extension = os.path.splitext(path)[1].lower()
    if extension == ".json":
        return AnnotationFormat(_read_coco, _coco_areas)
    if extension == ".xml":
        return AnnotationFormat(_read_cvat, _cvat_areas)
    legal = "a JSON file (COCO), an XML file (CVAT for images) or a folder of JSON files (LabelMe)"
    raise InvalidValueError(f"annotations must be {legal}; got {path}")


@contextmanager
def named(place: str) -> Iterator[None]:
    """Turn errors from a file's content into an `InvalidValueError` that names the place."""
    try:
        yield
    except KeyError as error:
        raise InvalidValueError(f"{place} has no entry {error}") from error
    except BROKEN as error:
        raise InvalidValueError(f"{place} cannot be read: {error}") from error


def _read_coco(path: str) -> list[AnnotatedImage]:
    content = _json(path)
    with named(path):
        names = {id: str(category["name"]) for id, category in _by_id(content, "categories").items()}
        images = {
            id: AnnotatedImage(path, str(image["file_name"]), _size(image), [])
            for id, image in _by_id(content, "images").items()
        }
        annotations = list(content["annotations"])
    for position, annotation in enumerate(annotations):
        place = f"{path}, annotations[{position}]"
        with named(place):
            image, category = annotation["image_id"], annotation["category_id"]
            if image not in images or category not in names:
                raise InvalidValueError(f"image {image} or category {category} is not in the file")
            images[image].shapes.append(Shape(place, names[category], annotation))
    return list(images.values())


def _by_id(content: Any, word: str) -> dict[Any, Any]:
    entries: dict[Any, Any] = {}
    for entry in content[word]:
        if entries.setdefault(entry["id"], entry) != entry:
            raise InvalidValueError(f"ids of {word} must be unique; got {entry['id']} for two of them")
    return entries


def _coco_areas(annotation: Any) -> list[Area]:
    segmentation = annotation.get("segmentation")
    if not segmentation:  # a detection: it has only the box
        left, top, width, height = annotation["bbox"]
        return [_polygon([left, top, left + width, top, left + width, top + height, left, top + height])]
    if isinstance(segmentation, list):
        return [_polygon(part) for part in segmentation]
    (height, width), counts = segmentation["size"], segmentation["counts"]
    lengths = counts if isinstance(counts, str) else [int(count) for count in counts]
    return [Runs(lengths, 0, 0, int(width), int(height), by_column=True)]


def _read_labelme(path: str) -> list[AnnotatedImage]:
    images = []
    for file in files_below(path, (".json",)):
        content = _json(file)
        with named(file):
            image = os.path.join(os.path.dirname(os.path.relpath(file, path)), content["imagePath"])
            size = _size({"width": content.get("imageWidth"), "height": content.get("imageHeight")})
            shapes = [
                Shape(f"{file}, shapes[{position}]", str(shape["label"]), shape)
                for position, shape in enumerate(content["shapes"])
            ]
            images.append(AnnotatedImage(file, image, size, shapes))
    return images


def _labelme_areas(shape: Any) -> list[Area]:
    kind, points = shape.get("shape_type") or "polygon", shape["points"]
    if kind == "polygon" or (kind == "rectangle" and len(points) == 4):  # some tools write all corners
        return [_polygon(value for point in points for value in point)]
    if kind not in ("rectangle", "circle", "mask"):
        raise InvalidValueError(f"a {kind} has no area; use a polygon, rectangle, circle or mask")
    if len(points) != 2:
        raise InvalidValueError(f"a {kind} must have 2 points; got {len(points)}")
    (left, top), (right, bottom) = points
    if kind == "rectangle":
        return [_polygon([left, top, right, top, right, bottom, left, bottom])]
    if kind == "circle":  # its centre and a point on it
        centre, radius = complex(left, top), math.hypot(right - left, bottom - top)
        around = [centre + cmath.rect(radius, math.radians(angle)) for angle in range(0, 360, 5)]
        return [_polygon(value for point in around for value in (point.real, point.imag))]
    with Image.open(BytesIO(base64.b64decode(shape["mask"]))) as picture:
        check_pixels(*picture.size)
        pixels = np.asarray(picture.convert("L")).ravel() != 0
        starts = np.flatnonzero(np.diff(pixels, prepend=False))
        counts = np.diff(starts, prepend=0, append=pixels.size).tolist()
        return [Runs(counts, round(left), round(top), *picture.size)]


def _read_cvat(path: str) -> list[AnnotatedImage]:
    with named(path):
        root = ElementTree.parse(path, ElementTree.XMLParser(target=_WithoutDoctype())).getroot()
        if root.find("image") is None:
            raise InvalidValueError('it has no images; export "CVAT for images 1.1"')
        images = []
        for image in root.iter("image"):
            drawn = [element for element in image if "label" in element.attrib and element.tag != "tag"]
            shapes = [
                Shape(f"{path}, shape {position} of {image.get('name')}", element.attrib["label"], element)
                for position, element in enumerate(drawn)
            ]
            images.append(AnnotatedImage(path, image.attrib["name"], _size(image.attrib), shapes))
    return images


class _WithoutDoctype(ElementTree.TreeBuilder):
    """Refuses DOCTYPEs, whose entities could expand without limit or read other files."""

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        raise InvalidValueError("it must not have a DOCTYPE declaration")


def _cvat_areas(element: ElementTree.Element) -> list[Area]:
    given = element.attrib
    if element.tag == "polygon":
        return [_polygon(value for point in given["points"].split(";") for value in point.split(","))]
    if element.tag == "box":
        left, top, right, bottom = (float(given[word]) for word in ("xtl", "ytl", "xbr", "ybr"))
        centre = complex(left + right, top + bottom) / 2
        turn = cmath.rect(1, math.radians(float(given.get("rotation", 0))))
        corners = (complex(left, top), complex(right, top), complex(right, bottom), complex(left, bottom))
        turned = [centre + (corner - centre) * turn for corner in corners]
        return [_polygon(value for corner in turned for value in (corner.real, corner.imag))]
    if element.tag == "mask":
        left, top, width, height = (int(given[word]) for word in ("left", "top", "width", "height"))
        return [Runs([int(count) for count in given["rle"].split(",")], left, top, width, height)]
    raise InvalidValueError(f"{element.tag} is not a shape with an area; use polygon, box or mask")


def _json(path: str) -> Any:
    with named(path), open(path, encoding="utf-8-sig") as file:
        return json.load(file)


def _size(entry: Any) -> tuple[int, int] | None:
    width, height = entry.get("width"), entry.get("height")
    if width is None or height is None:
        return None
    if int(width) < 1 or int(height) < 1:
        raise InvalidValueError(f"the size of an image must be positive; got {width} × {height}")
    return int(width), int(height)


def _polygon(coordinates: Iterable[Any]) -> Polygon:
    values = [float(value) for value in coordinates]
    if len(values) < 6 or len(values) % 2 or not all(abs(value) <= FAR for value in values):
        raise InvalidValueError(f"a polygon must have finite x and y for at least 3 points; got {values!r:.80}")
    return values


def draw(areas: Iterable[Area], size: tuple[int, int]) -> Tensor:
    """Draw the union of areas as a mask.

    Parameters
    ----------
    areas : iterable of Polygon and Runs
        Polygons include the pixels on their outline, to within half a pixel.
    size : (int, int)
        Width and height; anything outside is cut off.

    Returns
    -------
    torch.Tensor
        Shape ``(H, W)``, dtype bool.

    Raises
    ------
    InvalidValueError
        If there are too many pixels, or runs do not fill their rectangle or belong to another image.

    Examples
    --------
    >>> draw(
    ...     [[1.0, 0.0, 2.0, 0.0, 2.0, 1.0, 1.0, 1.0], Runs([2, 1, 1], left=0, top=1, width=1, height=4)], (4, 4)
    ... ).int()
    tensor([[0, 1, 1, 0],
            [0, 1, 1, 0],
            [0, 0, 0, 0],
            [1, 0, 0, 0]], dtype=torch.int32)
    """
    check_pixels(*size)
    canvas = Image.new("1", size)
    brush = ImageDraw.Draw(canvas)
    for area in areas:
        if isinstance(area, Runs):
            if area.by_column and (area.width, area.height) != size:
                came = f"{area.width} × {area.height} pixels for an image of {size[0]} × {size[1]}"
                raise InvalidValueError(f"COCO run lengths must cover the whole image; got {came}")
            canvas.paste(1, (area.left, area.top), Image.fromarray(_unrolled(area)))
        else:
            # floor, because Pillow would truncate -0.5 to 0; rounded first, because rotated corners are inexact
            brush.polygon([math.floor(round(value, 6)) for value in area], fill=1)
    return torch.from_numpy(np.array(canvas))


def _unrolled(runs: Runs) -> NDArray[np.bool_]:
    check_pixels(runs.width, runs.height)
    counts = _decompressed(runs.counts) if isinstance(runs.counts, str) else runs.counts
    if min(counts, default=0) < 0 or sum(counts) != runs.width * runs.height:
        filled = f"fill {runs.width} × {runs.height} pixels"
        raise InvalidValueError(f"run lengths must not be negative and {filled}; they sum to {sum(counts)}")
    pixels = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return pixels.reshape(runs.width, runs.height).T if runs.by_column else pixels.reshape(runs.height, runs.width)


def _decompressed(text: str) -> list[int]:
    """Read COCO's compressed run lengths.

    Each character holds five bits, lowest first, and a continuation flag. From the fourth length on, the number is the
    difference to the second-to-last length. It is done here because pycocotools returns uninitialised pixels if lengths
    are missing.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise InvalidValueError(f"{text!r:.40} is not a compressed list of run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return counts
