"""A tiny instance of each family of classifiers, of torchvision's own classes, in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import torch
import zoo
from torch import nn
from torchvision.models import DenseNet, RegNet, VisionTransformer
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.efficientnet import EfficientNet, FusedMBConvConfig, MBConvConfig
from torchvision.models.maxvit import MaxVit
from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3
from torchvision.models.regnet import BlockParams
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2

SIZE = 16


def efficientnet() -> nn.Module:
    settings = [FusedMBConvConfig(1, 3, 1, 8, 8, 1), MBConvConfig(2, 3, 2, 8, 8, 2)]
    return EfficientNet(settings, dropout=0.1, stochastic_depth_prob=0.2, num_classes=zoo.CLASSES, last_channel=8)


def mobilenet_v3() -> nn.Module:
    block = partial(InvertedResidualConfig, dilation=1, width_mult=1.0)
    settings = [block(8, 3, 8, 8, True, "RE", 1), block(8, 3, 16, 8, True, "HS", 2)]
    return MobileNetV3(settings, last_channel=8, num_classes=zoo.CLASSES)


def convnext() -> nn.Module:
    settings = [CNBlockConfig(6, 8, 1), CNBlockConfig(8, None, 1)]
    return ConvNeXt(settings, stochastic_depth_prob=0.2, num_classes=zoo.CLASSES)


def vit() -> nn.Module:
    return VisionTransformer(SIZE, 8, 2, 2, 8, 12, dropout=0.1, attention_dropout=0.1, num_classes=zoo.CLASSES)


def swin(**options: object) -> nn.Module:
    return SwinTransformer(
        [2, 2], 8, [2, 2], [2, 2], [2, 2], 2.0, 0.1, 0.1, stochastic_depth_prob=0.2, num_classes=zoo.CLASSES, **options
    )


def maxvit() -> nn.Module:
    size = (SIZE, SIZE)
    return MaxVit(size, 4, 2, [8, 8], [1, 1], 4, 0.2, attention_dropout=0.1, num_classes=zoo.CLASSES)


def regnet_y() -> nn.Module:
    params = BlockParams([2, 1], [8, 8], [4, 4], [1.0, 1.0], [2, 2], 0.25)
    return RegNet(params, zoo.CLASSES, stem_width=4)


FAMILIES: Mapping[str, Callable[[], nn.Module]] = MappingProxyType(
    {
        "EfficientNet": efficientnet,
        "MobileNetV3": mobilenet_v3,
        "ConvNeXt": convnext,
        "ViT": vit,
        "Swin": swin,
        "SwinV2": partial(swin, block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2),
        "MaxViT": maxvit,
        "RegNetY": regnet_y,
        "DenseNet": partial(DenseNet, 4, (2, 2), 8, 2, 0.1, zoo.CLASSES),
    }
)


def make(name: str, generator: torch.Generator, *, training: bool = False) -> nn.Module:
    """A tiny classifier of a family, randomised."""
    return zoo.randomise(FAMILIES[name]().double(), generator).train(training)


def make_images(generator: torch.Generator, count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)
