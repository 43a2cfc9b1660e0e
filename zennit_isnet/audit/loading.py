"""Models by name, with weights from a file."""

import difflib
import pickle
import pkgutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision import models

from zennit_isnet.errors import InvalidTypeError, InvalidValueError

WEIGHTS = ("model", "state_dict", "model_state_dict")
"""Keys under which checkpoints of training scripts keep the weights."""

WRAPPERS = ("module.", "_orig_mod.", "model.")
"""What `DistributedDataParallel`, `torch.compile` and Lightning put before the names of all weights."""

LONGEST = 600
"""How much is shown of what PyTorch says; it lists all weights that do not fit."""


def load_model(name: str, classes: int, checkpoint: str | Path | None = None) -> nn.Module:
    """Return a model on the CPU.

    Parameters
    ----------
    name : str
        A classifier of torchvision, such as ``"resnet18"``, or ``"module:function"``: a function without arguments
        that returns a model, in a module that can be imported from the current folder.
    classes : int
        Number of classes of a torchvision classifier.
    checkpoint : path, optional
        File with its weights: a state dict, or a dictionary that holds one under ``"model"`` or ``"state_dict"``. No
        code of the file is run. A classifier of torchvision needs one, for without it its weights are random.

    Returns
    -------
    Module

    Raises
    ------
    InvalidValueError
        If the name is unknown, or the file is missing, damaged or of another model.
    InvalidTypeError
        If the function does not return a model.

    Examples
    --------
    >>> load_model("torchvision.models:alexnet", classes=1000).classifier[-1].out_features
    1000
    """
    if ":" in name:
        model = model_of_function(name)
    else:
        check_known(
            "model must be a torchvision classifier or module:function", name, models.list_models(module=models)
        )
        if checkpoint is None:
            raise InvalidValueError(f"{name} needs a checkpoint; without one its weights are random")
        model = models.get_model(name, weights=None, num_classes=classes)
    if checkpoint is not None:
        load_weights(model, Path(checkpoint))
    return model


def load_weights(model: nn.Module, path: Path) -> None:
    """Load all weights of a file into a model.

    Raises
    ------
    InvalidValueError
        If the file is missing, damaged, or of another model.
    """
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, OSError, RuntimeError, EOFError, ValueError) as error:
        reason = textwrap.shorten(str(error) or type(error).__name__, LONGEST)
        needed = "weights alone, as torch.save(model.state_dict(), file) writes them, for no code is run"
        raise InvalidValueError(f"{path} cannot be read as a file of {needed}: {reason}") from error
    while isinstance(content, Mapping) and (inner := [key for key in WEIGHTS if isinstance(content.get(key), Mapping)]):
        content = content[inner[0]]
    if not isinstance(content, Mapping):
        raise InvalidValueError(f"{path} must hold a state dict; got {type(content).__name__}")
    state, own = dict(content), model.state_dict()
    for prefix in WRAPPERS:  # unless the model's own names have it
        if all(str(name).startswith(prefix) and name not in own for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        found = textwrap.shorten(str(error).partition("\n")[2], LONGEST)
        raise InvalidValueError(f"{path} holds weights of another model, or number of classes: {found}") from error


def check_known(kind: str, name: str, known: Sequence[str]) -> None:
    """Raise `InvalidValueError` with close matches unless a name is known."""
    if name not in known:
        close = ", ".join(difflib.get_close_matches(name, known, n=5, cutoff=0.3)) or "none"
        raise InvalidValueError(f"{kind}; got {name!r}; close matches: {close}")


def model_of_function(name: str, **options: Any) -> nn.Module:
    """Return what ``module:function`` makes; the module is looked for in the current folder first.

    Raises
    ------
    InvalidValueError, InvalidTypeError
        If it cannot be imported, or returns no module.
    """
    sys.path.insert(0, "")  # the current folder first
    try:
        try:
            make = pkgutil.resolve_name(name)
        except (ImportError, AttributeError, ValueError) as error:
            raise InvalidValueError(f"model {name!r} cannot be imported: {error}") from error
        model = make(**options)
    finally:
        sys.path.remove("")
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"{name} must return a torch.nn.Module; got {type(model).__name__}")
    return model
