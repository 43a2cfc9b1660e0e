"""The demo runs end to end, says and writes what it promises, and refuses what it cannot do."""

from __future__ import annotations

import json
from pathlib import Path

import background_bias as demo
import pytest
import torch

from zennit_isnet.data import load_digits


@pytest.fixture(scope="module")
def digits() -> demo.Digits:
    """A small part of the digits, in their order."""
    images, labels = load_digits()
    return images[::25], labels[::25]


@pytest.fixture(autouse=True)
def _few_digits(monkeypatch: pytest.MonkeyPatch, digits: demo.Digits) -> None:
    monkeypatch.setattr(demo, "load_digits", lambda: digits)


def run(folder: Path, *options: str) -> dict[demo.Bias, dict[str, demo.Result]]:
    few = ("--batch-size", "16", "--epochs", "1", "--plain-epochs", "1", "--seed", "3")
    return demo.main([*few, "--output", str(folder), *options])


@pytest.mark.slow
def test_both_shortcuts_side_by_side(tmp_path: Path, digits: demo.Digits, capfd: pytest.CaptureFixture[str]) -> None:
    results = run(tmp_path)
    said = capfd.readouterr().out
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["versions"].keys() >= {"python", "torch", "zennit-isnet"}
    assert figures["options"]["bias"] == list(results) == ["patch", "texture"]
    for bias, trainings in results.items():
        assert list(trainings) == list(figures["results"][bias]) == ["plain", "heatmap loss", "ceiling"]
        assert figures["results"][bias]["heatmap loss"]["ranges"]["input"]["c1"] > 0
        for name, result in trainings.items():
            assert f"{bias}: {name}: {result.drop}" in said, "told when it is known"
            assert len(result.curves["validation loss"]) == result.chosen_epoch == 1
            assert f"| {bias:8} | {name:12} |" in (tmp_path / "table.md").read_text()
            comparison = demo.Comparison(bias, digits, demo.parse(["--seed", "3", "--output", str(tmp_path)]))
            confounding = demo.accuracy(comparison.saved(name), comparison.data("test", "confounding"))
            assert confounding == result.accuracy["confounding"], "the weights are those of the table"
    assert (tmp_path / "heatmaps.png").read_bytes().startswith(b"\x89PNG")


def test_same_seed_same_result(tmp_path: Path) -> None:
    first, second = (run(tmp_path / name, "--bias", "texture")["texture"] for name in ("first", "second"))
    assert {name: one.curves for name, one in first.items()} == {name: one.curves for name, one in second.items()}
    shares = torch.tensor([one.background_share for one in first.values()])
    assert ((shares > 0) & (shares < 1)).all()


@pytest.mark.filterwarnings("ignore::zennit_isnet.errors.RelevanceRangeWarning")  # eight steps are no training
def test_other_networks(tmp_path: Path) -> None:
    assert "patch" in run(tmp_path, "--bias", "patch", "--model", "resnet18")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs", "0"], "--epochs must be at least 1; got 0"),
        (["--bias", "colour"], "--bias"),
        (["--model", "resnet19"], "got 'resnet19'; close matches: resnet18"),
    ],
)
def test_bad_options_end_with_a_usage_message(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        demo.main(options)
    assert message in capsys.readouterr().err
