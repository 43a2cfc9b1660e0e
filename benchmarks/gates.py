"""How rough the penalty's gradient is for each kind of gate, on an untrained ResNet-18.

Two figures, each a cosine between gradients over all parameters: before and after each weight changes by up to 2⁻⁸ of
its value, the rounding of bfloat16; and in bfloat16 autocast against float32. 1 is smooth.

    python benchmarks/gates.py
"""

from __future__ import annotations

import copy
import statistics
import warnings
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor, nn

from zennit_isnet import ISNetRegularizer, LRPFlex, Selective

GATES: dict[str, Callable[[], LRPFlex]] = {
    "ε = 0 (exact)": lambda: LRPFlex(epsilon=0),
    "ε = 0.01": lambda: LRPFlex(epsilon=1e-2),
    "ε = 0.1 of the activations": lambda: LRPFlex(epsilon_ratio=0.1),
    "ε = 0.3 of the activations": lambda: LRPFlex(epsilon_ratio=0.3),
    "ε = 1 of the activations": lambda: LRPFlex(epsilon_ratio=1.0),
    "ε = 3 of the activations": lambda: LRPFlex(epsilon_ratio=3.0),
}
STEP = 2.0**-8


def gradient(
    model: nn.Module, composite: LRPFlex, layers: tuple[str, ...] | str, batch: tuple[Tensor, Tensor], autocast: bool
) -> Tensor:
    """Return the penalty's gradient over all parameters as one vector."""
    model = copy.deepcopy(model).train()
    regularizer = ISNetRegularizer(model, composite=composite, formulation=Selective(), layers=layers)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        _, penalty = regularizer(*batch)
    found = torch.autograd.grad(penalty, list(model.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in found]).float()


def moved(model: nn.Module) -> nn.Module:
    """Return the model with each weight changed by up to `STEP` of its value."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + STEP * (2 * torch.rand_like(parameter) - 1))
    return model


def main() -> None:
    """Print the table: medians over three seeds."""
    # an untrained network has no meaningful range, and the background term alone does not need one
    warnings.simplefilter("ignore")
    print("| gates | layers | after moving the weights by 2⁻⁸ | bfloat16 against float32 |")
    print("| --- | --- | ---: | ---: |")
    for layers in ((), "auto"):
        for name, make in GATES.items():
            figures = []
            for seed in range(3):
                torch.manual_seed(seed)
                model = torchvision.models.resnet18(num_classes=10)
                masks = torch.zeros(8, 1, 64, 64)
                masks[..., 16:48, 16:48] = 1
                batch = torch.rand(8, 3, 64, 64), masks
                before = gradient(model, make(), layers, batch, False)
                others = (
                    gradient(moved(model), make(), layers, batch, False),
                    gradient(model, make(), layers, batch, True),
                )
                figures.append([torch.cosine_similarity(before, other, dim=0).item() for other in others])
            medians = [statistics.median(column) for column in zip(*figures, strict=True)]
            print(f"| {name} | {layers or 'input'} | {medians[0]:.2f} | {medians[1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
