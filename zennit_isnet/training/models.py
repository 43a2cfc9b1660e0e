"""Classifiers by name, with a head for the classes of the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision import models

from zennit_isnet.audit.loading import check_known, load_weights, model_of_function
from zennit_isnet.errors import InvalidValueError, import_optional

TIMM = "timm:"


def make_model(name: str, classes: int, weights: str | None = None, *, channels: int = 3) -> nn.Module:
    """Return a classifier.

    Parameters
    ----------
    name : str
        A classifier of torchvision such as ``"resnet18"``, one of timm such as ``"timm:resnet18"``, or
        ``"module:function"``: ``function(num_classes=…)`` makes one.
    classes : int
        Number of logits. The head of weights with another number is replaced by a random one.
    weights : str, optional
        ``"DEFAULT"`` for the library's pretrained weights, the name of other ones of torchvision, or a file of
        weights of this very model. Default: random weights.
    channels : int, default 3
        Of the images. With 1, the first convolution of torchvision's classifiers adds up its weights over the colours.

    Returns
    -------
    Module

    Raises
    ------
    InvalidValueError
        If a name is unknown, or a file does not fit.
    InvalidTypeError
        If the function returns no module.

    Examples
    --------
    >>> make_model("resnet18", 3, channels=1).conv1.weight.shape
    torch.Size([64, 1, 7, 7])
    """
    is_file = weights is not None and Path(weights).is_file()
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
            raise InvalidValueError(f"{name} brings its own weights, or takes a file; got weights={weights!r}")
        model = model_of_function(name, num_classes=classes)
    else:
        model = _of_torchvision(name, classes, pretrained)
        if channels == 1:
            _add_up_colours(model)
    if weights is not None and is_file:
        load_weights(model, Path(weights))
    return model


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
    """Let the first convolution take grey images, with the answer that it gives to the same in three channels."""
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
