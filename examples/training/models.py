"""Classifiers of torchvision with a head for the classes of the data."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

from training import checkpoints
from training.errors import CheckpointError
from zennit_isnet.errors import InvalidValueError


@dataclass(frozen=True)
class Classifier:
    """A model, and whether its head, too, is trained: then its logits mean something already."""

    model: nn.Module
    trained_head: bool


def check_model_name(name: str) -> None:
    """Raise unless torchvision has a classifier of this name.

    Raises
    ------
    InvalidValueError
        With close matches.
    """
    _check_known("model", name, models.list_models(module=models))


def check_weights_name(name: str, weights: str) -> Any:
    """Return the weights that torchvision has for a model under a name such as ``"ResNet50_Weights.DEFAULT"``.

    Raises
    ------
    InvalidValueError
        With close matches, if the model has no such weights.
    """
    known = models.get_model_weights(name)
    names = [f"{known.__name__}.{member}" for member in known.__members__]
    _check_known(f"weights for {name}", weights, names)
    return known[weights.partition(".")[2]]


def make_classifier(name: str, classes: int, weights: str | None = None) -> Classifier:
    """Return a torchvision classifier for a number of classes.

    Parameters
    ----------
    name : str
        As in ``torchvision.models.list_models()``.
    classes : int
        Number of classes. The head of other weights is kept where it has as many, else it gets new, random weights.
    weights : str, optional
        Name of torchvision weights (downloaded to torch's cache) or a file: a state dict, or a checkpoint of this
        script. Default None: random weights.

    Raises
    ------
    InvalidValueError
        If torchvision does not know the model or the weights.
    CheckpointError
        If a file cannot be read, or holds weights of another model.
    """
    check_model_name(name)
    if weights is None:
        return Classifier(models.get_model(name, weights=None, num_classes=classes), False)
    if Path(weights).suffix in (".pt", ".pth") or Path(weights).is_file():
        return _from_file(name, classes, Path(weights))
    entry = check_weights_name(name, weights)
    model = models.get_model(name, weights=entry)
    if len(entry.meta["categories"]) == classes:
        return Classifier(model, True)
    fresh = models.get_model(name, weights=None, num_classes=classes)
    present = dict(model.named_modules())
    for head in {parameter.rpartition(".")[0] for parameter in head_parameters(name, classes)}:
        if head in present:  # auxiliary heads are not part of all weights
            parent, _, child = head.rpartition(".")
            setattr(model.get_submodule(parent), child, fresh.get_submodule(head))
    return Classifier(model, False)


def head_parameters(name: str, classes: int) -> set[str]:
    """Return the names of the parameters whose shape depends on the number of classes."""
    with torch.device("meta"):
        one, other = (models.get_model(name, weights=None, num_classes=count) for count in (classes, classes + 1))
    shapes = {key: value.shape for key, value in other.state_dict().items()}
    return {key for key, value in one.state_dict().items() if value.shape != shapes[key]}


def load_weights(model: nn.Module, path: Path) -> None:
    """Load all weights of a file, a state dict or a checkpoint of this script, into a model.

    Raises
    ------
    CheckpointError
        If the file cannot be read, or holds weights of another model.
    """
    _fit(model, _state_dict(path), path, may_differ=set())


def _from_file(name: str, classes: int, path: Path) -> Classifier:
    model = models.get_model(name, weights=None, num_classes=classes)
    state, heads = _state_dict(path), head_parameters(name, classes)
    own = model.state_dict()
    other_head = any(key in state and state[key].shape != own[key].shape for key in heads)
    if other_head:
        state = {key: own[key] if key in heads else value for key, value in state.items()}
    _fit(model, state, path, may_differ=heads if other_head else set())
    return Classifier(model, not other_head)


def _state_dict(path: Path) -> dict[str, Tensor]:
    state = checkpoints.load(path)
    state = state["model"] if isinstance(state.get("model"), Mapping) else state
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} must hold a state dict of tensors, got the keys {list(state)[:5]}")
    return dict(state)


def _fit(model: nn.Module, state: Mapping[str, Tensor], path: Path, may_differ: set[str]) -> None:
    own = model.state_dict()
    problems = [
        *(f"{key} is missing" for key in own.keys() - state.keys() - may_differ),
        *(f"{key} is unknown" for key in state.keys() - own.keys()),
        *(
            f"{key} has shape {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
            for key in own.keys() & state.keys()
            if state[key].shape != own[key].shape
        ),
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(
            f"{path} holds weights of another model than {type(model).__name__}: "
            f"{'; '.join(sorted(problems)[:3])}{more}"
        )
    model.load_state_dict(state, strict=not may_differ)


def _check_known(kind: str, name: str, known: list[str]) -> None:
    if name not in known:
        close = ", ".join(difflib.get_close_matches(name, known, n=5, cutoff=0.3)) or "none"
        raise InvalidValueError(f"unknown {kind} {name!r}; close matches: {close}")
