"""The range of the relevance as a file, with what it was measured for."""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.checkpoints import write_atomically
from training.errors import CheckpointError
from training.models import Classifier
from zennit_isnet import ISNetRegularizer
from zennit_isnet.calibration import RelevanceRange, ranges_from_state
from zennit_isnet.errors import ISNetError

PLAIN_EPOCHS = 5
"""Before the range is measured, as the authors do it."""

MEASURED_FOR = ("model", "classes", "formulation", "layers", "box", "epsilon", "epsilon_ratio", "reference", "size")
"""Settings that change the relevance: a range measured with others means nothing."""


def plain_epochs(options: argparse.Namespace, classifier: Classifier) -> int:
    """Return how long to train without the penalty, before the range is measured.

    Warns
    -----
    UserWarning
        If the user wants to measure a head that is not trained.
    """
    if options.ranges is not None and options.calibrate_on == "copy":
        return 0  # the copy would serve nothing
    if options.plain_epochs == 0 and options.ranges is None and not classifier.trained_head:
        warnings.warn(
            "--plain-epochs 0: the range of the relevance is measured on a head that is not trained, where it means "
            "little",
            stacklevel=2,
        )
    if options.plain_epochs is not None:
        return options.plain_epochs
    return 0 if classifier.trained_head else PLAIN_EPOCHS


def save_ranges(path: Path, regularizer: ISNetRegularizer, settings: Mapping[str, Any]) -> None:
    """Write the ranges of a regularizer and the settings that they hold for."""
    measured_for = {name: settings[name] for name in MEASURED_FOR}
    content = {"settings": measured_for, "ranges": regularizer.state_dict()["ranges"]}
    write_atomically(path, json.dumps(content, indent=2).encode())


def load_ranges(path: Path, settings: Mapping[str, Any]) -> dict[str, RelevanceRange]:
    """Read ranges.

    Raises
    ------
    CheckpointError
        If the file cannot be read or was measured with other settings.
    """
    try:
        content = json.loads(path.read_text())
        ranges, there = ranges_from_state(content["ranges"]), dict(content["settings"])
    except (OSError, ValueError, KeyError, TypeError, ISNetError) as error:
        raise CheckpointError(f"{path} is no file of relevance ranges: {error}") from error
    differences = [
        f"{name} is {settings[name]!r} here and {there.get(name)!r} there"
        for name in MEASURED_FOR
        if there.get(name) != settings[name]
    ]
    if differences:
        raise CheckpointError(f"the ranges in {path} were measured for another run: {'; '.join(differences)}")
    return ranges
