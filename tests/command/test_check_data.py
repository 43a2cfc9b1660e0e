"""``zennit-isnet check-data``: what it prints, and its exit status."""

from __future__ import annotations

import json
import runpy
import sys
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from zennit_isnet_command import main

ROOT = Path(__file__).resolve().parents[2]
USAGE = 2


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    """One image of each of two classes, with its mask."""
    for animal in ("cat", "dog"):
        for kind in ("images", "masks"):
            (tmp_path / kind / animal).mkdir(parents=True)
        mask = Image.new("L", (20, 16))
        ImageDraw.Draw(mask).rectangle((5, 5, 9, 12), fill=255)
        mask.save(tmp_path / "masks" / animal / "1.png")
        Image.merge("RGB", [mask] * 3).save(tmp_path / "images" / animal / "1.jpg")
    return [str(tmp_path / "images"), str(tmp_path / "masks")]


@pytest.fixture
def table(folders: list[str]) -> str:
    table = Path(folders[0]).parent / "table.csv"
    table.write_text("image,mask,label\nimages/cat/1.jpg,masks/cat/1.png,cat\nimages/dog/1.jpg,masks/dog/1.png,dog\n")
    return str(table)


def test_good_data_end_with_zero(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-data", *folders]) == 0
    output = capsys.readouterr().out
    assert "12.5%" in output
    assert output.endswith("no problems\n")


def test_problems_end_with_one_and_are_named(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    mask = Path(folders[1]) / "cat" / "1.png"
    mask.unlink()
    assert main(["check-data", *folders]) == 1
    assert f"missing: image {folders[0]}/cat/1.jpg has no mask" in capsys.readouterr().out


def test_allowed_problems_are_shown_and_end_with_zero(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (Path(folders[1]) / "cat" / "1.png").unlink()
    (Path(folders[0]) / "fox").mkdir()
    assert main(["check-data", *folders, "--allow", "missing"]) == 1
    assert main(["check-data", *folders, "--allow", "missing", "--allow", "empty-class"]) == 0
    assert capsys.readouterr().out.count("2 problems:") == 2


def test_values_of_the_foreground_can_be_given(folders: list[str]) -> None:
    trimap = Image.new("L", (20, 16), 2)
    ImageDraw.Draw(trimap).rectangle((5, 5, 9, 12), fill=1, outline=3)
    trimap.save(Path(folders[1]) / "cat" / "1.png")
    assert main(["check-data", *folders]) == 1
    assert main(["check-data", *folders, "--binarize", "1,3,255"]) == 0


def test_names_and_sizes_of_masks_may_differ(folders: list[str]) -> None:
    for animal in ("cat", "dog"):
        file = Path(folders[1]) / animal / "1.png"
        with Image.open(file) as mask:
            mask.resize((40, 32), Image.Resampling.NEAREST).save(file.with_name("1_mask.png"))
        file.unlink()
    assert main(["check-data", *folders, "--mask-suffix", "_mask", "--workers", "0"]) == 1
    assert main(["check-data", *folders, "--mask-suffix", "_mask", "--resize-masks"]) == 0


@pytest.fixture
def annotations(folders: list[str]) -> str:
    """A COCO file of the two images, whose masks are of the category ``animal``."""
    file = Path(folders[0]).parent / "coco.json"
    images = [{"id": name, "file_name": f"{name}/1.jpg", "width": 20, "height": 16} for name in ("cat", "dog")]
    shapes = [{"image_id": name, "category_id": 1, "bbox": [5, 5, 4, 7]} for name in ("cat", "dog")]
    categories = [{"id": 1, "name": "animal"}]
    file.write_text(json.dumps({"images": images, "categories": categories, "annotations": shapes}))
    return str(file)


def test_annotations_are_checked_too(
    annotations: str, folders: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["check-data", annotations, "--root", folders[0]]) == 0
    assert "animal" in capsys.readouterr().out
    assert main(["check-data", annotations, "--root", folders[0], "--labels", "folder"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:3]] == ["cat", "dog"]
    assert main(["check-data", annotations]) == 1
    assert "images do not exist" in capsys.readouterr().out


def test_folder_of_labelme_files_needs_no_masks(folders: list[str]) -> None:
    for animal in ("cat", "dog"):
        shapes = [{"label": animal, "shape_type": "rectangle", "points": [[5, 5], [9, 12]]}]
        content = {"imagePath": "1.jpg", "imageWidth": 20, "imageHeight": 16, "shapes": shapes}
        (Path(folders[0]) / animal / "1.json").write_text(json.dumps(content))
    assert main(["check-data", folders[0]]) == 0
    assert main(["check-data", *folders]) == 0


def test_tables_are_checked_too(table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-data", table]) == 0
    moved = Path(table).rename(tmp_path / "images" / "table.csv")
    assert main(["check-data", str(moved)]) == 1
    assert "images do not exist" in capsys.readouterr().out
    assert main(["check-data", str(moved), "--root", str(tmp_path)]) == 0


def test_columns_of_a_table_may_have_other_names(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    content = Path(table).read_text()
    Path(table).write_text(content.replace("image,mask,label", "file,mask,animal", 1))
    assert main(["check-data", table, "--columns", "{image: file, label: animal}"]) == 0
    assert main(["check-data", table, "--columns", '{"image": "file", "label": "animal"}']) == 0
    assert main(["check-data", table]) == 1
    assert "must have the columns image, mask" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND"),
        (["check-data"], "IMAGES"),
        (["check-data", "{images}"], "needs MASKS"),
        (["check-data", "{images}", "{masks}", "--root", "."], "does not take --root"),
        (["check-data", "{images}", "absent"], "MASKS must be an existing folder; got absent"),
        (
            ["check-data", "absent", "{masks}"],
            "IMAGES must be an existing folder, CSV file or annotation file; got absent",
        ),
        (["check-data", "absent.json"], "got absent.json"),
        (["check-data", "{annotations}", "{masks}"], "annotations contain the masks"),
        (["check-data", "{annotations}", "--binarize", "half"], "annotations contain the masks"),
        (["check-data", "{table}", "--labels", "folder"], "--labels is only for annotations"),
        (["check-data", "{table}", "{masks}"], "remove MASKS"),
        (["check-data", "{table}", "--mask-suffix", "_mask"], "remove MASKS and --mask-suffix"),
        (["check-data", "{images}", "{masks}", "--binarize", "otsu"], "must be one of strict, half, nonzero, or"),
        (["check-data", "{images}", "{masks}", "--allow", "all"], "invalid choice"),
        (["check-data", "{images}", "{masks}", "--workers", "-1"], "--workers must not be negative"),
        (["check-data", "{images}", "{masks}", "--columns", "image:file"], "--columns is only for a CSV file"),
    ],
)
def test_wrong_usage_ends_with_two_and_a_message(
    folders: list[str],
    table: str,
    annotations: str,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = {"images": folders[0], "masks": folders[1], "table": table, "annotations": annotations}
    with pytest.raises(SystemExit) as end:
        main([argument.format(**paths) for argument in arguments])
    assert end.value.code == USAGE
    assert message in capsys.readouterr().err


def test_package_runs_as_a_command(
    folders: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (Path(folders[1]) / "cat" / "1.png").unlink()
    monkeypatch.setattr(sys, "argv", ["zennit_isnet", "check-data", *folders])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("zennit_isnet", run_name="__main__")
    assert end.value.code == 1
    assert "missing: image" in capsys.readouterr().out


def test_console_script_is_the_function_under_test() -> None:
    (line,) = [
        line for line in (ROOT / "pyproject.toml").read_text().splitlines() if line.startswith("zennit-isnet = ")
    ]
    module, function = line.split('"')[1].split(":")
    assert getattr(import_module(module), function) is main
