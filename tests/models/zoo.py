"""All classifiers of torchvision in float64, randomised, with the smallest input that each accepts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torchvision
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

CLASSES = 3
NAMES = torchvision.models.list_models(module=torchvision.models)

SMALL = (
    *(
        "convnext_tiny",
        "densenet121",
        "efficientnet_b0",
        "efficientnet_v2_s",
        "googlenet",
        "inception_v3",
        "mnasnet0_5",
    ),
    *("mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet18", "resnext50_32x4d"),
    *("shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t"),
)
"""A small model of each family; tiny MaxViTs and ViTs are in `families`, narrowed AlexNets and VGGs in `nets`."""

HUGE = ("convnext_large", "mvit_v1_b", "mvit_v2_s", "regnet_y_128gf", "vit_h_14", "vit_l_16", "vit_l_32")
"""Too much memory for two beside each other, or too much time; run by hand."""

LARGE = tuple(name for name in NAMES if name not in (*SMALL, *HUGE))

VIDEO = ("r3d_18", "mc3_18", "r2plus1d_18", "s3d", "swin3d_t")

SIZES = {"alexnet": 63, "inception_v3": 75, "vit_h_14": 28}
SIZES |= dict.fromkeys(("maxvit_t", "s3d", "mvit_v1_b", "mvit_v2_s"), 224)
FRAMES = {"s3d": 16, "mvit_v1_b": 16, "mvit_v2_s": 16, "swin3d_t": 4}
FUSED_ATTENTION = ("vit_",)
"""Families whose fused attention kernel is replaced, so that logits differ by rounding."""

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
TOKENS = ("class_token", "pos_embedding", "class_pos", "spatial_pos", "temporal_pos")
"""Parameters that are added to the signal, as biases are."""


class WithoutInitialisation(TorchFunctionMode):
    """Leaves out what takes most of a large model's construction: random values that are drawn anew here."""

    SKIPPED = frozenset({Tensor.normal_, Tensor.uniform_, Tensor.erfinv_})

    def __torch_function__(self, func, types, args=(), kwargs=None):
        # zeros and not what memory holds, because truncated normal values are drawn until they lie in their range
        return args[0].zero_() if func in self.SKIPPED else func(*args, **(kwargs or {}))


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def size_of(name: str) -> int:
    return SIZES.get(name, 32)


def make(name: str, generator: torch.Generator) -> nn.Module:
    """A classifier in float64, randomised, in eval mode."""
    options: dict[str, object] = {"image_size": size_of(name)} if name.startswith("vit") else {}
    if name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": False}
    with WithoutInitialisation(), default_dtype(torch.float64):
        model = torchvision.models.get_model(name, weights=None, num_classes=CLASSES, **options)
    return randomise(model.double(), generator).eval()


def make_images(name: str, generator: torch.Generator, count: int = 2) -> Tensor:
    size = size_of(name)
    frames = (FRAMES.get(name, 4),) if name not in NAMES else ()
    return torch.randn(count, 3, *frames, size, size, generator=generator, dtype=torch.float64)


@torch.no_grad()
def randomise(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """Draw all parameters and running statistics, zero-initialised ones too; LayerScale becomes 0.5."""
    for module in model.modules():
        norm = isinstance(module, NORMS)
        for name, parameter in module.named_parameters(recurse=False):
            if name == "layer_scale":
                parameter.fill_(0.5)
            elif name == "logit_scale":
                parameter.fill_(math.log(10))
            elif norm and name == "weight":
                parameter.uniform_(0.5, 1.5, generator=generator)
            elif parameter.ndim > 1 and "bias" not in name and name not in TOKENS:
                parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
            else:
                parameter.normal_(0, 0.2, generator=generator)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.25, 0.75, generator=generator)
            module.num_batches_tracked.zero_()
    return model


@torch.no_grad()
def without_biases(model: nn.Module) -> nn.Module:
    """Leave the relevance nowhere to go but to the images; position biases inside of a softmax may stay."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        last = name.rpartition(".")[2]
        if last in TOKENS or last.endswith(("bias", "running_mean")):
            tensor.zero_()
    return model


class State:
    """What must be the same after a call: objects, versions of their values, modes, hooks, attributes."""

    HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

    def __init__(self, model: nn.Module) -> None:
        tensors = (*model.named_parameters(), *model.named_buffers())
        self.tensors = [(name, id(tensor), tensor._version, tensor.requires_grad) for name, tensor in tensors]
        self.modules = [
            (name, id(module), module.training, sorted(vars(module)), [list(getattr(module, h)) for h in self.HOOKS])
            for name, module in model.named_modules()
        ]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, State) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]
