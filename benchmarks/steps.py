"""The training steps to compare: each runs forward pass, loss, backward pass and update on the same batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from zennit_isnet import ISNetRegularizer, LRPFlex, Original, Selective, ZPlus
from zennit_isnet.formulations import AllLogits

WEIGHT = 0.7
"""P: weight of the penalty in ``(1 − P)·cross-entropy + P·penalty``."""

RATE = 0.0
"""Learning rate: the update runs, but all rounds measure the same weights. Training on noise can diverge, and very
small numbers make steps slow."""


@dataclass(frozen=True)
class Case:
    """One model on one batch size, image size, number of classes, precision and layout of memory."""

    model: str
    batch: int
    size: int
    classes: int = 10
    bf16: bool = False
    channels_last: bool = False

    def __str__(self) -> str:
        ways = f"{', bf16' * self.bf16}{', channels_last' * self.channels_last}"
        return f"{self.model}, batch {self.batch}, {self.size}², {self.classes} classes{ways}"


def regularized(make: Callable[[nn.Module], ISNetRegularizer]) -> Callable[..., Callable[[], None]]:
    """Step with the penalty of a regularizer, loss included."""

    def build(model: nn.Module, images: Tensor, masks: Tensor, labels: Tensor, precision: Any) -> Callable[[], None]:
        regularizer, optimizer = make(model), torch.optim.SGD(model.parameters(), lr=RATE)

        def step() -> None:
            optimizer.zero_grad()
            with precision():
                logits, penalty = regularizer(images, masks)
                loss = (1 - WEIGHT) * F.cross_entropy(logits, labels) + WEIGHT * penalty
            loss.backward()
            optimizer.step()

        return step

    return build


def plain(model: nn.Module, images: Tensor, masks: Tensor, labels: Tensor, precision: Any) -> Callable[[], None]:
    """Cross-entropy alone."""
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)

    def step() -> None:
        optimizer.zero_grad()
        with precision():
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    return step


def rrr(model: nn.Module, images: Tensor, masks: Tensor, labels: Tensor, precision: Any) -> Callable[[], None]:
    """Right for the Right Reasons (Ross et al. 2017): squared input gradient of Σ log p on the background."""
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)

    def step() -> None:
        optimizer.zero_grad()
        source = images.detach().requires_grad_()
        with precision():
            logits = model(source)
            (gradient,) = torch.autograd.grad(logits.log_softmax(1).sum(), source, create_graph=True)
            penalty = (gradient * (1 - masks)).square().flatten(1).sum(1).mean()
            loss = (1 - WEIGHT) * F.cross_entropy(logits, labels) + WEIGHT * penalty
        loss.backward()
        optimizer.step()

    return step


VARIANTS: dict[str, Callable[..., Callable[[], None]]] = {
    "plain": plain,
    "RRR": rrr,
    "Selective": regularized(lambda m: ISNetRegularizer(m, formulation=Selective(), layers=())),
    "Selective, ε = 0.01": regularized(
        lambda m: ISNetRegularizer(m, composite=LRPFlex(epsilon=1e-2), formulation=Selective(), layers=())
    ),
    "Selective, z^B": regularized(
        lambda m: ISNetRegularizer(m, composite=LRPFlex(box=(0.0, 1.0)), formulation=Selective(), layers=())
    ),
    "Stochastic": regularized(lambda m: ISNetRegularizer(m, layers=())),
    "Original": regularized(lambda m: ISNetRegularizer(m, formulation=Original(), layers=())),
    "Dual": regularized(
        lambda m: ISNetRegularizer(
            m, composite=(LRPFlex(reference="darkest"), ZPlus()), formulation=AllLogits(), layers=()
        )
    ),
    "defaults": regularized(ISNetRegularizer),
    "defaults, every=4": regularized(lambda m: ISNetRegularizer(m, every=4)),
}

PERIODS = {"defaults, every=4": 4}
"""Steps per measurement of a variant, if more than one; as many plain steps are measured together."""


def network(name: str, classes: int) -> nn.Module:
    """Return an untrained classifier of torchvision, or EfficientNet-Lite0."""
    if name != "efficientnet_lite0":
        model: nn.Module = torchvision.models.get_model(name, num_classes=classes)
        for parameter in model.parameters():
            if parameter.ndim > 1 and not parameter.any():
                nn.init.normal_(parameter, std=0.02)  # ViT's new head, which would have no relevance
        return model
    from efficientnet_lite_pytorch import EfficientNet

    lite: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    lite._fc = nn.Linear(lite._fc.in_features, classes)
    return lite


def build(case: Case, names: list[str], device: torch.device) -> dict[str, Callable[[], None]]:
    """Return the steps of a case; all train the same model."""
    torch.manual_seed(0)
    layout = torch.channels_last if case.channels_last else torch.contiguous_format
    model = network(case.model, case.classes).to(device, memory_format=layout).train()
    images = torch.rand(case.batch, 3, case.size, case.size, device=device).to(memory_format=layout)
    masks = torch.zeros(case.batch, 1, case.size, case.size, device=device)
    quarter = case.size // 4
    masks[..., quarter:-quarter, quarter:-quarter] = 1
    labels = torch.randint(case.classes, (case.batch,), device=device)

    def precision() -> Any:
        return torch.autocast(device.type, torch.bfloat16) if case.bf16 else contextlib.nullcontext()

    return {name: VARIANTS[name](model, images, masks, labels, precision) for name in names}
