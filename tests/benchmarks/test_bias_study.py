"""The study of ways of training: each run is made once, chosen by biased images, and found in the table."""

import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch


def study(scripts: dict[str, ModuleType], folder: Path, *methods: str) -> list[Path]:
    options = ["--bias", "patch", "--optimizer", "sgd", "--epochs", "2", "--results", str(folder)]
    paths: list[Path] = scripts["study"].main([*options, "--only", *methods])
    return paths


def test_run_tells_settings_choices_and_history(scripts, tmp_path):
    (path,) = study(scripts, tmp_path, "consistency")
    figures = json.loads(path.read_text())
    assert figures["run"]["method"] == "consistency"
    assert set(figures["chosen"]) == {"loss", "swap", "last"}
    for chosen in figures["chosen"].values():
        assert all(0 <= chosen[kind] <= 1 for kind in ("biased", "unbiased", "confounding", "none", "background_share"))
    assert [row["epoch"] for row in figures["history"]] == [1, 2]
    assert figures["chosen"]["last"]["epoch"] == 2
    assert figures["chosen"]["swap"]["swap"] == max(row["swapped"] for row in figures["history"])
    lowest = min(figures["history"], key=lambda row: row["validation_loss"])
    assert figures["chosen"]["loss"]["epoch"] == lowest["epoch"]


@pytest.mark.parametrize("method", ["isnet+swap", "papers"])
def test_heatmap_loss_uses_the_range_of_the_plain_model_which_is_trained_first(scripts, tmp_path, method):
    plain, path = study(scripts, tmp_path, method)
    assert plain.name == "plain-seed0.json"
    runs = scripts["runs"]
    run = runs.Run(**json.loads(path.read_text())["run"])
    model = runs.make_model("narrow")
    model.load_state_dict(torch.load(run.plain.file(tmp_path, ".pt")))
    images = runs.load(run, "validation", "biased").images
    penalty = json.loads(path.read_text())["method"]["penalty"]
    measured = runs.measure_ranges(penalty, model, images, run.seed)["input"]
    assert json.loads(path.read_text())["ranges"][0]["c1"] == pytest.approx(measured.c1)


def test_finished_runs_are_not_made_again(scripts, tmp_path, monkeypatch):
    (path,) = study(scripts, tmp_path, "plain+swap")
    before = path.read_text()

    def no_training(*args: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(scripts["runs"], "train", no_training)
    assert study(scripts, tmp_path, "plain+swap") == [path]
    assert path.read_text() == before
    with pytest.raises(AssertionError, match="trained again"):
        study(scripts, tmp_path, "plain")


def test_same_settings_give_the_same_figures(scripts, tmp_path):
    first, second = (study(scripts, tmp_path / name, "energy@0.3")[0] for name in "ab")
    assert json.loads(first.read_text())["method"]["weight"] == 0.3
    assert json.loads(first.read_text())["history"] == json.loads(second.read_text())["history"]


def test_summary_has_mean_and_range_over_seeds_of_every_method(scripts, tmp_path):
    study(scripts, tmp_path, "plain", "ceiling", "rrr")
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    other = json.loads((folder / "rrr-seed0.json").read_text())
    for chosen in other["chosen"].values():
        chosen["confounding"] = 1.0
    (folder / "rrr-seed1.json").write_text(json.dumps(other))
    text = scripts["summary"].main(["--results", str(tmp_path), "--output", str(tmp_path / "out")])
    assert (tmp_path / "out" / "bias.md").read_text() == text
    assert (tmp_path / "out" / "bias.png").read_bytes().startswith(b"\x89PNG")
    head, _, *rows = (line.split(" | ") for line in text.splitlines() if line.startswith("|"))
    assert [row[0] for row in rows] == ["| plain", "| rrr", "| ceiling"]
    low = json.loads((folder / "rrr-seed0.json").read_text())["chosen"]["swap"]["confounding"]
    cell = rows[1][head.index("confounding")]
    assert cell == f"{100 * (1 + low) / 2:.1f}<br>{100 * low:.1f}\u00a0to\u00a0100.0"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "selectiv"], "unknown method 'selectiv'; known: plain,"),
        (["--only", "plain@0.5"], "must be a weight in .0, 1., for a method with a penalty"),
        (["--only", "rrr@2"], "a weight in .0, 1."),
        (["--model", "resnet19"], "unknown model 'resnet19'; close matches: .*resnet18"),
        (["--epochs", "0"], "--epochs and --workers must be at least 1"),
    ],
)
def test_bad_options_end_with_a_usage_message(scripts, options, message, capsys):
    with pytest.raises(SystemExit):
        scripts["study"].main(options)
    assert re.search(message, capsys.readouterr().err)


def test_network_halves_the_resolution_where_the_width_changes(scripts):
    network = scripts["runs"].make_model("narrow")
    images = torch.rand(2, 3, 32, 32)
    maps = network.stem(images)
    for block in network.stages:
        before, maps = maps, block(maps)
        widened = maps.shape[1] != before.shape[1]
        assert before.shape[-1] == maps.shape[-1] * (2 if widened else 1)
    assert maps.shape[-1] > 1
    assert network(images).shape == (2, 10)


def test_grad_cam_is_guided_on_a_map_on_which_digits_leave_a_background(scripts):
    model = scripts["runs"].make_model("narrow")
    regularizer = scripts["methods"].PENALTIES["gradcam"].make(model, torch.Generator())
    heatmap = regularizer.attribution(model, torch.rand(2, 3, 32, 32), lambda y: y[:, None])[1]
    assert [relevance.shape[-2:] for relevance in heatmap.values()] == [(8, 8)]


def test_images_with_their_own_attention_weights_are_read_as_by_the_model_itself(scripts):
    runs, attention = scripts["runs"], scripts["attention"]
    torch.manual_seed(0)
    model = runs.make_model("small-vit").eval()
    images, others = torch.rand(2, 6, 3, 32, 32)
    own = attention.predict_with_attention_of(model, images, images)
    with torch.no_grad():
        torch.testing.assert_close(own, model(images), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(attention.predict_with_attention_of(model, others, images), own, rtol=1e-3)
