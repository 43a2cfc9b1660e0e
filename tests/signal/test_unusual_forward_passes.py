"""Models that call themselves, differentiate inside their forward pass, or use tensors made before it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zennit.attribution import Gradient

from zennit_isnet import LRPAttribution, LRPFlex, Target, ZPlus, check
from zennit_isnet.errors import UncoveredOperationError, UnsupportedModelError


class Net(nn.Module):
    """Features, and logits of features; no biases behind the first layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.mixed = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.ReLU())
        self.head = nn.Linear(8, 3, bias=False)
        self.double()

    def logits(self, features: Tensor) -> Tensor:
        return self.head(self.mixed(features).mean((2, 3)))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(self.features(images))


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def relevance_of(model: nn.Module, images: Tensor) -> Tensor:
    return LRPAttribution()(model, images, Target(1))[1]["input"]


class Bypassing(Net):
    """Runs none of its hooks, so that nothing sees its forward pass."""

    def __call__(self, images: Tensor) -> Tensor:
        return self.forward(images)


REPLACED = r"ran without its hooks.*replaces nn\.Module\.__call__"


@pytest.mark.parametrize("composite", [LRPFlex(), ZPlus()], ids=["signal", "relevance"])
def test_a_class_that_replaces_call_is_refused(composite, images):
    with pytest.raises(UnsupportedModelError, match=REPLACED):
        LRPAttribution(composite)(Bypassing(), images, Target(1))
    attributor = Gradient(model := Bypassing(), composite, attr_output=composite.seed(Target(1)))
    with pytest.raises(UnsupportedModelError, match=REPLACED), attributor:
        attributor(images)
    assert not model._forward_hooks


def test_the_report_of_a_class_that_replaces_call_says_so(images):
    report = check(Bypassing(), images)
    assert not report.ok
    assert "__call__" in str(report)


class Crops(Net):
    """Adds the logits of a crop."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images[..., 2:6, 2:6]) + super().forward(images)


class CallsItself(Net):
    def forward(self, images: Tensor | None = None, crop: Tensor | None = None) -> Tensor:
        return super().forward(crop) if images is None else self(crop=images[..., 2:6, 2:6]) + super().forward(images)


class CallsItselfByPosition(Net):
    def forward(self, images: Tensor, inner: bool = False) -> Tensor:
        whole = super().forward(images)
        return whole if inner else self(images[..., 2:6, 2:6], True) + whole


@pytest.mark.parametrize("model", [CallsItself, CallsItselfByPosition])
def test_a_model_may_call_itself(model, images):
    torch.testing.assert_close(relevance_of(model(), images), relevance_of(Crops(), images), rtol=1e-9, atol=1e-12)


class MutesWhatMattersMost(Net):
    """As in representation self-challenging: features with the largest gradient are set to zero."""

    def forward(self, images: Tensor) -> Tensor:
        features = self.features(images)
        logits = self.logits(features)
        (gradient,) = torch.autograd.grad(logits, features, torch.ones_like(logits), retain_graph=True)
        return self.logits(features * (gradient < gradient.flatten(1).quantile(0.6, 1).view(-1, 1, 1, 1)))


@pytest.mark.parametrize("composite", [LRPFlex(epsilon=1.0), ZPlus()], ids=["signal", "relevance"])
def test_a_gradient_inside_the_forward_pass_is_the_ordinary_one(composite, images):
    model = MutesWhatMattersMost()
    logits, relevance = LRPAttribution(composite)(model, images, Target(1))
    torch.testing.assert_close(logits, model(images), rtol=1e-12, atol=0)
    assert relevance["input"].any()


class Embeds(Net):
    """Compares the image with class embeddings that are made once a step, before the call."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.words = nn.Linear(5, 8).double(), torch.ones(3, 5, dtype=torch.float64)

    def embed(self) -> None:
        self.embeddings = self.text(self.words)

    def logits(self, features: Tensor) -> Tensor:
        return F.linear(self.mixed(features).mean((2, 3)), self.embeddings)


def test_tensors_made_before_the_call_are_weights_like_any_other(images):
    model = Embeds()
    model.embed()
    found = relevance_of(model, images)
    found.square().sum().backward()
    assert model.text.weight.grad.any()
    model.embeddings = model.embeddings.detach()
    torch.testing.assert_close(found, relevance_of(model, images), rtol=1e-12, atol=0)


def test_what_was_computed_from_the_images_before_the_call_is_no_weight(images):
    model = Embeds()
    images.requires_grad_()
    model.embeddings = images.mean((2, 3)).sum() * model.text(model.words)
    with LRPFlex().context(model), pytest.raises(UncoveredOperationError, match="unknown origin"):
        model(images)


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_rms_norm_has_its_default_shift_in_half_precision(scale):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.RMSNorm(192), nn.Linear(192, 3, bias=False)).bfloat16()
    images = (scale * torch.randn(8, 3, 8, 8)).bfloat16()
    logits, relevance = LRPAttribution(LRPFlex(epsilon=0))(model, images, Target(1))
    found, expected = relevance["input"].float().sum((1, 2, 3, 4)), logits[:, 1].float()
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)
