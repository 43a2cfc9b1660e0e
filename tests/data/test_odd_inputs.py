"""Data as they come: each odd input is read right, refused by an error that says what to do, or reported."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias
from unicodedata import normalize

import numpy as np
import pytest
import torch
from masked_files import ORIENTATION, Layout, saved
from PIL import Image

from zennit_isnet.data import MaskedImageFolder, MaskedImageTable, check_masks
from zennit_isnet.data.masked import MaskedDataset
from zennit_isnet.errors import InvalidValueError

Plant: TypeAlias = Callable[[Layout], Any]
Outcome: TypeAlias = Literal["right", "refused", "reported"]
Which: TypeAlias = Literal["images", "masks"]


def nothing(layout: Layout) -> None:
    """Leave the data as they are."""


def each(which: Which, change: Callable[[Image.Image], Image.Image], extension: str = ".png", **options: Any) -> Plant:
    """Save each image or mask anew."""

    def plant(layout: Layout) -> None:
        for file in layout.files:
            path = getattr(layout, which) / file
            with Image.open(path) as picture:
                picture = change(picture.convert("L"))
            path.unlink()
            saved(picture, path.with_suffix(extension), **options)

    return plant


def values(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Image.Image], Image.Image]:
    return lambda picture: Image.fromarray(change(np.asarray(picture).astype(np.int64)))


def mode(name: str) -> Callable[[Image.Image], Image.Image]:
    return lambda picture: picture.convert(name)


def renamed(which: Which, change: Callable[[Path], Path], only: int | None = None) -> Plant:
    """Give images or masks, or only one, another relative path."""

    def plant(layout: Layout) -> None:
        root = getattr(layout, which)
        for file in layout.files if only is None else [layout.files[only]]:
            target = root / change(Path(file))
            target.parent.mkdir(parents=True, exist_ok=True)
            (root / file).rename(target)

    return plant


def copied(target: str) -> Plant:
    """Put one more image beside the folders; `target` starts from there."""
    return lambda layout: saved(Image.new("L", (4, 4)), layout.images.parent / target)


def written(target: str, content: bytes = b"text") -> Plant:
    def plant(layout: Layout) -> None:
        path = layout.images.parent / target
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    return plant


def both(*plants: Plant) -> Plant:
    return lambda layout: [plant(layout) for plant in plants]


def swapped(layout: Layout) -> None:
    layout.images.rename(layout.images.with_name("photographs"))
    layout.masks.rename(layout.images)
    layout.images.with_name("photographs").rename(layout.masks)


def split(layout: Layout) -> None:
    for root in (layout.images, layout.masks):
        for part in ("train", "val"):
            for file in layout.files:
                (root / part / file).parent.mkdir(parents=True, exist_ok=True)
                (root / part / file).write_bytes((root / file).read_bytes())
        for file in layout.files:
            (root / file).unlink()
        for label in ("digit0", "digit1"):
            (root / label).rmdir()


def of_sixteen_bit_colours(layout: Layout) -> None:
    """Pillow cannot write such files, and reads the upper eight bits."""
    for file in layout.files:
        with Image.open(layout.images / file) as picture:
            rows = np.repeat(np.asarray(picture.convert("L"))[..., None].astype(int) * 16, 3, axis=2)
        header = struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], 16, 2, 0, 0, 0)
        parts = {
            b"IHDR": header,
            b"IDAT": zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows)),
            b"IEND": b"",
        }
        chunks = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts.items()]
        (layout.images / file).write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def with_a_header_of_twelve_bits(layout: Layout) -> None:
    for file in layout.files:
        with Image.open(layout.images / file) as picture:
            grey = np.asarray(picture.convert("L")).astype(int) * 4095 // 255
        (layout.images / file).unlink()
        path = (layout.images / file).with_suffix(".pgm")
        path.write_bytes(b"P5 %d %d 4095\n" % grey.shape[::-1] + grey.astype(">u2").tobytes())


def larger_ones(layout: Layout) -> None:
    """Twenty images of each class, whose objects are larger in the second."""
    for number in range(20):
        for label in (0, 1):
            picture = Image.effect_noise((40, 40), 90)
            mask = Image.new("L", (40, 40))
            mask.paste(255, (5, 5, 15 + number // 2 + 8 * label, 20))
            saved(picture, layout.images / f"digit{label}" / f"more{number}.png")
            saved(mask, layout.masks / f"digit{label}" / f"more{number}.png")


def turned(layout: Layout) -> None:
    """A phone's photograph, whose mask was drawn on what the sensor saw."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    saved(Image.effect_noise((40, 30), 90), layout.images / layout.files[0], exif=exif)
    mask = Image.new("L", (40, 30))
    mask.paste(255, (5, 5, 20, 20))
    saved(mask, layout.masks / layout.files[0])


def nfd(path: Path) -> Path:
    return path.with_name(normalize("NFD", f"Größe {path.name}"))


def nfc(path: Path) -> Path:
    return path.with_name(normalize("NFC", f"Größe {path.name}"))


Case: TypeAlias = tuple[str, Plant, dict[str, Any], Outcome, list[str]]
TWELVE, MANY = values(lambda grey: (grey * 16).astype(np.uint16)), values(lambda grey: (grey * 257).astype(np.uint16))

FOLDERS: list[Case] = [
    # formats
    ("as it should be", nothing, {}, "right", []),
    ("images in BMP", each("images", mode("RGB"), ".bmp"), {}, "right", []),
    ("images in TIFF", each("images", mode("L"), ".tif"), {}, "right", []),
    ("images in WebP", each("images", mode("RGB"), ".webp", lossless=True), {}, "right", []),
    ("images in JPEG, upper case", each("images", mode("L"), ".JPG", quality=98), {}, "right", []),
    ("images with a palette", each("images", mode("P")), {}, "right", []),
    ("images with an opaque alpha", each("images", mode("RGBA")), {}, "right", []),
    ("masks of 0 and 1", each("masks", values(lambda mask: (mask // 255).astype(np.uint8))), {}, "right", []),
    ("masks of one bit", each("masks", mode("1")), {}, "right", []),
    ("masks in colour", each("masks", mode("RGB"), ".tiff"), {}, "right", []),
    (
        "masks of 0 and 4095",
        each("masks", values(lambda mask: (mask // 255 * 4095).astype(np.uint16))),
        {},
        "right",
        [],
    ),
    ("masks of floats", each("masks", values(lambda mask: (mask / 255).astype(np.float32)), ".tif"), {}, "right", []),
    (
        "masks in GIF",
        each("masks", mode("L"), ".gif"),
        {},
        "refused",
        ["4 of 4", "looked for", ".gif, which is not read"],
    ),
    (
        "masks in JPEG",
        each("masks", mode("L"), ".jpg", quality=50),
        {},
        "refused",
        ["has the values 0, 1", 'binarize="half"'],
    ),
    ("masks in JPEG, read as such", each("masks", mode("L"), ".jpg", quality=98), {"binarize": "half"}, "right", []),
    (
        "masks of NaN",
        each("masks", values(lambda mask: mask * np.float32("nan")), ".tif"),
        {},
        "refused",
        ["finite values"],
    ),
    (
        "text that is called an image",
        written("images/digit0/a.png"),
        {"missing": "skip-penalty"},
        "reported",
        ["unreadable", "a.png"],
    ),
    # bit depths
    ("16 bits", each("images", MANY), {}, "right", []),
    ("16 bits in TIFF", each("images", MANY, ".tif"), {}, "right", []),
    ("12 bits that the header tells", with_a_header_of_twelve_bits, {}, "right", []),
    ("12 bits in 16", each("images", TWELVE), {}, "reported", ["contrast", "only values from 0 to 16", "12 bits"]),
    ("12 bits in 16, TIFF", each("images", TWELVE, ".tif"), {}, "reported", ["contrast", "only values from 0 to 16"]),
    (
        "14 bits in 16",
        each("images", values(lambda grey: (grey * 64).astype(np.uint16))),
        {},
        "reported",
        ["contrast", "to 64 of 0 to 255"],
    ),
    (
        "12 bits in 32",
        each("images", values(lambda grey: (grey * 16).astype(np.int32)), ".tif"),
        {},
        "reported",
        ["contrast", "only values from 0 to 16"],
    ),
    (
        "12 bits above the middle of 16, as of signed integers",
        each("images", values(lambda grey: (grey * 16 + 32768).astype(np.uint16))),
        {},
        "reported",
        ["contrast", "only values from 128 to 143"],
    ),
    ("12 bits in 16, colours", of_sixteen_bit_colours, {}, "reported", ["contrast", "to 15 of 0 to 255"]),
    (
        "floats in bytes",
        each("images", values(lambda grey: (grey / 255).astype(np.uint8))),
        {},
        "reported",
        ["contrast", "only values from 0 to 1"],
    ),
    (
        "floats",
        each("images", values(lambda grey: (grey / 255).astype(np.float32)), ".tif"),
        {},
        "refused",
        ["float", "without a standard range", "8 or 16 bits"],
    ),
    (
        "signed 16 bits",
        each("images", values(lambda grey: (grey - 1024).astype(np.int32)), ".tif"),
        {},
        "refused",
        ["without a standard range"],
    ),
    # names
    ("image decomposed, mask composed", both(renamed("images", nfd), renamed("masks", nfc)), {}, "right", []),
    ("image composed, mask decomposed", both(renamed("images", nfc), renamed("masks", nfd)), {}, "right", []),
    (
        "dots and spaces",
        both(*(renamed(which, lambda p: p.with_name(f"a 1.2 {p.name}")) for which in ("images", "masks"))),
        {},
        "right",
        [],
    ),
    ("extension of masks in upper case", renamed("masks", lambda p: p.with_suffix(".PNG")), {}, "right", []),
    (
        "suffix that is given",
        renamed("masks", lambda p: p.with_stem(f"{p.stem}_mask")),
        {"mask_suffix": "_mask"},
        "right",
        [],
    ),
    (
        "suffix that is not given",
        renamed("masks", lambda p: p.with_stem(f"{p.stem}_mask")),
        {},
        "refused",
        ["4 of 4", "_mask.png"],
    ),
    (
        "a suffix",
        renamed("masks", lambda p: p.with_stem(f"{p.stem}_seg"), 0),
        {},
        "refused",
        ["1 of 4", "nearest is", "_seg.png"],
    ),
    (
        "a prefix",
        renamed("masks", lambda p: p.with_stem(f"seg_{p.stem}"), 0),
        {},
        "refused",
        ["1 of 4", "nearest is", "/seg_"],
    ),
    (
        "two extensions",
        renamed("masks", lambda p: p.with_name(f"{p.stem}.jpg.png"), 0),
        {},
        "refused",
        ["nearest is", ".jpg.png)"],
    ),
    (
        "class in another case",
        renamed("masks", lambda p: Path(f"D{str(p)[1:]}")),
        {},
        "refused",
        ["nearest is", "Digit0"],
    ),
    (
        "masks deeper",
        renamed("masks", lambda p: p.parent / "more" / p.name),
        {},
        "refused",
        ["nearest is", "digit0/more/"],
    ),
    ("masks in no class folder", renamed("masks", lambda p: Path(p.name)), {}, "refused", ["nearest is", "masks/0"]),
    (
        "a mask that is missing, and allowed to",
        renamed("masks", lambda p: p.with_suffix(".gif"), 0),
        {"missing": "skip-penalty"},
        "reported",
        ["missing: image", "1 of 4 images have no mask", ".gif, which is not read"],
    ),
    (
        "names of all masks, whatever is allowed",
        renamed("masks", lambda p: p.with_stem(f"{p.stem}_mask")),
        {"missing": "skip-penalty"},
        "refused",
        ["4 of 4", "_mask.png"],
    ),
    # folders and files of programs
    ("checkpoints of notebooks", copied("images/.ipynb_checkpoints/a.png"), {}, "right", []),
    ("checkpoints of notebooks in a class", copied("images/digit0/.ipynb_checkpoints/a.png"), {}, "right", []),
    ("what macOS packs", copied("images/__MACOSX/digit0/a.png"), {}, "right", []),
    ("what macOS leaves beside files", written("images/digit0/._a.png"), {}, "right", []),
    (
        "what storage servers leave",
        both(copied("images/@eaDir/a.png"), copied("masks/digit0/@eaDir/a.png")),
        {},
        "right",
        [],
    ),
    ("what Windows leaves", both(written("images/digit0/Thumbs.db"), written("masks/desktop.ini")), {}, "right", []),
    (
        "nothing but hidden folders",
        both(lambda layout: layout.images.rename(layout.masks / ".git"), copied("images/.git/a.png")),
        {},
        "refused",
        ["folder of images for each class"],
    ),
    # files that are not read
    (
        "other files",
        both(written("images/digit0/a.nii"), written("masks/list.txt")),
        {},
        "reported",
        ["not read (2)", "a.nii", "list.txt"],
    ),
    ("images in no class", copied("images/a.png"), {}, "reported", ["not read (1)", "images/a.png"]),
    (
        "class of other files",
        written("images/digit2/a.nii"),
        {},
        "refused",
        ["class digit2", ".png", "allow_empty=True"],
    ),
    # sizes
    ("turned, checked", turned, {"resize_masks": True}, "reported", ["turned: image", "40×30", "30×40"]),
    (
        "smaller",
        each("masks", lambda mask: mask.resize((20, 20), 0)),
        {},
        "refused",
        ["40×40", "20×20", "resize_masks=True"],
    ),
    ("larger, resized", each("masks", lambda mask: mask.resize((80, 80), 0)), {"resize_masks": True}, "right", []),
    (
        "larger, resized, checked",
        each("masks", lambda mask: mask.resize((80, 80), 0)),
        {"resize_masks": True},
        "reported",
        ["another resolution", "are resized", "(4 in all)"],
    ),
    # other folders
    ("swapped", swapped, {}, "refused", ["mask", "has the values"]),
    ("swapped, checked", swapped, {}, "reported", ["–    –    –    –", "1 problem:", "look swapped", "(4 in all)"]),
    ("parts as classes", split, {}, "refused", ["each class", "train, val", "folder below"]),
    # differences between classes
    ("size of the object", larger_ones, {}, "reported", ["mask size alone", "digit0 0.", "digit1 0.", "AUC"]),
]


def folder(layout: Layout, options: dict[str, Any]) -> MaskedDataset:
    return MaskedImageFolder(layout.images, layout.masks, **options)


def assert_outcome(make: Callable[[], MaskedDataset], layout: Layout, outcome: Outcome, words: list[str]) -> None:
    if outcome == "refused":
        with pytest.raises(InvalidValueError) as error:
            list(make())  # type: ignore[call-overload]
        assert [word for word in words if word not in str(error.value)] == []
    elif outcome == "reported":
        report = str(check_masks(make(), progress=False))
        assert [word for word in words if word not in report] == []
    else:
        data = make()
        assert data.targets.tolist() == layout.labels
        for index, (image, mask, _) in enumerate(data):
            assert (image.float() - layout.pixels[index]).abs().mean() < 2
            assert (mask != layout.foreground[index]).float().mean() < 0.01
        assert check_masks(data, progress=False).ok


@pytest.fixture
def grey(layout: Layout) -> Layout:
    """The layout with grey images, which all formats hold."""
    each("images", mode("L"))(layout)
    pixels = [torch.from_numpy(np.array(Image.open(layout.images / file))) for file in layout.files]
    return layout._replace(pixels=torch.stack(pixels).unsqueeze(1))


@pytest.mark.parametrize(
    ("plant", "options", "outcome", "words"), [case[1:] for case in FOLDERS], ids=[case[0] for case in FOLDERS]
)
def test_odd_folders(grey: Layout, plant: Plant, options: dict[str, Any], outcome: Outcome, words: list[str]) -> None:
    plant(grey)
    assert_outcome(lambda: folder(grey, options), grey, outcome, words)


@pytest.mark.parametrize("missing", ["error", "skip-penalty", "drop"])
@pytest.mark.parametrize(
    ("images", "masks", "words"),
    [
        (".", ".", ["each class", "images, masks"]),
        (".", "masks", ["each class", "images, masks"]),
        ("images", ".", ["4 of 4", "looked for", "nearest is"]),
        ("images", "images", ["different from images_root", "mask_suffix"]),
        ("images", "images/digit0", ["folder digit0", "contains masks_root"]),
    ],
)
def test_folders_above_and_below(grey: Layout, images: str, masks: str, words: list[str], missing: Any) -> None:
    root = grey.images.parent
    assert_outcome(lambda: MaskedImageFolder(root / images, root / masks, missing=missing), grey, "refused", words)


Table: TypeAlias = tuple[str, str, list[str], Outcome, list[str]]
ONE, EACH, INDEX = "image,mask,label", "image,mask,digit0,digit1", ",image,mask,digit0,digit1"

TABLES: list[Table] = [
    ("integers as floats", ONE, ["0.0", "0.0", "1.0", "1.0"], "right", []),
    ("a fraction", ONE, ["0.0", "0.5", "1.0", "1.0"], "refused", ["line 3", "column label", "'0.5'"]),
    ("NaN", ONE, ["0.0", "nan", "1.0", "1.0"], "refused", ["line 3", "column label", "'nan'"]),
    ("NaN beside names", ONE, ["digit0", "digit0", "NaN", "digit1"], "refused", ["line 4", "column label", "'NaN'"]),
    ("NA", ONE, ["0", "0", "1", "<NA>"], "refused", ["line 5", "column label", "'<NA>'"]),
    ("−1", ONE, ["0", "0", "1", "-1"], "refused", ["line 5", "column label", "'-1'"]),
    ("−1 as a float", ONE, ["-1.0", "0.0", "1.0", "1.0"], "refused", ["line 2", "column label", "'-1.0'"]),
    ("blank", ONE, ["0", "", "1", "1"], "refused", ["line 3", "one label", "none"]),
    ("classes as floats", EACH, ["1.0,0.0", "1.0,0.0", "0.0,1.0", "0.0,1.0"], "right", []),
    ("classes as booleans", EACH, ["True,False", "True,False", "False,True", "False,True"], "right", []),
    ("an index", INDEX, ["1,0", "1,0", "0,1", "0,1"], "right", []),
    ("class, blank", EACH, ["1.0,0.0", "1.0,", "0.0,1.0", "0.0,1.0"], "refused", ["line 3", "column digit1", "''"]),
    (
        "class, −1",
        EACH,
        ["1.0,0.0", "-1.0,0.0", "0.0,1.0", "0.0,1.0"],
        "refused",
        ["line 3", "column digit0", "'-1.0'"],
    ),
    ("class, NaN", EACH, ["1,0", "1,0", "nan,1", "0,1"], "refused", ["line 4", "column digit0", "'nan'"]),
    ("class, a score", EACH, ["1,0", "1,0", "0,1", "0,0.7"], "refused", ["line 5", "column digit1", "'0.7'"]),
    ("an index alone", ",image,mask", ["0", "1", "2", "3"], "refused", ["columns image, mask, and label"]),
    ("semicolons", "image;mask;label", ["0", "0", "1", "1"], "refused", ["columns image, mask", "image;mask;label"]),
]


@pytest.mark.parametrize(
    ("header", "labels", "outcome", "words"), [case[1:] for case in TABLES], ids=[case[0] for case in TABLES]
)
def test_odd_tables(grey: Layout, header: str, labels: list[str], outcome: Outcome, words: list[str]) -> None:
    rows = [header]
    for number, (file, label) in enumerate(zip(grey.files, labels, strict=True)):
        cells = {"image": f"images/{file}", "mask": f"masks/{file}", "": str(number), "label": label}
        rows.append(",".join(cells[column] for column in header.split(",") if column in cells))
        rows[-1] += "" if "label" in header else f",{label}"
    table = grey.images.parent / "table.csv"
    table.write_text("\n".join(rows))
    multi_label = None if "label" in header else False
    assert_outcome(lambda: MaskedImageTable(table, multi_label=multi_label), grey, outcome, words)


def test_ten_classes_as_floats_are_ordered_by_number(grey: Layout) -> None:
    table = grey.images.parent / "table.csv"
    lines = [f"images/{grey.files[0]},masks/{grey.files[0]},{label}.0" for label in range(11)]
    table.write_text("\n".join([ONE, *lines]))
    assert MaskedImageTable(table).targets.tolist() == list(range(11))


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_tables_name_files_in_any_unicode_form(grey: Layout, form: Any) -> None:
    for root in (grey.images, grey.masks):
        (root / grey.files[0]).rename(root / normalize("NFC", "Größe.png"))
    table = grey.images.parent / "table.csv"
    table.write_text(normalize(form, f"{ONE}\nimages/Größe.png,masks/Größe.png,0"), encoding="utf-8")
    assert torch.equal(MaskedImageTable(table)[0][1], grey.foreground[0])


def test_table_says_which_file_is_nearest_to_a_missing_mask(grey: Layout) -> None:
    renamed("masks", lambda path: path.with_suffix(".gif"), 0)(grey)
    table = grey.images.parent / "table.csv"
    table.write_text(f"{ONE}\nimages/{grey.files[0]},masks/{grey.files[0]},0")
    with pytest.raises(InvalidValueError, match=r"looked for .*\.png, nearest is .*\.gif\)"):
        MaskedImageTable(table)


def test_problem_that_most_images_have_is_told_with_three_examples(layout: Layout) -> None:
    larger_ones(layout)
    for path in layout.masks.rglob("more*"):
        Image.new("L", (40, 40)).save(path)
    report = check_masks(folder(layout, {}), progress=False)
    assert len(report.problems) == 40
    (line,) = [line for line in str(report).splitlines() if line.startswith("  - ")]
    assert (line.count("has no foreground"), "(40 in all)" in line) == (3, True)


def test_size_of_the_mask_is_not_pointed_out_where_it_tells_nothing(layout: Layout) -> None:
    larger_ones(layout)
    for path in (layout.masks / "digit0").glob("more*"):
        path.write_bytes((layout.masks / "digit1" / path.name).read_bytes())
    report = check_masks(folder(layout, {}), progress=False)
    assert [abs(row.auc - 0.5) < 0.1 for row in report.classes] == [True, True]
    assert report.notes == ()
