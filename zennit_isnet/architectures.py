"""Classifiers by name, with a new head for the number of classes, and weights from a file."""

from __future__ import annotations

import difflib
import inspect
import pickle
import pkgutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torchvision import models

from zennit_isnet.errors import InvalidTypeError, InvalidValueError, import_optional

WEIGHTS = ("model", "state_dict", "model_state_dict")
"""Keys under which training scripts store the weights in checkpoints."""

WRAPPERS = ("module.", "_orig_mod.", "model.")
"""Prefixes that `DistributedDataParallel`, `torch.compile` and Lightning add to the names of all weights."""

__all__ = ["make_model"]

FILES = (".pt", ".pth", ".ckpt")
"""Extensions that mark a file, not the name of pretrained weights."""

TIMM = "timm:"

RUN = "zennit_isnet"
"""Key of the settings in a checkpoint of ``zennit-isnet train``."""

LONGEST = 600
"""Characters shown of PyTorch's message, which lists every weight that does not fit."""


class RunSettings(NamedTuple):
    """The model of a ``zennit-isnet train`` checkpoint, and the images that it takes.

    Attributes
    ----------
    architecture : str
        As for `make_model`.
    classes : list of str
        In the order of the logits.
    multi_label : bool
        Whether an image may have several labels.
    size, channels, mean, std, fit
        See `zennit_isnet.training.MaskedImages`.
    """

    architecture: str
    classes: list[str]
    multi_label: bool
    size: int
    channels: int
    mean: list[float]
    std: list[float]
    fit: str


def make_model(name: str, classes: int, weights: str | None = None, *, channels: int = 3) -> nn.Module:
    """Return a classifier.

    Parameters
    ----------
    name : str
        A classifier of torchvision such as ``"resnet18"``, one of timm such as ``"timm:resnet18"``, or
        ``"module:function"``: a function that returns a model, in a module that can be imported from the current
        folder. It is called with ``num_classes=classes`` if it accepts that argument.
    classes : int
        Number of logits. If the weights have another number of classes, their head is replaced by a random one.
    weights : str, optional
        ``"DEFAULT"`` for the library's pretrained weights, the name of other torchvision weights, or a file with
        weights for exactly this model: a state dict, or a dictionary that holds one under ``"model"`` or
        ``"state_dict"``. No code in the file is run. If None, random weights.
    channels : int, default=3
        Channels of the images. With 1, the first convolution of torchvision classifiers sums its weights over the
        colours.

    Returns
    -------
    Module

    Raises
    ------
    InvalidValueError
        If a name is unknown, or a file is missing, damaged or belongs to another model.
    InvalidTypeError
        If the function is none, needs other arguments, or does not return a module.

    Examples
    --------
    >>> make_model("resnet18", 3, channels=1).conv1.weight.shape
    torch.Size([64, 1, 7, 7])
    """
    is_file = weights is not None and (Path(weights).is_file() or Path(weights).suffix in FILES)
    pretrained = None if is_file else weights
    if name.startswith(TIMM):
        timm = import_optional("timm", package="timm", extra="timm")
        check_known("model must be one of timm", name.removeprefix(TIMM), timm.list_models())
        if pretrained not in (None, "DEFAULT"):
            raise InvalidValueError(f'weights of timm must be "DEFAULT" or a file; got {weights!r}')
        size = {"num_classes": classes, "in_chans": channels}
        model: nn.Module = timm.create_model(name.removeprefix(TIMM), pretrained=pretrained is not None, **size)
    elif ":" in name:
        if pretrained is not None:
            raise InvalidValueError(f"{name} makes its own weights; pass weights=None or a file, not {weights!r}")
        model = _of_function(name, classes)
    else:
        model = _of_torchvision(name, classes, pretrained)
        if channels == 1:
            _add_up_colours(model)
    if weights is not None and is_file:
        load_weights(model, Path(weights))
    return model


def load_weights(model: nn.Module, path: Path) -> None:
    """Load all weights of a file into a model.

    Raises
    ------
    InvalidValueError
        If the file is missing, damaged or belongs to another model.
    """
    content = _read(path)
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
        raise InvalidValueError(
            f"{path} holds weights of another model or for another number of classes: {found}"
        ) from error


def check_known(kind: str, name: str, known: Sequence[str]) -> None:
    """Raise `InvalidValueError` with close matches if a name is unknown."""
    if name not in known:
        close = ", ".join(difflib.get_close_matches(name, known, n=5, cutoff=0.3)) or "none"
        raise InvalidValueError(f"{kind}; got {name!r}; close matches: {close}")


def read_run(path: Path) -> RunSettings | None:
    """Read the settings of a ``zennit-isnet train`` checkpoint; None for any other file.

    Raises
    ------
    InvalidValueError
        If the file cannot be read.
    """
    content = _read(path)
    found = content.get(RUN) if isinstance(content, Mapping) else None
    return None if found is None else RunSettings(**found)


def _read(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, OSError, RuntimeError, EOFError, ValueError) as error:
        reason = textwrap.shorten(str(error) or type(error).__name__, LONGEST)
        needed = "plain weights, as torch.save(model.state_dict(), file) writes them (no code is run)"
        raise InvalidValueError(f"{path} cannot be read as a file of {needed}: {reason}") from error


def _of_function(name: str, classes: int) -> nn.Module:
    sys.path.insert(0, "")  # the current folder first
    try:
        try:
            make = pkgutil.resolve_name(name)
        except (ImportError, AttributeError, ValueError) as error:
            raise InvalidValueError(f"model {name!r} cannot be imported: {error}") from error
        given = _arguments(name, make, classes)
        model = make(**given)
    finally:
        sys.path.remove("")
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"{name} must return a torch.nn.Module; got {type(model).__name__}")
    return model


def _arguments(name: str, make: Any, classes: int) -> dict[str, int]:
    """Return the arguments for a function that makes a model: the number of classes if it accepts that, or none."""
    if isinstance(make, nn.Module) or not callable(make):
        raise InvalidTypeError(f"{name} must be a function that returns a torch.nn.Module; got {type(make).__name__}")
    signature = inspect.signature(make)
    taken = signature.parameters.values()
    given = {"num_classes": classes}
    if not any(one.name == "num_classes" or one.kind is one.VAR_KEYWORD for one in taken):
        given = {}
    try:
        signature.bind(**given)
    except TypeError as error:
        needed = "must be callable with num_classes alone or without arguments: give the others defaults"
        raise InvalidTypeError(f"{name} {needed}; got {name.rpartition(':')[2]}{signature}, {error}") from error
    return given


def _of_torchvision(name: str, classes: int, weights: str | None) -> nn.Module:
    check_known(
        "model must be a torchvision classifier, timm:name or module:function", name, models.list_models(module=models)
    )
    fresh: nn.Module = models.get_model(name, weights=None, num_classes=classes)
    if weights is None:
        return fresh
    known = models.get_model_weights(name)
    check_known(f"weights must be a file or one of {name}'s", weights, list(known.__members__))
    model: nn.Module = models.get_model(name, weights=known[weights])
    shapes = {key: value.shape for key, value in fresh.state_dict().items()}
    different = [key for key, value in model.state_dict().items() if key in shapes and value.shape != shapes[key]]
    for head in {key.rpartition(".")[0] for key in different}:
        parent, _, child = head.rpartition(".")
        setattr(model.get_submodule(parent), child, fresh.get_submodule(head))
    return model


def _add_up_colours(model: nn.Module) -> None:
    """Let the first convolution take grey images, with the same output as for three equal channels."""
    name, first = next((name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d))
    options: dict[str, Any] = {
        key: getattr(first, key) for key in ("kernel_size", "stride", "padding", "dilation", "padding_mode")
    }
    grey = nn.Conv2d(1, first.out_channels, bias=first.bias is not None, **options)
    with torch.no_grad():
        grey.weight.copy_(first.weight.sum(1, keepdim=True))
        if first.bias is not None and grey.bias is not None:
            grey.bias.copy_(first.bias)
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, grey)
    if hasattr(model, "transform_input"):
        vars(model)["transform_input"] = False  # GoogLeNet and Inception transform colours
