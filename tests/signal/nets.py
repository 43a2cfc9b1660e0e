"""Tiny networks in float64 that have, between them, every operation `LRPFlex` supports in ReLU networks."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS, SIZE, CLASSES = 3, 8, 3
WIDE = frozenset({"alexnet", "vgg11_bn"})


class ResidualNet(nn.Module):
    """Modules only: in-place sum, one in-place ReLU for all places, grouped and strided convolutions, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.stem = nn.Conv2d(CHANNELS, 4, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(4)
        self.pool = nn.MaxPool2d(2)
        self.grouped = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.grouped_norm = nn.BatchNorm2d(4)
        self.strided = nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False)
        self.strided_norm = nn.BatchNorm2d(6)
        self.shortcut = nn.Conv2d(4, 6, 1, stride=2)
        self.average = nn.AdaptiveAvgPool2d(2)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = self.pool(self.relu(self.stem_norm(self.stem(images))))
        branch = self.relu(self.grouped_norm(self.grouped(x)))
        branch = self.strided_norm(self.strided(branch))
        branch += self.shortcut(x)
        return self.head(self.dropout(self.average(self.relu(branch)).flatten(1)))


class ConcatenatingNet(nn.Module):
    """Functional calls: ReLU, pooling, dropout, concatenation; dilated and depthwise convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(CHANNELS, 4, 3, stride=2, padding=1)
        self.stem_norm = nn.BatchNorm2d(4)
        self.dilated_norm = nn.BatchNorm2d(4)
        self.dilated = nn.Conv2d(4, 2, 3, padding=2, dilation=2, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(6, affine=False)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.last_norm = nn.BatchNorm2d(12)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        features = [F.relu(self.stem_norm(self.stem(images)))]
        features.append(self.dilated(F.relu(self.dilated_norm(features[0]))))
        x = torch.cat(features, 1)
        x = torch.cat([x, self.depthwise(F.relu(self.depthwise_norm(x)))], 1)
        x = F.avg_pool2d(F.relu(self.last_norm(x)), 2)
        x = F.dropout(F.adaptive_max_pool2d(x, 1).flatten(1), 0.2, self.training)
        return self.head(x)


def plain_net() -> nn.Sequential:
    """A convolution-ReLU stem with a bias, and no normalisation at all."""
    return nn.Sequential(
        nn.Conv2d(CHANNELS, 4, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.AvgPool2d(2),
        nn.Conv2d(4, 4, (3, 2), padding=(1, 0)),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(48, 6),
        nn.BatchNorm1d(6),
        nn.ReLU(),
        nn.Linear(6, CLASSES),
    )


def patch_net() -> nn.Sequential:
    """A stem without an activation, as in networks that begin with patches."""
    return nn.Sequential(
        nn.Conv2d(CHANNELS, 4, 2, stride=2),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(16, CLASSES),
    )


NETS = {"residual": ResidualNet, "concatenating": ConcatenatingNet, "plain": plain_net, "patches": patch_net}


def make(name: str, generator: torch.Generator, *, training: bool = False) -> nn.Module:
    """One of `NETS` in float64, randomised."""
    return randomise(NETS[name]().double(), generator).train(training)


def make_images(generator: torch.Generator, count: int = 4, size: int = SIZE) -> Tensor:
    """Images in [0.05, 0.95], float64: inside of the box [0, 1]."""
    return 0.05 + 0.9 * torch.rand(count, CHANNELS, size, size, generator=generator, dtype=torch.float64)


@torch.no_grad()
def randomise(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """Draw all parameters and running statistics; variances of weights keep the scale of activations."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            module.num_batches_tracked.zero_()
            if module.affine:
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.2, generator=generator)
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            fan_in = module.weight[0].numel()
            module.weight.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
            if module.bias is not None:
                module.bias.normal_(0, 0.1, generator=generator)
    return model


@torch.no_grad()
def without_biases(model: nn.Module) -> nn.Module:
    """Set biases and running means to zero, so that relevance has nowhere to go but to the images."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if name.endswith(("bias", "running_mean")):
            tensor.zero_()
    return model


def torchvision_net(name: str, generator: torch.Generator, **options: object) -> nn.Module:
    """A torchvision classifier in float64, randomised, in eval mode; 4096-wide heads are narrowed to 32."""
    if name not in WIDE:
        model = torchvision.models.get_model(name, weights=None, num_classes=CLASSES, **options)
        return randomise(model.double(), generator).eval()
    with torch.device("meta"):  # to allocate the wide head costs more than the test
        model = torchvision.models.get_model(name, weights=None, num_classes=CLASSES, **options)
        for index, layer in enumerate(model.classifier):
            if isinstance(layer, nn.Linear):
                sizes = (32 if size == 4096 else size for size in (layer.in_features, layer.out_features))
                model.classifier[index] = nn.Linear(*sizes)
    return randomise(model.double().to_empty(device="cpu"), generator).eval()
