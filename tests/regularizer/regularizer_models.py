"""Small classifiers, and what of a model a call must leave as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, ResNet

from zennit_isnet import ISNetRegularizer, LRPFlex, Selective
from zennit_isnet.calibration import RelevanceRange

CLASSES = 3


def tiny_net() -> nn.Sequential:
    """Two convolutions with BatchNorm, the first ReLU in place; mean pooling, so any image size will do."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, CLASSES),
    )


class DenseNetLike(nn.Module):
    """Activation before convolution, concatenation, and a functional ReLU, in place, before the head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(8)])
        self.convolutions = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)])
        self.last_norm = nn.BatchNorm2d(12)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            features = torch.cat([features, convolution(F.relu(norm(features)))], dim=1)
        return self.head(F.relu(self.last_norm(features), inplace=True).mean((2, 3)))


class InPlaceFirst(nn.Module):
    """Writes to the tensor that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.net = tiny_net()

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images.sub_(0.5).mul_(2.0))


class Wrapped(nn.Module):
    """A tiny net with an operation of the test's choice between features and head."""

    def __init__(self, operation: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.operation = operation
        self.features = tiny_net()[:6]
        self.head = nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.operation(self.features(images)).mean((2, 3)))


class WithOutput(nn.Module):
    """A tiny net whose logits a function turns into its output."""

    def __init__(self, output: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.net, self.output = tiny_net(), output

    def forward(self, images: Tensor) -> Any:
        return self.output(self.net(images))


class Failing(nn.Module):
    """Lets `successes` batches through, then raises `error`."""

    def __init__(self, error: BaseException, successes: int = 0) -> None:
        super().__init__()
        self.error, self.remaining = error, [successes]

    def forward(self, features: Tensor) -> Tensor:
        self.remaining[0] -= 1
        if self.remaining[0] < 0:
            raise self.error
        return features


def resnet() -> nn.Module:
    """torchvision's, with one block in each stage."""
    return ResNet(BasicBlock, [1, 1, 1, 1], CLASSES)


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "tiny": tiny_net,
    "resnet": resnet,
    "densenet-like": DenseNetLike,
    "in-place first": InPlaceFirst,
}


def with_mixed_modes(model: nn.Module) -> nn.Module:
    """Train mode, but every third module (and a BatchNorm) frozen in eval mode, and one parameter frozen too."""
    model.train()
    for index, module in enumerate(model.modules()):
        if index and (index % 3 == 1 or getattr(module, "num_features", 0) == 8):
            module.training = False
    next(model.parameters()).requires_grad_(False)
    return model


def batch(count: int = 4, size: int = 32) -> tuple[Tensor, Tensor]:
    """Images, and masks with the centre as foreground."""
    masks = torch.zeros(count, 1, size, size)
    masks[..., size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = 1
    return torch.rand(count, 3, size, size), masks


def on_images(model: nn.Module, **parts: Any) -> ISNetRegularizer:
    """A regularizer that draws nothing and explains the images alone, unless told otherwise."""
    relevance = {} if "attribution" in parts else {"composite": LRPFlex(), "layers": ()}
    return ISNetRegularizer(model, **{"formulation": Selective(), **relevance, **parts})


def regularizer_of(model: nn.Module, **parts: Any) -> ISNetRegularizer:
    """The same, with a foreground term that does not drown the rest on an untrained net."""
    regularizer = on_images(model, **parts)
    regularizer.ranges = {"input": RelevanceRange(0.01, 0.25)}
    return regularizer


class ModelState:
    """Everything about a model that somebody could notice, for comparison with a later state."""

    def __init__(self, model: nn.Module) -> None:
        self.facts: dict[str, Any] = {"function modes": torch._C._len_torch_function_stack()}
        for path, module in model.named_modules():
            for name, value in vars(module).items():
                # containers of parameters, buffers, submodules and hooks: which objects they hold, in which order
                held = [(key, id(item)) for key, item in value.items()] if isinstance(value, dict) else None
                self.facts[f"{path}.{name}"] = held or (value if isinstance(value, bool) else id(value))
        for name, parameter in model.named_parameters():
            self.facts[f"{name} requires_grad"] = parameter.requires_grad
            # the version counts in-place changes
            grad = parameter.grad
            self.facts[f"{name} grad"] = None if grad is None else (id(grad), grad._version)
            self.facts[f"{name} tensor hooks"] = list(parameter._backward_hooks or ())
        self.facts["state_dict keys"] = list(model.state_dict())
        self.values = {name: value.clone() for name, value in model.state_dict().items()}

    def differences(self, later: ModelState) -> list[str]:
        """Names of the facts and values that differ."""
        return self.fact_differences(later) + self.value_differences(later.values)

    def fact_differences(self, later: ModelState) -> list[str]:
        """Names of everything but values that differ: objects, modes, hooks, attributes, flags."""
        missing = object()
        names = self.facts.keys() | later.facts.keys()
        return sorted(name for name in names if self.facts.get(name, missing) != later.facts.get(name, missing))

    def value_differences(self, values: dict[str, Tensor]) -> list[str]:
        """Names of the values that differ, or are missing on one side."""
        names = self.values.keys() | values.keys()
        return sorted(
            n for n in names if n not in self.values or n not in values or not torch.equal(self.values[n], values[n])
        )
