"""A run that was stopped at any step ends with the weights of one that was not, bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from train_runs import SHORT, command, last_state, run, write_folder
from training.errors import CheckpointError, Interrupted
from training.phase import Phase

RANDOM = ("--swap-probability", "0.5", "--checkpoint-every", "1")
"""Every source of random numbers at work: crops, dropout, Stochastic, swapped backgrounds."""


HALTING = Path(__file__).with_name("halting_train.py")


class Killed(BaseException):
    """The end of a process, as far as one process can tell."""


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    return [*write_folder(tmp_path / "data"), *SHORT, *RANDOM]


@pytest.fixture
def before_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """Arrange for something to happen before the n-th step from now."""
    take_step = Phase.take_step

    def arrange(number: int, action: Callable[[], None]) -> None:
        steps = iter(range(1, number + 1))

        def stepped(phase: Phase, group: list[Any]) -> None:
            if next(steps, None) == number:
                action()
            take_step(phase, group)

        monkeypatch.setattr(Phase, "take_step", stepped)

    return arrange


def assert_same(found: Any, expected: Any) -> None:
    """Assert that two states are equal to the last bit."""
    if isinstance(expected, Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for pair in zip(found, expected, strict=True):
            assert_same(*pair)
    else:
        assert found == expected or (found != found and expected != expected)


def kill() -> None:
    raise Killed


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 3, 6])
def test_killed_at_a_step(tmp_path: Path, options: list[str], before_step: Any, step: int):
    # steps 1 and 2 are those of the plain copy, 3 to 6 those with the penalty
    run(*options, output=tmp_path / "whole")
    before_step(step, kill)
    with pytest.raises(Killed):
        run(*options, output=tmp_path / "parts")
    run(*options, "--resume", output=tmp_path / "parts")
    assert_same(last_state(tmp_path / "parts"), last_state(tmp_path / "whole"))
    reports = [(tmp_path / name / "log.csv").read_text() for name in ("parts", "whole")]
    assert reports[0] == reports[1]


@pytest.mark.slow
def test_sigterm_saves_at_the_next_step(tmp_path: Path, options: list[str], before_step: Any):
    options = [*options, "--checkpoint-every", "0"]
    run(*options, output=tmp_path / "whole")
    handler = signal.getsignal(signal.SIGTERM)
    before_step(3, terminate)
    with pytest.raises(Interrupted):
        run(*options, output=tmp_path / "parts")
    assert signal.getsignal(signal.SIGTERM) is handler
    state = last_state(tmp_path / "parts")
    assert (state["phase"], state["total_steps"]) == ("isnet", 3)
    run(*options, "--resume", output=tmp_path / "parts")
    assert_same(last_state(tmp_path / "parts")["model"], last_state(tmp_path / "whole")["model"])


def test_other_settings_are_refused(tmp_path: Path, options: list[str], before_step: Any):
    before_step(2, kill)
    with pytest.raises(Killed):
        run(*options, output=tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"last\.pt is the checkpoint of another run: lr is 0\.5 here and 0\.01"):
        run(*options, "--lr", "0.5", "--resume", output=tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"model is 'alexnet' here and 'squeezenet1_1' there"):
        run(*options, "--model", "alexnet", "--resume", output=tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"last\.pt is from an earlier run: add --resume"):
        run(*options, output=tmp_path / "out")


@pytest.mark.slow
def test_sigkill_and_sigterm_of_a_real_process(tmp_path: Path, options: list[str]):
    run(*options, output=tmp_path / "whole")
    with halted(tmp_path / "killed", 2, *options, "--output", str(tmp_path / "parts")) as process:
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert last_state(tmp_path / "parts")["total_steps"] == 1

    with halted(tmp_path / "ended", 2, *options, "--resume", "--output", str(tmp_path / "parts")) as process:
        process.terminate()
        (tmp_path / "ended" / "go_on").touch()
    said = (tmp_path / "ended" / "errors.txt").read_text()
    assert process.returncode == 0, said
    assert "--resume" in said
    # the step at which the signal came is finished
    assert last_state(tmp_path / "parts")["total_steps"] == 3

    run(*options, "--resume", output=tmp_path / "parts")
    assert_same(last_state(tmp_path / "parts"), last_state(tmp_path / "whole"))


@contextmanager
def halted(folder: Path, step: int, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a run, wait until it halts before a step, and for its end in the end; its errors go to a file."""
    folder.mkdir()
    arguments = [str(HALTING), str(step), str(folder / "halted"), str(folder / "go_on"), *options]
    errors = folder / "errors.txt"
    with errors.open("wb") as file, subprocess.Popen([sys.executable, *arguments], stderr=file) as process:
        try:
            while not (folder / "halted").exists():
                assert process.poll() is None, errors.read_text()
                time.sleep(0.01)
            yield process
        except BaseException:
            process.kill()
            raise


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path: Path, options: list[str]):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    options = [*options, "--batch-size", "3", "--accumulate", "2", "--epochs", "1", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    script = command(*options, output=tmp_path / "two")[1:]
    done = subprocess.run([*torchrun, *script], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    state = last_state(tmp_path / "two")
    assert len(state["processes"]) == 2
    first, second = state["processes"]
    assert first["regularizer"]["ranges"] == second["regularizer"]["ranges"]
    assert first["regularizer"]["ranges"][0]["count"] == 5
    # each process draws its own numbers
    assert not torch.equal(first["random"]["torch"], second["random"]["torch"])
    assert "| process_count | 2 |" in (tmp_path / "two" / "report.md").read_text()
    with pytest.raises(CheckpointError, match="process_count is 1 here and 2 there"):
        run(*options, "--resume", output=tmp_path / "two")
