"""Files that are either whole or not there."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from training.errors import CheckpointError


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file such that a crash at any moment leaves the former one or the new one, never a part.

    Raises
    ------
    CheckpointError
        If it cannot be written, for example to a full disk; a former file is still there.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        former = "the former one is untouched" if path.exists() else "there is none"
        raise CheckpointError(f"cannot write {path} ({len(content):,} bytes): {error.strerror}; {former}") from error


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Save tensors, numbers, strings and containers of them.

    Raises
    ------
    CheckpointError
        If the file cannot be written; a former one is still there.
    """
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    write_atomically(path, buffer.getvalue())


def load(path: Path) -> dict[str, Any]:
    """Load what `save` wrote, onto the CPU; no code of the file is run.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, or holds anything else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no file {path}") from error
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path} cannot be read: it was cut off or damaged, or is no file of weights ({_first_line(error)})"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} must hold a dictionary of weights, got {type(state).__name__}")
    return state


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _sync_folder(folder: Path) -> None:
    # without it a power cut could undo the renaming; some systems cannot open folders
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
