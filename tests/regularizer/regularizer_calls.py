"""Calls with one wrong argument each, for the table of bad input: ``call(model, images, masks)``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from regularizer_models import WithOutput, batch, tiny_net
from torch import Tensor, nn

from zennit_isnet import ISNetRegularizer

Call = Callable[[nn.Module, Tensor, Tensor], Any]
Case = tuple[str, Call, type[Exception], list[str]]


def with_value(tensor: Tensor, index: int, value: float) -> Tensor:
    changed = tensor.clone()
    changed[index, 0, 0, 0] = value
    return changed


def with_masks(make: Callable[[Tensor], Any]) -> Call:
    return lambda model, images, masks: ISNetRegularizer(model)(images, make(masks))


def with_images(make: Callable[[Tensor], Any]) -> Call:
    return lambda model, images, masks: ISNetRegularizer(model)(make(images), masks)


def with_flags(has_mask: Any) -> Call:
    return lambda model, images, masks: ISNetRegularizer(model)(images, masks, has_mask)


def with_model(make: Callable[[], nn.Module]) -> Call:
    return lambda model, images, masks: ISNetRegularizer(make())(images, masks)


def with_output(output: Callable[[Tensor], Any]) -> Call:
    return with_model(lambda: WithOutput(output))


def with_parts(**parts: Any) -> Call:
    return lambda model, images, masks: ISNetRegularizer(model, **parts)(images, masks)


def with_state(state: Any) -> Call:
    return lambda model, images, masks: ISNetRegularizer(model).load_state_dict(state)


def with_loader(make: Callable[[Tensor], Any]) -> Call:
    return lambda model, images, masks: ISNetRegularizer(model).calibrate(make(images), progress=False)


def with_target(target: Any) -> Call:
    return lambda model, images, masks: ISNetRegularizer(model).heatmap(images, target)


def construct(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Call:
    return lambda model, images, masks: function(*args, **kwargs)


def in_inference_mode(method: Callable[..., Any]) -> Call:
    def call(model: nn.Module, images: Tensor, masks: Tensor) -> Any:
        with torch.inference_mode():
            return method(ISNetRegularizer(model), images, masks)

    return call


def made_in_inference_mode(model: nn.Module, images: Tensor, masks: Tensor) -> Any:
    with torch.inference_mode():
        images = images + 0
    return ISNetRegularizer(model)(images, masks)


def scripted() -> nn.Module:
    return torch.jit.trace(tiny_net().eval(), batch(size=8)[0])


def compiled_in_place() -> nn.Module:
    model = tiny_net()
    model[0].compile(backend="eager")
    return model
