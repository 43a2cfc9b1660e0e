"""``zennit-isnet train`` and ``test``: one command from a folder to a tested model, and again after an interruption."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from zennit_isnet_command import main

PRESET = Path(__file__).parents[2] / "examples" / "chest_films.yaml"

NET = """
from torch import nn

def net(num_classes):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1),
        nn.ReLU(), nn.Dropout(0.2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes),
    )

def each_image_by_itself(num_classes):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes)
    )
"""

pytestmark = [
    pytest.mark.filterwarnings("ignore::zennit_isnet.errors.RelevanceRangeWarning"),
    pytest.mark.filterwarnings("ignore:Starting from v"),
]


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> list[str]:
    """Folders of images of two classes, a small network, and the options of a short run on them."""
    panel = "0" if request.node.get_closest_marker("slow") else "2"
    for index in range(16):
        name, level = ("dark", "bright")[index % 2], 60 + 120 * (index % 2)
        for kind in ("images", "masks"):
            picture = Image.new("RGB" if kind == "images" else "L", (20, 20), 30 + level if kind == "images" else 0)
            picture.paste((level, 2 * index, 90) if kind == "images" else 255, (5, 5, 15, 15))
            (tmp_path / kind / name).mkdir(parents=True, exist_ok=True)
            picture.save(tmp_path / kind / name / f"{index}.png")
    for kind in ("images", "masks"):
        shutil.copytree(tmp_path / kind, tmp_path / "abroad" / kind)
    (tmp_path / "trained_nets.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    images = ["--data.images", "images", "--data.masks", "masks", "--data.size", "16", "--data.batch_size", "4"]
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.logger", "false", "--trainer.accelerator", "cpu"]
    run = ["--model.architecture", "trained_nets:net", "--model.fade", "0.5", "--plain_epochs", "1", "--panel", panel]
    return [*images, *quiet, *run, "--data.tests", "{abroad: [abroad/images, abroad/masks]}"]


def weights(folder: str) -> dict[str, torch.Tensor]:
    return torch.load(Path(folder) / "last.ckpt", weights_only=True)["state_dict"]


def test_one_command_trains_and_tests(options: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(["train", *options, "--trainer.max_epochs", "2", "--output", "run"]) == 0
    written = {path.name for path in Path("run").iterdir()}
    assert written >= {"best.ckpt", "last.ckpt", "config.yaml", "log.csv", "curves.png", "heatmaps", "plain"}
    assert {path.name for path in Path("run/heatmaps").iterdir()} == {"epoch-000.png", "epoch-001.png"}
    said = capsys.readouterr().out
    assert said.endswith(Path("run/tests.md").read_text())
    assert "% balanced accuracy on backgrounds of other classes (validation); written to run\n" in said
    found = json.loads(Path("run/tests.json").read_text())["abroad"]
    assert found["images"] == 16
    low, high = found["balanced_accuracy"][1:]
    assert 0 <= low <= found["balanced_accuracy"][0] <= high <= 1
    with Path("run/scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16
    assert rows[0].keys() == {"test", "image", "group", "label", "p(bright)", "p(dark)"}
    assert all(row["label"] in row["image"] for row in rows)
    assert yaml.safe_load(Path("run/config.yaml").read_text())["model"]["architecture"] == "trained_nets:net"

    # what the other subcommands need to know is in the checkpoint, also the order of the classes
    capsys.readouterr()
    assert main(["explain", "run/best.ckpt", "images", "--top", "1", "--output", "maps"]) == 0
    assert len(list(Path("maps").glob("*/*.png"))) == 16
    assert "16 heatmaps written to maps" in capsys.readouterr().out
    assert main(["audit", "run/best.ckpt", "images", "masks", "--output", "audit"]) == 0
    audited = json.loads(Path("audit/report.json").read_text())
    assert [row["name"] for row in audited["classes"]] == ["bright", "dark"]

    # another table of the same model, from the configuration of the run
    Path("more.csv").write_text("image,mask,label\nabroad/images/dark/0.png,abroad/masks/dark/0.png,dark\n")
    assert main(["test", "--config", "run/config.yaml", "--data.tests", "{one: [more.csv]}"]) == 0
    assert json.loads(Path("run/test/tests.json").read_text())["one"]["images"] == 1
    assert main(["test", "--config", "run/config.yaml", "--data.tests", "{}"]) == 2
    assert "no test set given" in capsys.readouterr().err


def test_an_earlier_run_is_not_overwritten_and_can_be_extended(options: list[str], capsys: pytest.CaptureFixture[str]):
    options = [*options, "--model.one_cycle", "false"]
    assert main(["train", *options, "--trainer.max_epochs", "1", "--output", "run"]) == 0
    assert main(["train", *options, "--trainer.max_epochs", "2", "--output", "run"]) == 2
    assert "run contains an earlier run: add --resume" in capsys.readouterr().err
    again = ["train", "--config", "run/config.yaml", "--trainer.max_epochs", "2"]
    assert main(again) == 2, "its configuration does not say to resume"
    assert main([*again, "--resume", "--model.weight", "0.2"]) == 2
    assert "model.weight was 0.7 and is 0.2" in capsys.readouterr().err
    assert main([*again, "--resume"]) == 0
    assert len(Path("run/log.csv").read_text().splitlines()) == 3
    assert main(["train", *options, "--trainer.max_epochs", "2", "--output", "whole"]) == 0
    whole, extended = weights("whole"), weights("run")
    assert all(torch.equal(whole[name], extended[name]) for name in whole)


def test_wrong_data_end_with_two_and_our_message(options: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(["train", *options, "--data.images", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_class_weights_fit_the_classes(options: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(["train", *options, "--model.class_weights", "[1, 2, 3]"]) == 2
    assert "one weight for each of the classes bright, dark, in this order; got [1.0, 2.0, 3.0]" in (
        capsys.readouterr().err
    )


def test_a_test_has_the_classes_and_images_of_the_training(options: list[str], capsys: pytest.CaptureFixture[str]):
    ours = ["--data.classes", "[dark, bright]", "--trainer.max_epochs", "1", "--output", "run"]
    assert main(["train", *options, "--model.weight", "0", *ours]) == 0
    again = ["test", "--config", "run/config.yaml"]
    capsys.readouterr()
    assert main([*again, "--data.classes", "[bright, dark]"]) == 2
    assert (
        "run/best.ckpt was trained with other settings: classes was ['dark', 'bright'] and is ['bright', 'dark']. "
        "Test with --config run/config.yaml, and leave these settings as they are\n"
    ) in capsys.readouterr().err
    for option, value, says in (
        ("size", "12", "size was 16 and is 12"),
        ("fit", "whole", "fit was 'crop' and is 'whole'"),
        ("mean", "[0.5]", "mean was [0.485, 0.456, 0.406] and is [0.5]"),
    ):
        more = ["--data.std", "[0.5]"] if option == "mean" else []
        assert main([*again, f"--data.{option}", value, *more]) == 2
        assert says in capsys.readouterr().err
    assert main(again) == 0


def test_the_settings_for_chest_films_are_settings_of_the_command(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["train", "--config", str(PRESET), "--print_config"])
    assert ended.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["data"]["fit"] == "whole"


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=lambda one: one.name)
def test_a_run_that_is_killed_ends_as_one_that_is_not(options: list[str], how: signal.Signals):
    command = [sys.executable, "-m", "zennit_isnet", "train", *options, "--trainer.max_epochs", "40"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    assert subprocess.run([*command, "--output", "whole"], env=environment, check=False).returncode == 0
    run = subprocess.Popen([*command, "--output", "killed"], env=environment)
    while not Path("killed/last.ckpt").exists() and run.poll() is None:
        time.sleep(0.01)
    run.send_signal(how)
    assert run.wait(60) == (-signal.SIGKILL if how == signal.SIGKILL else 1)
    assert torch.load("killed/last.ckpt", weights_only=True)["epoch"] < 39
    again = subprocess.run([*command, "--output", "killed", "--resume"], env=environment, check=False)
    assert again.returncode == 0
    whole, killed = weights("whole"), weights("killed")
    assert whole.keys() == killed.keys()
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


@pytest.mark.slow
def test_two_processes_train_the_same_model_as_one(options: list[str]):
    net = ["--model.architecture", "trained_nets:each_image_by_itself", "--model.fade", "0"]
    same = [*options, *net, "--model.formulation", "Selective", "--trainer.max_epochs", "2"]
    several = ["--trainer.strategy", "ddp", "--trainer.devices", "2"]
    for output, more in (("one", ["--data.batch_size", "8"]), ("two", several)):
        command = [sys.executable, "-m", "zennit_isnet", "train", *same, *more, "--output", output]
        done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
        assert done.returncode == 0
    assert json.loads(Path("two/tests.json").read_text())["abroad"]["images"] == 16
    assert len(Path("two/log.csv").read_text().splitlines()) == 3
    for name, weight in weights("one").items():
        torch.testing.assert_close(weights("two")[name], weight, rtol=1e-3, atol=1e-5)
