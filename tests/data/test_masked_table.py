"""Images, masks and labels from a CSV file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from masked_files import Layout

from zennit_isnet.data import MaskedImageTable
from zennit_isnet.errors import InvalidValueError


def write(layout: Layout, labels: list[str], header: str = "image,mask,label", name: str = "table.csv") -> Path:
    table = layout.images.parent / name
    rows = [f"images/{file},masks/{file},{label}" for file, label in zip(layout.files, labels, strict=True)]
    table.write_text("\n".join([header, *rows]), encoding="utf-8")
    return table


def test_items_are_what_the_files_show(layout: Layout) -> None:
    data = MaskedImageTable(write(layout, ["dog", "cat", "dog", "cat"]))
    assert (data.classes, data.multi_label, data.targets.tolist()) == (["cat", "dog"], False, [1, 0, 1, 0])
    for index, (image, mask, label) in enumerate(data):
        assert torch.equal(image, layout.pixels[index])
        assert torch.equal(mask, layout.foreground[index])
        assert (type(label), label) == (int, data.targets[index])


def test_paths_start_from_the_root_that_is_given(layout: Layout, tmp_path: Path) -> None:
    table = write(layout, ["0", "1", "0", "1"])
    elsewhere = table.rename(tmp_path / "images" / "table.csv")
    assert len(MaskedImageTable(elsewhere, root=tmp_path)) == 4
    with pytest.raises(InvalidValueError, match="4 of 4 images do not exist"):
        MaskedImageTable(elsewhere)


def test_absolute_paths_and_parents_are_followed(layout: Layout, tmp_path: Path) -> None:
    """As `root` says: a table is written by somebody who is trusted."""
    inside = MaskedImageTable(write(layout, ["cat"] * len(layout.files)))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    image, mask = (Path(path).resolve() for path in (inside.name(0), inside.mask_name(0)))
    up = Path("..", mask.relative_to(tmp_path.resolve()))
    (elsewhere / "table.csv").write_text(f"image,mask,label\n{image},{up},cat\n")
    assert torch.equal(MaskedImageTable(elsewhere / "table.csv")[0][0], inside[0][0])


def test_integers_are_indices(layout: Layout) -> None:
    data = MaskedImageTable(write(layout, ["2", "0", "1", "2"]))
    assert (data.classes, data.targets.tolist()) == (["0", "1", "2"], [2, 0, 1, 2])


def test_leading_zeros_of_integers_mean_nothing(layout: Layout) -> None:
    data = MaskedImageTable(write(layout, ["02", "00", "01", "02"]))
    assert (data.classes, data.targets.tolist()) == (["0", "1", "2"], [2, 0, 1, 2])
    given = MaskedImageTable(write(layout, ["02", "00", "01", "02"]), classes=["cat", "dog", "fox"])
    assert given.targets.tolist() == [2, 0, 1, 2]
    assert MaskedImageTable(write(layout, ["01", "01", "02a", "01"])).classes == ["01", "02a"]


def test_integers_are_indices_of_classes_that_are_given(layout: Layout) -> None:
    data = MaskedImageTable(write(layout, ["2", "0", "cat", "2"]), classes=["dog", "cat", "fox"])
    assert (data.classes, data.targets.tolist()) == (["dog", "cat", "fox"], [2, 0, 1, 2])


def test_classes_whose_names_are_integers_are_names(layout: Layout) -> None:
    data = MaskedImageTable(write(layout, ["3", "1", "1", "3"]), classes=["3", "1"])
    assert data.targets.tolist() == [0, 1, 1, 0]
    with pytest.raises(InvalidValueError, match=r"one of 3, 1; got '0'"):
        MaskedImageTable(write(layout, ["3", "1", "0", "3"]), classes=["3", "1"])


@pytest.mark.parametrize("labels", [["1", "2", "1", "2"], ["0", "2", "0", "2"], ["0", "1000000000", "0", "0"]])
def test_integers_with_gaps_are_refused(layout: Layout, labels: list[str]) -> None:
    with pytest.raises(InvalidValueError, match="from 0 without gaps, but no image has the label"):
        MaskedImageTable(write(layout, labels))


@pytest.mark.parametrize("label", ["fox", "2", "-1"])
def test_labels_out_of_range_are_named_with_their_line(layout: Layout, label: str) -> None:
    table = write(layout, ["0", "1", label, "0"])
    with pytest.raises(
        InvalidValueError, match=re.escape(f"{table}, line 4: label must be one of cat, dog; got '{label}'")
    ):
        MaskedImageTable(table, classes=["cat", "dog"])


def test_several_labels_are_separated_by_bars(layout: Layout) -> None:
    data = MaskedImageTable(write(layout, ["cat|dog", "fox", " dog | fox ", "cat"]))
    assert (data.classes, data.multi_label) == (["cat", "dog", "fox"], True)
    assert (data.targets.dtype, data.targets.tolist()) == (
        torch.float32,
        [[1, 1, 0], [0, 0, 1], [0, 1, 1], [1, 0, 0]],
    )
    _, _, label = data[2]
    assert torch.equal(label, data.targets[2])
    label.zero_()
    assert data.targets[2].any()


def test_several_labels_include_one_and_none_if_said_so(layout: Layout) -> None:
    data = MaskedImageTable(write(layout, ["cat", "", "dog", "cat"]), multi_label=True)
    assert data.targets.tolist() == [[1, 0], [0, 0], [0, 1], [1, 0]]


@pytest.mark.parametrize(("labels", "found"), [(["cat", "", "dog", "cat"], "none"), (["a", "a|b", "a", "b"], "a, b")])
def test_one_label_means_one(layout: Layout, labels: list[str], found: str) -> None:
    with pytest.raises(InvalidValueError, match=f"line 3: must have one label; got {found}"):
        MaskedImageTable(write(layout, labels), multi_label=False)


def test_columns_of_zeros_and_ones_are_classes(layout: Layout) -> None:
    data = MaskedImageTable(write(layout, ["1,1", "0,1", "0,0", "1,0"], "image,mask,cat,dog"))
    assert (data.classes, data.multi_label) == (["cat", "dog"], True)
    assert data.targets.tolist() == [[1, 1], [0, 1], [0, 0], [1, 0]]


def test_classes_pick_and_order_the_columns(layout: Layout) -> None:
    table = write(layout, ["p7,1,0", "p8,0,1", "p9,1,0", "p9,0,1"], "image,mask,patient,cat,dog")
    data = MaskedImageTable(table, classes=["dog", "cat"], multi_label=False)
    assert (data.multi_label, data.targets.tolist()) == (False, [1, 0, 1, 0])
    with pytest.raises(InvalidValueError, match=re.escape("line 2: column patient must contain 0 or 1; got 'p7'")):
        MaskedImageTable(table)
    with pytest.raises(InvalidValueError, match="column fox must contain 0 or 1; got 'no such column'"):
        MaskedImageTable(table, classes=["fox"])


def test_columns_with_several_ones_are_no_single_label(layout: Layout) -> None:
    table = write(layout, ["1,0", "1,1", "0,1", "1,0"], "image,mask,cat,dog")
    with pytest.raises(InvalidValueError, match="line 3: must have one label; got cat, dog"):
        MaskedImageTable(table, multi_label=False)


def test_names_of_columns_replace_columns_of_the_same_name(layout: Layout) -> None:
    table = write(layout, ["7,cat", "8,dog", "9,cat", "9,dog"], "image,mask,label,diagnosis")
    data = MaskedImageTable(table, columns={"label": "diagnosis"})
    assert (data.classes, data.targets.tolist()) == (["cat", "dog"], [0, 1, 0, 1])
    with pytest.raises(InvalidValueError, match=r"'diagnosys' for label, but .* has image, mask, label, diagnosis"):
        MaskedImageTable(table, columns={"label": "diagnosys"})
    with pytest.raises(InvalidValueError, match="keys among image, mask, label; got 'labels'"):
        MaskedImageTable(table, columns={"labels": "diagnosis"})


@pytest.mark.parametrize("cell", ["", "masks/absent.png"])
def test_masks_may_be_missing(layout: Layout, cell: str) -> None:
    table = layout.images.parent / "table.csv"
    table.write_text(f"image,mask,label\nimages/{layout.files[0]},{cell},0\n")
    with pytest.raises(InvalidValueError, match=rf"1 of 1 images have no mask: .*{layout.files[0]}.*{cell}"):
        MaskedImageTable(table)
    _, mask, label, has_mask = MaskedImageTable(table, missing="skip-penalty")[0]
    assert (mask.any().item(), label, has_mask) == (False, 0, False)


def test_byte_order_mark_quotes_and_spaces_are_understood(layout: Layout) -> None:
    table = layout.images.parent / "table.csv"
    table.write_text(f'image, mask, label\n"images/{layout.files[0]}", masks/{layout.files[0]}, cat\n', "utf-8-sig")
    assert MaskedImageTable(table).classes == ["cat"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "must have the columns .* got none"),
        ("image,label\n1.png,0\n", "must have the columns .* got image, label"),
        ("image,mask\n1.png,1.png\n", "must have the columns .* got image, mask"),
        ("image,mask,cat,cat\n1.png,1.png,0,1\n", "must have the columns .* once; got image, mask, cat, cat"),
        ("image,mask,label\n", "has no rows"),
        ("image,mask,label\n1.png,1.png\n", r"line 2: a row must have 3 cells"),
        ("image,mask,label\n1.png,1.png,0,0\n", r"line 2: a row must have 3 cells"),
        ("image,mask,label\n,1.png,0\n", r"line 2: a row must have 3 cells and an image"),
    ],
)
def test_malformed_tables_are_refused(tmp_path: Path, content: str, message: str) -> None:
    table = tmp_path / "table.csv"
    table.write_text(content)
    with pytest.raises(InvalidValueError, match=message):
        MaskedImageTable(table)


def test_tables_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match=r"absent\.csv cannot be read"):
        MaskedImageTable(tmp_path / "absent.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InvalidValueError, match=r"binary\.csv cannot be read"):
        MaskedImageTable(tmp_path / "binary.csv")


@pytest.mark.parametrize("classes", [[], ["cat", "cat"], "cat"])
def test_classes_must_be_different_names(layout: Layout, classes: object) -> None:
    with pytest.raises(InvalidValueError, match="classes must be distinct names"):
        MaskedImageTable(write(layout, ["cat"] * 4), classes=classes)  # type: ignore[arg-type]
