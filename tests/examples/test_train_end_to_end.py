"""Whole runs of ``examples/train.py`` on images and masks that the test writes."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from train_runs import CLASSES, SHORT, last_state, run, write_folder
from training import checkpoints
from training.errors import CheckpointError, DivergenceError

from zennit_isnet.errors import InvalidValueError

pytestmark = pytest.mark.filterwarnings("ignore:--plain-epochs 0:UserWarning")

NO_PLAIN = ("--plain-epochs", "0", "--epochs", "1")


@pytest.fixture
def folder(tmp_path: Path) -> list[str]:
    """The options that name a small folder of images and masks."""
    return write_folder(tmp_path / "data")


def rows(output: Path) -> list[dict[str, str]]:
    with (output / "log.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_run_writes_logs_checkpoints_pictures_and_report(tmp_path: Path, folder: list[str]):
    output = tmp_path / "out"
    run(*folder, *SHORT, "--panel", "2", "--swap-probability", "0.5", "--weight", "0:0.3,1:0.7", output=output)
    log = rows(output)
    assert [(row["phase"], row["epoch"], row["weight"]) for row in log] == [
        ("plain", "1", "0.0"),
        ("isnet", "1", "0.3"),
        ("isnet", "2", "0.7"),
    ]
    assert all(0 <= float(row["background_share"]) <= 1 and float(row["penalty"]) >= 0 for row in log[1:])
    assert all(row["penalty"] == row["penalty_factor"] == "" for row in log[:1])
    assert all(float(row["gradient_classification"]) > 0 and 0 < float(row["penalty_factor"]) <= 1 for row in log[1:])
    assert last_state(output)["epoch"] == 2
    assert checkpoints.load(output / "best.pt")["classes"] == list(CLASSES)
    assert json.loads((output / "ranges.json").read_text())["ranges"][0]["count"] == 5
    pictures = {path.name for path in (output / "pictures").iterdir()}
    assert pictures == {"plain_001.png", "isnet_001.png", "isnet_002.png", "heatmaps.png", "curves.png"}
    events = EventAccumulator(str(output / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("isnet, step/penalty")] == [3, 4, 5, 6]
    assert len(events.Images("isnet, heatmaps")) == 2

    markdown, html = ((output / name).read_text() for name in ("report.md", "report.html"))
    for text in (markdown, html):
        assert all(name in text for name in CLASSES)
        assert "is no\nevidence" in text
    assert re.findall(r"\| validation \| ([\d.]+) %", markdown)
    assert html.count('src="data:image/png;base64,') == 2
    assert len(re.findall(r'alt="[^"]+"', html)) == 2


@pytest.mark.slow
def test_test_only_reports_the_best_model_again(tmp_path: Path, folder: list[str]):
    output, again = tmp_path / "out", tmp_path / "again"
    run(*folder, *SHORT, *NO_PLAIN, output=output)
    run(*folder, *SHORT, "--test-only", "--weights", str(output / "best.pt"), output=again)

    def results(path: Path) -> str:
        return (path / "report.md").read_text().partition("![")[0].partition("## Settings")[0]

    assert results(again) == results(output)
    assert not (again / "last.pt").exists()


def test_ranges_of_an_earlier_run_are_used_if_they_fit(tmp_path: Path, folder: list[str]):
    given = tmp_path / "ranges.json"
    settings = {"model": "squeezenet1_1", "classes": 3, "formulation": "stochastic", "layers": "auto", "size": 32}
    settings |= {"box": False, "epsilon": None, "epsilon_ratio": 0.3, "reference": "darkest"}
    given.write_text(json.dumps({"settings": settings, "ranges": [{"layer": None, "c1": 0.25, "c2": 0.5}]}))
    run(*folder, *SHORT, "--epochs", "1", "--ranges", str(given), output=tmp_path / "out")
    state = last_state(tmp_path / "out")
    assert state["processes"][0]["regularizer"]["ranges"][0]["c1"] == 0.25
    assert [row["phase"] for row in state["history"]] == ["isnet"]
    with pytest.raises(CheckpointError, match=r"ranges\.json were measured for another run: formulation is 'original'"):
        run(*folder, *SHORT, "--formulation", "original", "--ranges", str(given), output=tmp_path / "other")
    given.write_text("{}")
    with pytest.raises(CheckpointError, match=r"ranges\.json is no file of relevance ranges"):
        run(*folder, *SHORT, "--ranges", str(given), output=tmp_path / "third")


@pytest.mark.slow
def test_the_model_itself_can_be_trained_plainly_first(tmp_path: Path, folder: list[str]):
    options = (*folder, *SHORT, "--epochs", "1", "--weight", "0", "--clip", "0", "--lr", "1e-30")
    run(*options, "--calibrate-on", "model", output=tmp_path / "out")
    # learning rates of 1e-30 leave the weights as they were, so the second training began where the first one ended
    assert last_state(tmp_path / "out")["total_steps"] == 4


@pytest.mark.slow
@pytest.mark.parametrize("every", ["1", "2"])
def test_batches_are_accumulated_for_one_step(tmp_path: Path, folder: list[str], every: str):
    options = ("--batch-size", "3", "--accumulate", "4", "--every", every, *NO_PLAIN)
    run(*folder, *SHORT, *options, output=tmp_path / "out")
    state = last_state(tmp_path / "out")
    # 19 training images make 6 batches, and these one full step and one of the rest
    assert state["total_steps"] == 2
    assert state["processes"][0]["regularizer"]["calls"] == 6


def test_a_diverging_run_ends_and_keeps_no_broken_checkpoint(tmp_path: Path, folder: list[str]):
    with pytest.raises(DivergenceError, match=r"the loss is (nan|inf) in epoch 1.*--lr"):
        run(*folder, *SHORT, *NO_PLAIN, "--epochs", "3", "--lr", "1e30", "--clip", "0", output=tmp_path / "out")
    kept = tmp_path / "out" / "last.pt"
    assert not kept.exists() or all(value.isfinite().all() for value in checkpoints.load(kept)["model"].values())


def test_check_names_what_is_wrong(tmp_path: Path, folder: list[str], capsys: pytest.CaptureFixture[str]):
    run(*folder, "--check", output=tmp_path / "out")
    assert "training images" in capsys.readouterr().out
    (tmp_path / "data" / "masks" / "six" / "3.png").unlink()
    with pytest.raises(SystemExit) as ended:
        run(*folder, "--check", output=tmp_path / "out")
    assert ended.value.code == 1
    assert "3.jpg" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_images_without_masks_can_train_the_classifier_only(tmp_path: Path, folder: list[str]):
    for mask in (tmp_path / "data" / "masks" / "six").iterdir():
        mask.unlink()
    with pytest.raises(InvalidValueError, match="six"):
        run(*folder, *SHORT, *NO_PLAIN, output=tmp_path / "out")
    run(*folder, *SHORT, *NO_PLAIN, "--missing", "skip-penalty", output=tmp_path / "out")
    assert "| six |" in (tmp_path / "out" / "report.md").read_text()


def test_adamw_is_warned_of(tmp_path: Path):
    nothing = ["--data", "folder", "--images", str(tmp_path / "none"), "--masks", str(tmp_path / "none")]
    with (
        pytest.warns(UserWarning, match="with AdamW the heatmaps can become clean while the model still uses"),
        pytest.raises(InvalidValueError, match="none"),
    ):
        run(*nothing, "--optimizer", "adamw", output=tmp_path / "out")


def test_what_cannot_work_is_refused_early(tmp_path: Path, folder: list[str]):
    with pytest.raises(InvalidValueError, match="--sync-batchnorm needs CUDA"):
        run("--sync-batchnorm", "--device", "cpu", output=tmp_path)
    with pytest.raises(InvalidValueError, match="unknown model 'resnet19'"):
        run("--model", "resnet19", output=tmp_path)
    _, _, _, images, _, masks = write_folder(tmp_path / "other")
    for kind in (images, masks):
        Path(kind, "six").rename(Path(kind, "seven"))
    with pytest.raises(InvalidValueError, match="validation set must have the classes of the training set"):
        run(*folder, "--val-images", images, "--val-masks", masks, output=tmp_path)
