"""Any torchvision classifier gets a head for the classes of the data, whatever its weights come from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models
from training.errors import CheckpointError
from training.models import head_parameters, load_weights, make_classifier

from zennit_isnet.errors import InvalidValueError


def published(name: str, path: Path, classes: int = 5) -> nn.Module:
    """Write the weights of a model as others publish them: a state dict."""
    model = models.get_model(name, weights=None, num_classes=classes)
    torch.save(model.state_dict(), path)
    return model


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1"])
def test_head_of_another_size_is_new_and_everything_else_is_kept(tmp_path: Path, name: str):
    source = published(name, tmp_path / "weights.pth")
    made = make_classifier(name, 3, str(tmp_path / "weights.pth"))
    assert not made.trained_head
    heads = head_parameters(name, 3)
    state = made.model.state_dict()
    assert heads
    assert all(torch.equal(value, state[key]) for key, value in source.state_dict().items() if key not in heads)
    assert made.model.eval()(torch.rand(2, 3, 64, 64)).shape == (2, 3)


def test_head_of_the_right_size_is_kept(tmp_path: Path):
    source = published("squeezenet1_1", tmp_path / "weights.pth")
    made = make_classifier("squeezenet1_1", 5, str(tmp_path / "weights.pth"))
    assert made.trained_head
    assert all(torch.equal(value, made.model.state_dict()[key]) for key, value in source.state_dict().items())


@pytest.mark.parametrize(
    ("name", "heads"), [("resnet18", {"fc"}), ("vit_b_16", {"heads.head"}), ("vgg11", {"classifier.6"})]
)
def test_heads_are_found_by_their_shape(name: str, heads: set[str]):
    assert {parameter.rpartition(".")[0] for parameter in head_parameters(name, 7)} == heads


@pytest.mark.slow
def test_auxiliary_heads_are_heads_too():
    assert {key.rpartition(".")[0] for key in head_parameters("googlenet", 7)} == {"fc", "aux1.fc2", "aux2.fc2"}


@pytest.mark.parametrize("classes", [4, 1000])
def test_torchvision_weights_by_name(monkeypatch: pytest.MonkeyPatch, classes: int):
    source = models.squeezenet1_1().state_dict()
    monkeypatch.setattr(models.SqueezeNet1_1_Weights, "get_state_dict", lambda *_, **__: source)
    made = make_classifier("squeezenet1_1", classes, "SqueezeNet1_1_Weights.DEFAULT")
    assert made.trained_head == (classes == 1000)
    assert torch.equal(made.model.features[0].weight, source["features.0.weight"])
    assert made.model.classifier[1].out_channels == classes
    assert made.model.eval()(torch.rand(1, 3, 64, 64)).shape == (1, classes)


def test_unknown_names_come_with_close_matches():
    with pytest.raises(InvalidValueError, match=r"unknown model 'resnet19'; close matches: .*resnet18"):
        make_classifier("resnet19", 3)
    with pytest.raises(InvalidValueError, match=r"unknown weights for resnet18 'ResNet18_Weights.BEST'.*DEFAULT"):
        make_classifier("resnet18", 3, "ResNet18_Weights.BEST")


def test_weights_of_another_model_are_named(tmp_path: Path):
    path = tmp_path / "weights.pth"
    published("squeezenet1_0", path)
    with pytest.raises(CheckpointError, match=r"weights\.pth holds weights of another model than SqueezeNet.*more"):
        make_classifier("squeezenet1_1", 5, str(path))
    with pytest.raises(CheckpointError, match=r"another model than Linear: bias is missing"):
        load_weights(nn.Linear(2, 2), path)


def test_a_file_without_weights_is_named(tmp_path: Path):
    torch.save({"epoch": 3}, tmp_path / "notes.pth")
    with pytest.raises(CheckpointError, match=r"notes\.pth must hold a state dict .*\['epoch'\]"):
        make_classifier("squeezenet1_1", 5, str(tmp_path / "notes.pth"))
