"""A residual network small enough to train many times on one CPU core."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock


class NarrowResNet(nn.Module):
    """ResNet with one basic block per width; every stage but the first halves the resolution.

    The stem quarters it, as a ResNet's first convolution and pooling do together, so 32-pixel images give maps of 8, 4
    and 2 pixels. Large maps dominate the cost of a step, and digits do not need them.

    Parameters
    ----------
    widths : sequence of int, default=(16, 32, 64)
        Channels of the stages.
    num_classes : int, default=10
    """

    def __init__(self, widths: Sequence[int] = (16, 32, 64), num_classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 5, stride=4, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        self.stages = nn.Sequential(
            *(stage(before, after) for before, after in zip((widths[0], *widths), widths, strict=False))
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(N, num_classes)`` of images ``(N, 3, H, W)``."""
        logits: Tensor = self.head(self.pool(self.stages(self.stem(images))).flatten(1))
        return logits


def stage(before: int, after: int) -> nn.Module:
    """Return one block, with stride 2 where the number of channels changes."""
    if before == after:
        return BasicBlock(before, after)
    shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride=2, bias=False), nn.BatchNorm2d(after))
    return BasicBlock(before, after, stride=2, downsample=shortcut)
