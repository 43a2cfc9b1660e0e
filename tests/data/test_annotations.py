"""Masks drawn from annotation files: COCO, LabelMe and CVAT."""

from __future__ import annotations

import base64
import json
import pickle
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
import pytest
import torch
from PIL import Image

from zennit_isnet.data import AnnotatedImages, check_masks
from zennit_isnet.data.annotation_formats import Runs, draw
from zennit_isnet.errors import InvalidTypeError, InvalidValueError

WIDTH, HEIGHT = 12, 9
SIZE = {"width": WIDTH, "height": HEIGHT}


def rectangle(left: int, top: int, right: int, bottom: int) -> torch.Tensor:
    """Mask of these pixels, the last included."""
    mask = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool)
    mask[:, top : bottom + 1, left : right + 1] = True
    return mask


def corners(left: float, top: float, right: float, bottom: float) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def coco_runs(mask: np.ndarray) -> list[int]:
    """Lengths down the columns, counted one pixel after the other."""
    counts, current = [0], False
    for pixel in mask.T.ravel().tolist():
        if pixel != current:
            counts.append(0)
            current = pixel
        counts[-1] += 1
    return counts


def write_image(root: Path, name: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / name)


def write_coco(root: Path, annotations: list[dict[str, Any]], images: tuple[str, ...] = ("1.png",)) -> Path:
    """Annotations of the images 0, 1, ...; of the category ``lung`` if they say nothing."""
    for name in images:
        write_image(root, name)
    content = {
        "images": [{"id": index, "file_name": name, **SIZE} for index, name in enumerate(images)],
        "categories": [{"id": 3, "name": "lung"}, {"id": 5, "name": "heart"}],
        "annotations": [{"image_id": 0, "category_id": 3, **annotation} for annotation in annotations],
    }
    (root / "coco.json").write_text(json.dumps(content))
    return root / "coco.json"


def write_labelme(root: Path, shapes: list[dict[str, Any]], image: str = "1.png", name: str = "1.json") -> Path:
    write_image(root, "1.png")
    size = {"imageWidth": WIDTH, "imageHeight": HEIGHT}
    shapes = [{"label": "lung", "shape_type": "polygon", **shape} for shape in shapes]
    (root / name).write_text(json.dumps({"imagePath": image, "shapes": shapes, "imageData": None, **size}))
    return root


def write_cvat(root: Path, shapes: str, before: str = "") -> Path:
    write_image(root, "1.png")
    image = f'<image id="0" name="1.png" width="{WIDTH}" height="{HEIGHT}">{shapes}</image>'
    (root / "cvat.xml").write_text(f'<?xml version="1.0"?>{before}<annotations><meta/>{image}</annotations>')
    return root / "cvat.xml"


def only_mask(annotations: Path, **options: Any) -> torch.Tensor:
    ((_, mask, _),) = AnnotatedImages(annotations, **options)
    return mask


SQUARE = {"segmentation": [corners(2, 3, 6, 7)]}
HEART = {"category_id": 5, "segmentation": [corners(8, 1, 9, 2)]}


class TestCoco:
    def test_polygon_is_drawn_with_its_outline(self, tmp_path: Path) -> None:
        assert torch.equal(only_mask(write_coco(tmp_path, [SQUARE])), rectangle(2, 3, 6, 7))

    def test_pixels_that_hold_the_corners_belong_to_the_polygon(self, tmp_path: Path) -> None:
        file = write_coco(tmp_path, [{"segmentation": [corners(2.9, 3.9, 6.1, 7.1)]}])
        assert torch.equal(only_mask(file), rectangle(2, 3, 6, 7))

    def test_parts_and_annotations_are_united(self, tmp_path: Path) -> None:
        parts = [corners(0, 0, 2, 2), corners(9, 1, 10, 2)]
        file = write_coco(tmp_path, [{"segmentation": parts}, {"segmentation": [corners(4, 6, 5, 8)]}])
        assert torch.equal(only_mask(file), rectangle(0, 0, 2, 2) | rectangle(9, 1, 10, 2) | rectangle(4, 6, 5, 8))

    def test_what_lies_outside_of_the_image_is_cut_off(self, tmp_path: Path) -> None:
        file = write_coco(tmp_path, [{"segmentation": [corners(-30, -0.5, 1, 1)]}])
        assert torch.equal(only_mask(file), rectangle(0, 0, 1, 1))

    def test_annotation_without_segmentation_is_its_box(self, tmp_path: Path) -> None:
        file = write_coco(tmp_path, [{"segmentation": [], "bbox": [2, 3, 4, 4]}])
        assert torch.equal(only_mask(file), rectangle(2, 3, 6, 7))

    @pytest.mark.parametrize("first", [False, True], ids=["from background", "from foreground"])
    def test_run_lengths_go_down_the_columns(self, tmp_path: Path, first: bool) -> None:
        mask = np.random.rand(HEIGHT, WIDTH) > 0.5
        mask[0, 0] = first
        file = write_coco(tmp_path, [{"segmentation": {"size": [HEIGHT, WIDTH], "counts": coco_runs(mask)}}])
        assert (only_mask(file)[0].numpy() == mask).all()

    def test_compressed_run_lengths_are_those_of_pycocotools(self, tmp_path: Path) -> None:
        for shape, share in (((HEIGHT, WIDTH), 0.5), ((HEIGHT, WIDTH), 0.0), ((300, 400), 0.999), ((300, 400), 0.001)):
            mask = np.random.rand(*shape) < share
            text = pycocotools.mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
            assert (draw([Runs(text, 0, 0, shape[1], shape[0], True)], shape[::-1]).numpy() == mask).all()

    @pytest.mark.parametrize("counts", [[5, 5], [-5, 113], [], "", "0000", "zz", "å", "2"])
    def test_run_lengths_that_do_not_fill_the_image_are_refused(self, tmp_path: Path, counts: Any) -> None:
        file = write_coco(tmp_path, [{"segmentation": {"size": [HEIGHT, WIDTH], "counts": counts}}])
        with pytest.raises(InvalidValueError, match=r"mask of .*1\.png in .*coco\.json cannot be read: .*lengths"):
            AnnotatedImages(file)[0]

    def test_run_lengths_of_another_image_are_refused(self, tmp_path: Path) -> None:
        file = write_coco(tmp_path, [{"segmentation": {"size": [HEIGHT // 3, WIDTH], "counts": [6, 30]}}])
        with pytest.raises(InvalidValueError, match="12 × 3 pixels for an image of 12 × 9"):
            AnnotatedImages(file)[0]

    @pytest.mark.parametrize(
        ("annotation", "message"),
        [
            ({"image_id": 9}, "image 9"),
            ({"category_id": 9}, "category 9"),
            ({}, "no entry 'bbox'"),
            ({"segmentation": [[1, 2, 3, 4]]}, "at least 3 points"),
            ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "at least 3 points"),
            ({"segmentation": [[1, 2, 3, 4, 5, float("nan")]]}, "finite"),
            ({"segmentation": [[1, 2, 3, 4, 5, 1e300]]}, "finite"),
            ({"segmentation": ["1234567"]}, "at least 3 points"),
            ({"segmentation": {"counts": [1]}}, "no entry 'size'"),
        ],
    )
    def test_annotation_that_is_wrong_is_named(self, tmp_path: Path, annotation: dict[str, Any], message: str) -> None:
        with pytest.raises(InvalidValueError, match=rf"coco\.json, annotations\[1\].*{message}"):
            AnnotatedImages(write_coco(tmp_path, [SQUARE, annotation]))

    @pytest.mark.parametrize("content", ["", "[1]", "{}", "[" * 100000, '{"images": 3, "categories": []}'])
    def test_other_files_are_named(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "coco.json").write_text(content)
        with pytest.raises(InvalidValueError, match=r"coco\.json"):
            AnnotatedImages(tmp_path / "coco.json")

    def test_image_of_another_size_than_annotated_is_an_error_unless_resized(self, tmp_path: Path) -> None:
        file = write_coco(tmp_path, [{"segmentation": [corners(2, 2, 5, 5)]}])
        Image.new("RGB", (2 * WIDTH, 2 * HEIGHT)).save(tmp_path / "1.png")
        with pytest.raises(InvalidValueError, match=r"18×24 .*9×12; pass resize_masks"):
            AnnotatedImages(file)[0]
        assert only_mask(file, resize_masks=True)[0, 4:12, 4:12].all()

    def test_size_that_is_not_given_is_that_of_the_image(self, tmp_path: Path) -> None:
        file = write_coco(tmp_path, [SQUARE])
        content = json.loads(file.read_text())
        del content["images"][0]["width"]
        file.write_text(json.dumps(content))
        assert torch.equal(only_mask(file), rectangle(2, 3, 6, 7))

    def test_sizes_beyond_pillows_limit_are_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
        file = write_coco(tmp_path, [SQUARE])
        file.write_text(file.read_text().replace(f'"width": {WIDTH}', '"width": 1000000'))
        with pytest.raises(InvalidValueError, match="decompression bomb"):
            AnnotatedImages(file)[0]


class TestLabelMe:
    @pytest.mark.parametrize(
        ("kind", "points"),
        [
            ("polygon", [[2, 3], [6, 3], [6, 7], [2, 7]]),
            ("rectangle", [[2, 3], [6, 7]]),
            ("rectangle", [[6, 7], [2, 3]]),
            ("rectangle", [[2, 3], [6, 3], [6, 7], [2, 7]]),
            (None, [[2, 3], [6, 3], [6, 7], [2, 7]]),
        ],
    )
    def test_polygons_and_rectangles(self, tmp_path: Path, kind: str | None, points: list[list[float]]) -> None:
        folder = write_labelme(tmp_path, [{"shape_type": kind, "points": points}])
        assert torch.equal(only_mask(folder), rectangle(2, 3, 6, 7))

    def test_circle_is_given_by_its_centre_and_a_point(self, tmp_path: Path) -> None:
        mask = only_mask(write_labelme(tmp_path, [{"shape_type": "circle", "points": [[5.5, 4.5], [5.5, 1.5]]}]))
        rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
        distance = (columns - 5).float().hypot(rows - 4.0)
        assert mask[0][distance <= 2.5].all()
        assert not mask[0][distance > 3.7].any()

    @pytest.mark.parametrize("first", [False, True])
    def test_mask_lies_in_its_box(self, tmp_path: Path, first: bool) -> None:
        pixels = np.random.rand(4, 5) > 0.5
        pixels[0, 0] = first
        file = BytesIO()
        Image.fromarray(pixels.astype(np.uint8) * 255).save(file, "PNG")
        shape = {"shape_type": "mask", "points": [[3, 2], [7, 5]], "mask": base64.b64encode(file.getvalue()).decode()}
        expected = np.zeros((HEIGHT, WIDTH), dtype=bool)
        expected[2:6, 3:8] = pixels
        assert (only_mask(write_labelme(tmp_path, [shape]))[0].numpy() == expected).all()

    def test_files_lie_in_folders_like_their_images(self, tmp_path: Path) -> None:
        points = [[2, 3], [6, 3], [6, 7], [2, 7]]
        for patient in ("a", "b"):
            (tmp_path / "labels" / patient).mkdir(parents=True)
            write_labelme(tmp_path / "labels" / patient, [{"points": points}])
            write_image(tmp_path / "images" / patient, "1.png")
        data = AnnotatedImages(tmp_path / "labels", tmp_path / "images", labels="folder")
        assert [data.name(index) for index in range(2)] == [str(tmp_path / "images" / p / "1.png") for p in "ab"]
        assert (data.classes, data.targets.tolist()) == (["a", "b"], [0, 1])

    @pytest.mark.parametrize("path", ["../images/1.png", "..\\images\\1.png"])
    def test_paths_may_go_from_the_folder_of_files_to_that_of_images(self, tmp_path: Path, path: str) -> None:
        (tmp_path / "labels").mkdir()
        write_labelme(tmp_path / "labels", [{"points": [[2, 3], [6, 3], [6, 7]]}], image=path)
        write_image(tmp_path / "images", "1.png")
        assert len(AnnotatedImages(tmp_path / "labels", tmp_path / "images")) == 1
        with pytest.raises(InvalidValueError, match="lies outside the image folder root="):
            AnnotatedImages(tmp_path / "labels")

    @pytest.mark.parametrize(
        ("shape", "message"),
        [
            ({"shape_type": "line", "points": [[1, 2], [3, 4]]}, "line has no area; use a polygon"),
            ({"shape_type": "mask", "points": [[1, 2], [3, 4]], "mask": "AAAA"}, "cannot identify image"),
            ({"shape_type": "rectangle", "points": [[1, 2]]}, "a rectangle must have 2 points; got 1"),
            ({}, "no entry 'points'"),
        ],
    )
    def test_shape_that_is_wrong_is_named(self, tmp_path: Path, shape: dict[str, Any], message: str) -> None:
        with pytest.raises(InvalidValueError, match=rf"1\.json, shapes\[0\].*{message}"):
            AnnotatedImages(write_labelme(tmp_path, [shape]))

    def test_folder_without_files_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidValueError, match="must have an image with an annotation"):
            AnnotatedImages(tmp_path)


class TestCvat:
    @pytest.mark.parametrize(
        "shape",
        [
            '<polygon label="lung" points="2.0,3.0;6.0,3.0;6.0,7.0;2.0,7.0"/>',
            '<box label="lung" xtl="2" ytl="3" xbr="6" ybr="7"/>',
            # five columns and five rows, all foreground
            '<mask label="lung" rle="0, 25" left="2" top="3" width="5" height="5"/>',
        ],
    )
    def test_polygons_boxes_and_masks(self, tmp_path: Path, shape: str) -> None:
        assert torch.equal(only_mask(write_cvat(tmp_path, shape)), rectangle(2, 3, 6, 7))

    def test_run_lengths_go_along_the_rows(self, tmp_path: Path) -> None:
        mask = only_mask(write_cvat(tmp_path, '<mask label="a" rle="1, 3, 2" left="4" top="5" width="3" height="2"/>'))
        assert torch.equal(mask, rectangle(5, 5, 6, 5) | rectangle(4, 6, 4, 6))

    def test_sizes_beyond_pillows_limit_are_refused(self, tmp_path: Path) -> None:
        mask = '<mask label="a" rle="1000000000000" left="0" top="0" width="1000000" height="1000000"/>'
        with pytest.raises(InvalidValueError, match="decompression bomb"):
            AnnotatedImages(write_cvat(tmp_path, mask))[0]

    def test_boxes_may_be_turned(self, tmp_path: Path) -> None:
        """Around their centre (6, 4): six pixels wide and two high become two wide and six high."""
        box = '<box label="a" xtl="3" ytl="3" xbr="9" ybr="5" rotation="90.0"/>'
        assert torch.equal(only_mask(write_cvat(tmp_path, box)), rectangle(5, 1, 7, 7))

    def test_turn_is_clockwise(self, tmp_path: Path) -> None:
        mask = only_mask(write_cvat(tmp_path, '<box label="a" xtl="2" ytl="4" xbr="10" ybr="4.5" rotation="30"/>'))
        assert mask[0, 6, 9]
        assert not mask[0, 2, 9]

    def test_tags_are_no_shapes(self, tmp_path: Path) -> None:
        data = AnnotatedImages(
            write_cvat(tmp_path, '<tag label="ill"/><box label="a" xtl="2" ytl="3" xbr="6" ybr="7"/>')
        )
        assert data.classes == ["a"]

    @pytest.mark.parametrize(
        ("shape", "message"),
        [
            ('<polyline label="a" points="1,2;3,4"/>', "polyline is not a shape with an area; use polygon"),
            ('<polygon label="a" points="1,2;3,four;5,6"/>', "four"),
            ('<box label="a" xtl="1"/>', "no entry 'ytl'"),
        ],
    )
    def test_shape_that_is_wrong_is_named(self, tmp_path: Path, shape: str, message: str) -> None:
        with pytest.raises(InvalidValueError, match=rf"cvat\.xml, shape 0 of 1\.png.*{message}"):
            AnnotatedImages(write_cvat(tmp_path, shape))

    @pytest.mark.parametrize(
        "doctype",
        [
            '<!DOCTYPE annotations [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]>',
            '<!DOCTYPE annotations SYSTEM "file:///etc/hostname">',
        ],
    )
    def test_files_with_a_doctype_are_refused(self, tmp_path: Path, doctype: str) -> None:
        with pytest.raises(InvalidValueError, match="DOCTYPE"):
            AnnotatedImages(write_cvat(tmp_path, "", doctype))

    @pytest.mark.parametrize("content", ["", "<annotations>", "<annotations><track/></annotations>"])
    def test_other_files_are_named(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "cvat.xml").write_text(content)
        with pytest.raises(InvalidValueError, match=r"cvat\.xml"):
            AnnotatedImages(tmp_path / "cvat.xml")


class TestLabels:
    def test_categories_are_labels_several_if_an_image_has_several(self, tmp_path: Path) -> None:
        one = write_coco(tmp_path, [SQUARE, {**HEART, "image_id": 1}], ("1.png", "2.png"))
        assert (AnnotatedImages(one).classes, AnnotatedImages(one).targets.tolist()) == (["heart", "lung"], [1, 0])
        both = write_coco(tmp_path, [SQUARE, HEART])
        assert AnnotatedImages(both).targets.tolist() == [[1.0, 1.0]]

    def test_categories_that_are_not_chosen_are_neither_foreground_nor_labels(self, tmp_path: Path) -> None:
        line = {"category_id": 5, "segmentation": [[1, 2, 3, 4]]}
        file = write_coco(tmp_path, [SQUARE, line])
        data = AnnotatedImages(file, categories=["lung"])
        assert (data.classes, data[0][1].sum().item()) == (["lung"], 25)
        with pytest.raises(InvalidValueError, match="liver do not occur; the annotations have heart, lung"):
            AnnotatedImages(file, categories=["lung", "liver"])

    def test_folders_are_labels(self, tmp_path: Path) -> None:
        file = write_coco(tmp_path, [SQUARE, {**HEART, "image_id": 1}], ("well/a/1.png", "ill/1.png"))
        data = AnnotatedImages(file, labels="folder")
        assert (data.classes, data.targets.tolist()) == (["ill", "well"], [1, 0])
        with pytest.raises(InvalidValueError, match=r"image .*1\.png is not in a folder"):
            AnnotatedImages(write_coco(tmp_path, [SQUARE]), labels="folder")

    def test_table_gives_labels(self, tmp_path: Path) -> None:
        file = write_coco(tmp_path, [SQUARE, {**HEART, "image_id": 1}], ("a/1.png", "2.png"))
        data = AnnotatedImages(file, labels={"a/1.png": "well", "2.png": "ill"})
        assert (data.classes, data.targets.tolist()) == (["ill", "well"], [1, 0])
        with pytest.raises(InvalidValueError, match=r"has no label: add the key '2\.png'"):
            AnnotatedImages(file, labels={"a/1.png": "well"})

    def test_classes_of_a_training_set_number_the_labels(self, tmp_path: Path) -> None:
        data = AnnotatedImages(write_coco(tmp_path, [SQUARE]), classes=["kidney", "lung"])
        assert data.targets.tolist() == [1]

    def test_images_without_annotation_follow_the_policy(self, tmp_path: Path) -> None:
        file = write_coco(tmp_path, [SQUARE], ("1.png", "2.png"))
        table = {"1.png": "ill", "2.png": "well"}
        with pytest.raises(InvalidValueError, match=r"1 of 2 images have no mask: .*2\.png"):
            AnnotatedImages(file, labels=table)
        assert [item[3] for item in AnnotatedImages(file, labels=table, missing="skip-penalty")] == [True, False]
        dropped = AnnotatedImages(file, missing="drop")
        assert (len(dropped), dropped.dropped) == (1, [str(tmp_path / "2.png")])
        with pytest.raises(InvalidValueError, match=r"image .*2\.png: must have one label; got none"):
            AnnotatedImages(file)


def test_items_reports_and_workers_are_those_of_other_data_sets(tmp_path: Path) -> None:
    outside = {"segmentation": [corners(50, 50, 60, 60)], "image_id": 1}
    data = AnnotatedImages(write_coco(tmp_path, [SQUARE, outside], ("1.png", "2.png")), empty="skip-penalty")
    copy = pickle.loads(pickle.dumps(data))
    assert [(image.shape, label, has) for image, _, label, has in copy] == [
        ((3, HEIGHT, WIDTH), 0, True),
        ((3, HEIGHT, WIDTH), 0, False),
    ]
    (problem,) = (found for found in check_masks(data, progress=False).problems if found.kind == "empty")
    assert problem.name == str(tmp_path / "2.png")
    assert "coco.json" in problem.detail


@pytest.mark.parametrize("name", ["../1.png", "a/../../1.png", "/etc/1.png"])
def test_paths_do_not_leave_the_folder_of_images(tmp_path: Path, name: str) -> None:
    file = write_coco(tmp_path, [SQUARE])
    file.write_text(file.read_text().replace("1.png", name))
    with pytest.raises(InvalidValueError, match=rf"coco\.json: image {name} lies outside the image folder root="):
        AnnotatedImages(file)


@pytest.mark.parametrize("word", ["images", "categories"])
def test_ids_must_be_unique(tmp_path: Path, word: str) -> None:
    """In files that were joined they are not, and annotations would go to another image or category."""
    file = write_coco(tmp_path, [SQUARE], ("1.png", "2.png"))
    content = json.loads(file.read_text())
    content[word].append(content[word][0])  # the same entry is no other
    file.write_text(json.dumps(content))
    assert len(AnnotatedImages(file, missing="skip-penalty", labels={"1.png": "ill", "2.png": "well"})) == 2
    content[word][1]["id"] = content[word][0]["id"]
    file.write_text(json.dumps(content))
    with pytest.raises(InvalidValueError, match=f"ids of {word} must be unique; got [03] for two of them"):
        AnnotatedImages(file)


def test_images_must_exist_and_occur_once(tmp_path: Path) -> None:
    file = write_coco(tmp_path, [SQUARE], ("1.png", "1.png"))
    with pytest.raises(InvalidValueError, match=r"1\.png occurs twice"):
        AnnotatedImages(file)
    with pytest.raises(InvalidValueError, match="1 of 1 images do not exist"):
        AnnotatedImages(write_coco(tmp_path, [SQUARE]), tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"labels": "table"}, InvalidValueError),
        ({"missing": "ignore"}, InvalidValueError),
        ({"categories": "lung"}, InvalidTypeError),
        ({"transform": "flip"}, InvalidTypeError),
    ],
)
def test_illegal_options_are_named(tmp_path: Path, options: dict[str, Any], error: type[Exception]) -> None:
    (name,) = options
    with pytest.raises(error, match=f"{name} must be"):
        AnnotatedImages(write_coco(tmp_path, [SQUARE]), **options)


def test_other_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match=r"annotations must be a JSON file \(COCO\).*got .*masks\.csv"):
        AnnotatedImages(tmp_path / "masks.csv")
