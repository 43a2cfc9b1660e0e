"""Which checkpoint a run goes on from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training import checkpoints
from training.errors import CheckpointError

logger = logging.getLogger(__name__)


def last_checkpoint(path: Path, settings: Mapping[str, Any], *, resume: bool) -> dict[str, Any] | None:
    """Return the checkpoint to go on from; None to begin.

    Parameters
    ----------
    path : Path
        Of the last checkpoint, if there is one.
    settings : mapping of str to value
        What the result of this run depends on.
    resume : bool
        Whether the user wants to go on. Without a checkpoint the run begins, so that a run that was stopped before its
        first one can be started again by the same command.

    Raises
    ------
    CheckpointError
        If the checkpoint is damaged or of another run, or there is one that the user does not want to go on from.
    """
    if not resume:
        if path.exists():
            raise CheckpointError(f"{path} is from an earlier run: add --resume, or choose another --output")
        return None
    if not path.exists():
        logger.info("there is no %s yet: training from the beginning", path)
        return None
    state = checkpoints.load(path)
    there = state.get("settings")
    if not isinstance(there, Mapping) or "phase" not in state:
        raise CheckpointError(f"{path} is no checkpoint to go on from, it has the keys {sorted(state)[:5]}")
    differences = [
        f"{name} is {settings.get(name)!r} here and {there.get(name)!r} there"
        for name in sorted(settings.keys() | there.keys())
        if settings.get(name) != there.get(name)
    ]
    if differences:
        raise CheckpointError(f"{path} is the checkpoint of another run: {'; '.join(differences)}")
    logger.info("going on from %s: %s training, epoch %d", path, state["phase"], state["epoch"] + 1)
    return state
