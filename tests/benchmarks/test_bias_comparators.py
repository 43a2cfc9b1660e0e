"""The comparison with the peers: P is chosen on a seed of its own, and every method stands in one table."""

import json

import pytest


@pytest.fixture
def compare(scripts, tmp_path):
    def run(*arguments: str) -> str:
        folders = ["--results", str(tmp_path / "results"), "--output", str(tmp_path / "out")]
        few = ["--epochs", "2", "--seeds", "0", "1", "--tuning-seeds", "2", "3", "--weights", "0.1", "0.7"]
        text: str = scripts["comparators"].main([*folders, *few, *arguments])
        return text

    return run


@pytest.mark.slow
def test_table_has_each_method_with_the_weight_that_was_best_on_the_tuning_seeds(compare, tmp_path):
    text = compare("--only", "rrr", "isnet")
    (tuning,) = (tmp_path / "results" / "tuning").iterdir()

    def accuracy(trial: str) -> float:
        runs = [json.loads((tuning / f"{trial}-seed{seed}.json").read_text()) for seed in (2, 3)]
        return sum(run["chosen"]["swap"]["swap"] for run in runs) / 2

    best = [max((f"{name}@0.1", name), key=accuracy) for name in ("rrr", "isnet")]
    rows = [line.split(" | ") for line in text.splitlines()][2:]
    assert [row[0].removeprefix("| ") for row in rows] == ["plain", *best, "ceiling"]
    assert {row[1] for row in rows} == {"2"}
    assert (tmp_path / "out" / "comparators.md").read_text() == text
    assert (tmp_path / "out" / "comparators.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_tuning_does_not_enter_the_summary_of_the_study(compare, scripts, tmp_path):
    compare("--only", "rrr")
    (settings,) = scripts["summary"].read(tmp_path / "results").values()
    assert {run["run"]["seed"] for runs in settings.values() for run in runs} == {0, 1}


def test_tuning_on_a_reported_seed_is_refused(compare, capsys):
    with pytest.raises(SystemExit):
        compare("--tuning-seeds", "1", "4")
    assert "--tuning-seeds and --seeds share [1]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weights", "1.5"], "a weight in [0, 1]"),
        (["--model", "resnet19"], "unknown model 'resnet19'"),
        (["--workers", "0"], "--epochs and --workers must be at least 1"),
    ],
)
def test_runs_that_cannot_be_made_end_with_a_usage_message(compare, options, message, capsys):
    with pytest.raises(SystemExit):
        compare(*options)
    assert message in capsys.readouterr().err
