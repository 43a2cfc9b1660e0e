"""A checkpoint is whole or not there, and gives every generator its state back."""

from __future__ import annotations

import random
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from training import checkpoints
from training.errors import CheckpointError
from training.randomness import random_state, set_random_state
from training.resuming import last_checkpoint


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No file of this process can grow beyond 1 KiB: the system refuses, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_generators_go_on_after_a_checkpoint(tmp_path: Path):
    def draw() -> tuple[float, float, float]:
        return random.random(), np.random.rand(), torch.rand(()).item()

    checkpoints.save(tmp_path / "last.pt", {"random": random_state()})
    expected = draw()
    draw()
    set_random_state(checkpoints.load(tmp_path / "last.pt")["random"])
    assert draw() == expected


def test_full_disk_leaves_the_former_checkpoint(tmp_path: Path, full_disk: None):
    path = tmp_path / "last.pt"
    path.write_bytes(b"former")
    with pytest.raises(CheckpointError, match=r"cannot write .*last\.pt .*bytes.*the former one is untouched"):
        checkpoints.save(path, {"model": torch.ones(1000)})
    assert path.read_bytes() == b"former"
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_at_the_first_checkpoint(tmp_path: Path, full_disk: None):
    with pytest.raises(CheckpointError, match="there is none"):
        checkpoints.save(tmp_path / "last.pt", {"model": torch.ones(1000)})


def test_crash_while_writing_leaves_the_former_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "last.pt"
    checkpoints.save(path, {"step": 1})

    def crash(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(path, {"step": 2})
    monkeypatch.undo()
    assert checkpoints.load(path) == {"step": 1}
    checkpoints.save(path, {"step": 3})
    assert checkpoints.load(path) == {"step": 3}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.99])
def test_truncated_checkpoint_is_named(tmp_path: Path, kept: float):
    path = tmp_path / "last.pt"
    checkpoints.save(path, {"model": torch.ones(1000)})
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(CheckpointError, match=r"last\.pt cannot be read: it was cut off or damaged"):
        checkpoints.load(path)


def test_code_in_a_file_is_not_run(tmp_path: Path):
    path = tmp_path / "evil.pt"
    torch.save({"model": Path("anything")}, path)
    with pytest.raises(CheckpointError, match=r"evil\.pt cannot be read"):
        checkpoints.load(path)


def test_missing_and_foreign_files_are_named(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"there is no file .*none\.pt"):
        checkpoints.load(tmp_path / "none.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match=r"list\.pt must hold a dictionary of weights, got list"):
        checkpoints.load(tmp_path / "list.pt")


def test_without_a_checkpoint_a_resumed_run_begins(tmp_path: Path):
    assert last_checkpoint(tmp_path / "last.pt", {}, resume=True) is None


def test_a_former_run_is_not_overwritten(tmp_path: Path):
    checkpoints.save(tmp_path / "last.pt", {"settings": {}, "phase": "isnet"})
    with pytest.raises(CheckpointError, match=r"last\.pt is from an earlier run: add --resume"):
        last_checkpoint(tmp_path / "last.pt", {}, resume=False)


def test_checkpoint_of_another_run_is_named_with_all_differences(tmp_path: Path):
    there = {"model": "resnet18", "lr": 0.1, "seed": 0}
    checkpoints.save(tmp_path / "last.pt", {"settings": there, "phase": "isnet", "epoch": 0})
    with pytest.raises(CheckpointError, match=r"last\.pt .*lr is 0\.2 here and 0\.1 there; model is 'alexnet' here"):
        last_checkpoint(tmp_path / "last.pt", {"model": "alexnet", "lr": 0.2, "seed": 0}, resume=True)
    assert last_checkpoint(tmp_path / "last.pt", there, resume=True)["settings"] == there


def test_weights_alone_are_no_checkpoint_to_go_on_from(tmp_path: Path):
    checkpoints.save(tmp_path / "last.pt", {"conv1.weight": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"last\.pt is no checkpoint to go on from, it has the keys \['conv1"):
        last_checkpoint(tmp_path / "last.pt", {}, resume=True)
