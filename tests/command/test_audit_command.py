"""``zennit-isnet audit``: what it writes, and its exit status."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from zennit_isnet_command import main

USAGE = 2

MODELS = """
import torch

def linear():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 2))

def grey():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16 * 16, 3))

def digits():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.AvgPool2d(8), torch.nn.Flatten(), torch.nn.Linear(48, 10))

def deep(depth):
    return linear()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a module of models, and two images of each of two classes with their masks."""
    (tmp_path / "audited_models.py").write_text(MODELS)
    (tmp_path / "twice.txt").write_text("cat\ndog\ncat\n")
    for animal, colour in (("cat", "red"), ("dog", "green")):
        for number in range(2):
            for kind in ("images", "masks"):
                (tmp_path / kind / animal).mkdir(parents=True, exist_ok=True)
            mask = Image.new("L", (20, 16))
            ImageDraw.Draw(mask).rectangle((7, 5, 11, 9 + number), fill=255)
            mask.save(tmp_path / "masks" / animal / f"{number}.png")
            Image.new("RGB", (20, 16), colour).save(tmp_path / "images" / animal / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "audited_models", None)
    monkeypatch.delitem(sys.modules, "audited_models")
    return tmp_path


def test_writes_three_reports_of_a_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--size", "16", "--imagenet", "--batch-size", "3", "--examples", "1", "--output", "found"]
    assert main(["audit", "audited_models:linear", "images", "masks", *options]) == 0
    report = json.loads((folder / "found" / "report.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in report["classes"]] == ["cat", "dog"]
    assert len(report["images"]) == 4
    assert report["model"] == "audited_models:linear"
    assert report["verdict"]["outcome"] in (folder / "found" / "report.md").read_text(encoding="utf-8")
    assert "data:image/png" in (folder / "found" / "report.html").read_text(encoding="utf-8")
    assert capsys.readouterr().out.startswith(f"Verdict: {report['verdict']['outcome']}. ")


def test_names_of_classes_come_from_a_file_in_the_order_of_the_logits(folder: Path) -> None:
    (folder / "names.txt").write_text("dog\n\nfox\ncat\n")
    options = ["--size", "16", "--classes", "names.txt", "--examples", "1"]
    assert main(["audit", "audited_models:grey", "images", "masks", "--grey", *options]) == 0
    report = json.loads((folder / "audit" / "report.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in report["classes"]] == ["dog", "cat"]
    assert [row["label"] for row in report["images"]] == [2, 2, 0, 0]


def test_audits_the_images_of_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [(f"images/{animal}/{i}.png", f"masks/{animal}/{i}.png", animal) for animal in ("cat", "dog") for i in "01"]
    (folder / "tables").mkdir()
    table = folder / "tables" / "all.csv"
    table.write_text("\n".join(["image,mask,label", *map(",".join, files)]))
    options = ["--root", str(folder), "--size", "16", "--examples", "1"]
    assert main(["audit", "audited_models:linear", str(table), *options]) == 0
    report = json.loads((folder / "audit" / "report.json").read_text(encoding="utf-8"))
    assert [row["label"] for row in report["images"]] == [0, 0, 1, 1]
    table.write_text(table.read_text().replace(",dog", ",fox", 1))
    (folder / "names.txt").write_text("dog\ncat\n")
    assert main(["audit", "audited_models:linear", str(table), *options, "--classes", "names.txt"]) == 0
    assert "1 of 4 images have other labels and are left out" in capsys.readouterr().err
    report = json.loads((folder / "audit" / "report.json").read_text(encoding="utf-8"))
    assert [row["label"] for row in report["images"]] == [1, 1, 0]
    table.write_text(table.read_text().replace(",dog", ",cat|dog"))
    assert main(["audit", "audited_models:linear", str(table), *options]) == USAGE
    assert "one label at a time" in capsys.readouterr().err


def test_rows_of_a_table_are_chosen_by_a_column(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = {"0": "train", "1": "test"}
    files = [(f"images/{a}/{i}.png", f"masks/{a}/{i}.png", a, part[i]) for a in ("cat", "dog") for i in "01"]
    (folder / "all.csv").write_text("\n".join(["file,mask,animal,part", *map(",".join, files)]))
    options = ["all.csv", "--columns", "{image: file, label: animal}", "--size", "16", "--examples", "1"]
    assert main(["audit", "audited_models:linear", *options, "--split", "part=test"]) == 0
    report = json.loads((folder / "audit" / "report.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in report["images"]] == ["images/cat/1.png", "images/dog/1.png"]
    assert main(["audit", "audited_models:linear", *options, "--split", "part=val"]) == USAGE
    assert "the column 'part' must contain the value of --split; got 'val', not test, train" in capsys.readouterr().err


def checkpoint(folder: Path, name: str, **settings: object) -> None:
    """A checkpoint as ``zennit-isnet train`` writes it: a linear model of dogs and cats."""
    state = {"1.weight": torch.zeros(2, 3 * 16 * 16), "1.bias": torch.zeros(2)}
    images = {"multi_label": False, "size": 16, "channels": 3, "mean": [0.0], "std": [1.0], "fit": "crop"}
    run = {"architecture": "audited_models:linear", "classes": ["dog", "cat"], **images, **settings}
    torch.save({"state_dict": state, "zennit_isnet": run}, folder / name)


@pytest.mark.parametrize("command", ["audit", "explain"])
@pytest.mark.parametrize("names", ["cat dog", "dog", "dog fox"])
def test_classes_that_contradict_the_checkpoint_are_refused(
    folder: Path, command: str, names: str, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint(folder, "best.ckpt")
    data = ["images", "masks", "--examples", "1"] if command == "audit" else ["images"]
    models = (["best.ckpt"], ["audited_models:linear", "--checkpoint", "best.ckpt", "--size", "16"])
    (folder / "names.txt").write_text(names.replace(" ", "\n"))
    for model in models:
        assert main([command, model[0], *data, *model[1:], "--classes", "names.txt"]) == USAGE
        told = capsys.readouterr().err
        assert "names.txt must list the classes of best.ckpt in the order of its logits, dog, cat; got" in told
        assert told.endswith(f"got {names.replace(' ', ', ')}; leave --classes out\n")
    (folder / "names.txt").write_text("dog\ncat\n")
    for model in models:
        for more in ([], ["--classes", "names.txt"]):
            assert main([command, model[0], *data, *model[1:], *more]) == 0


def test_colours_that_contradict_the_checkpoint_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint(folder, "grey.ckpt", architecture="audited_models:grey", channels=1)
    assert main(["audit", "grey.ckpt", "images", "masks", "--imagenet"]) == USAGE
    assert "grey.ckpt takes grey images: give one --mean and --std, or remove these and --imagenet; got [0.485," in (
        capsys.readouterr().err
    )
    assert main(["audit", "grey.ckpt", "--benchmark", "patch"]) == USAGE
    assert "the images of --benchmark have three channels; grey.ckpt takes one" in capsys.readouterr().err


def test_a_class_folder_may_be_empty(folder: Path) -> None:
    (folder / "images" / "fox").mkdir()
    assert main(["audit", "audited_models:grey", "images", "masks", "--grey", "--size", "16", "--examples", "1"]) == 0
    report = json.loads((folder / "audit" / "report.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in report["classes"]] == ["cat", "dog"]


def test_audits_a_part_of_the_built_in_digits_with_weights_from_a_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    digits = torch.randint(0, 256, (200, 28, 28), dtype=torch.uint8, generator=generator), torch.arange(10).repeat(20)
    monkeypatch.setattr("zennit_isnet.data.background_bias.load_digits", lambda: digits)
    always_seven = {"2.weight": torch.zeros(10, 48), "2.bias": torch.zeros(10)}
    always_seven["2.weight"][7] = 1
    torch.save({"model": always_seven}, "sevens.pt")
    options = ["--benchmark", "patch", "--limit", "20", "--checkpoint", "sevens.pt", "--examples", "1"]
    assert main(["audit", "audited_models:digits", *options]) == 0
    report = json.loads((folder / "audit" / "report.json").read_text(encoding="utf-8"))
    assert len(report["images"]) == 20
    assert {row["predictions"]["kept"] for row in report["images"]} == {7}
    assert report["verdict"]["outcome"] == "undecided"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet19", "images", "masks"], "close matches: resnet18"),
        (["resnet18", "images", "masks"], "needs --checkpoint"),
        (["resnet18", "images", "masks", "--checkpoint", "none.pt"], "none.pt cannot be read"),
        (["audited_models:linear", "masks", "images", "--size", "16"], "images/cat/0.png"),
        (
            ["audited_models:linear", "images", "masks", "--size", "8"],
            r"shape (3, 8, 8): pass --grey or another --size (",
        ),
        (
            ["audited_models:linear", "images", "masks", "--size", "16", "--grey"],
            r"shape (1, 16, 16): leave --grey out",
        ),
        (["audited_models:deep", "images", "masks"], "got deep(depth), missing a required argument: 'depth'"),
        (["audited_models:grey", "images", "masks", "--classes", "none.txt"], "none.txt"),
        (["audited_models:grey", "images", "masks", "--classes", "audited_models.py"], "got cat, dog"),
        (["audited_models:grey", "images", "masks", "--classes", "twice.txt"], "a class occurs twice"),
        (["audited_models:digits", "images", "masks", "--size", "32"], "must name the model's 10 classes; got 2"),
    ],
)
def test_bad_models_weights_and_data_end_with_a_message(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", *arguments]) == USAGE
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either IMAGES or --benchmark"),
        (["images", "masks", "--benchmark", "patch"], "give either IMAGES or --benchmark"),
        (["images"], "a folder of images needs MASKS"),
        (["nowhere"], "IMAGES must be an existing folder, CSV file or annotation file; got nowhere"),
        (["images", "nowhere"], "MASKS must be an existing folder; got nowhere"),
        (["images", "masks", "--device", "abacus"], "--device: 'abacus' cannot be used"),
        (["images", "masks", "--mean", "0", "0", "--std", "1", "1"], "--mean must have 1 or 3 values; got 2"),
        (["images", "masks", "--grey", "--mean", "0", "0", "0", "--std", "1"], "--mean must have 1 values; got 3"),
        (["images", "masks", "--grey", "--imagenet"], "with --grey give --mean"),
        (["images", "masks", "--mean", "0", "0", "0"], "--mean and --std"),
        (["--benchmark", "patch", "--imagenet"], "classes, colours and normalisation"),
        (["images", "masks", "--limit", "0"], "--limit must be at least 1"),
        (["images", "masks", "--workers", "-1"], "--workers must not be negative"),
        (["images", "masks", "--split", "split=test"], "--split is only for a CSV file"),
        (["--benchmark", "patch", "--split", "split=test"], "--split and --columns are only for a CSV file"),
        (["all.csv", "--split", "test"], "--split: must be COLUMN=VALUE, such as split=test; got 'test'"),
        (["all.csv", "--columns", "file"], "--columns: must be a mapping such as '{image: file}'; got 'file'"),
    ],
)
def test_wrong_usage_ends_with_two(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["audit", "audited_models:linear", *arguments])
    assert ended.value.code == USAGE
    assert message in capsys.readouterr().err
