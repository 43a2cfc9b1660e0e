"""Classifiers by name, with heads and channels of the data, and weights from a file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torchvision
from torchvision.models import squeezenet1_1

from zennit_isnet.architectures import make_model
from zennit_isnet.errors import InvalidTypeError, InvalidValueError


@pytest.mark.parametrize("form", ["plain", "model", "state_dict", "parallel", "compiled", "lightning"])
def test_weights_come_from_all_forms_of_checkpoints(tmp_path: Path, form: str) -> None:
    state = squeezenet1_1(num_classes=3).state_dict()

    def prefixed(prefix: str) -> dict:
        return {f"{prefix}{name}": value for name, value in state.items()}

    forms = {"plain": state, "model": {"model": state}, "state_dict": {"state_dict": state}}
    forms["parallel"] = {"model": prefixed("module."), "epoch": 3}
    forms["compiled"] = prefixed("module._orig_mod.")
    forms["lightning"] = {"state_dict": prefixed("model."), "epoch": 3}
    torch.save(forms[form], tmp_path / "weights.pt")
    loaded = make_model("squeezenet1_1", 3, str(tmp_path / "weights.pt")).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


def test_names_that_only_look_wrapped_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.ModuleDict({"model": torch.nn.Linear(2, 3)})
    monkeypatch.setattr("pkgutil.resolve_name", lambda _: lambda: model)
    torch.save({"model.weight": torch.ones(3, 2), "model.bias": torch.zeros(3)}, tmp_path / "weights.pt")
    make_model("any:make", 3, str(tmp_path / "weights.pt"))
    assert bool((model["model"].weight == 1).all())


def test_function_of_a_module_in_the_current_folder_makes_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_models.py").write_text("import torch\nmake = lambda: torch.nn.Linear(2, 3)\nnumber = lambda: 3\n")
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    try:
        assert make_model("my_models:make", 3).out_features == 3
        with pytest.raises(InvalidTypeError, match=r"must return a torch.nn.Module; got int"):
            make_model("my_models:number", 3)
        with pytest.raises(InvalidValueError, match="'my_models:missing' cannot be imported"):
            make_model("my_models:missing", 3)
        with pytest.raises(InvalidValueError, match="cannot be imported"):
            make_model("no_such_module:make", 3)
    finally:
        sys.modules.pop("my_models", None)
    assert sys.path == path


def test_what_cannot_be_called_for_a_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["import torch", "net = torch.nn.Linear(2, 3)", "size = 3", "make = lambda depth, num_classes: net"]
    (tmp_path / "no_makers.py").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    try:
        for name, kind in (("net", "Linear"), ("size", "int")):
            with pytest.raises(InvalidTypeError, match=rf"must be a function that returns a .*Module; got {kind}"):
                make_model(f"no_makers:{name}", 3)
        with pytest.raises(InvalidTypeError, match=r"give the others defaults; got make\(depth, .*argument: 'depth'"):
            make_model("no_makers:make", 3)
    finally:
        sys.modules.pop("no_makers", None)


def test_refuses_files_that_are_no_weights_of_the_model(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    refused = [
        (lambda: None, "cannot be read"),
        (lambda: file.write_bytes(b"damaged"), "cannot be read"),
        (lambda: torch.save({f"{i}.weight": torch.ones(3) for i in range(500)}, file), "weights of another model"),
        (lambda: torch.save(torch.ones(3), file), "must hold a state dict; got Tensor"),
        (
            lambda: torch.save(squeezenet1_1(num_classes=4).state_dict(), file),
            "weights of another model or for another number of classes: size mismatch",
        ),
        (
            lambda: torch.save(squeezenet1_1(num_classes=3), file),
            r"cannot be read .*model.state_dict\(\)",
        ),  # would run code
    ]
    for write, message in refused:
        write()
        with pytest.raises(InvalidValueError, match=f"weights.pt .*{message}|weights.pt {message}") as refusal:
            make_model("squeezenet1_1", 3, str(file))
        assert len(str(refusal.value)) < 1000


def test_the_head_fits_the_classes_and_the_rest_of_the_weights_is_kept(monkeypatch):
    pretrained = torchvision.models.squeezenet1_1()
    get_model = torchvision.models.get_model

    def without_download(name, weights, **options):
        return get_model(name, weights=None, **options) if weights is None else pretrained

    monkeypatch.setattr(torchvision.models, "get_model", without_download)
    model = make_model("squeezenet1_1", 3, "DEFAULT")
    assert model.eval()(torch.rand(1, 3, 64, 64)).shape == (1, 3)
    assert model.features[0] is pretrained.features[0]


def test_grey_images_get_the_answer_of_three_equal_channels():
    torch.manual_seed(0)
    coloured = make_model("squeezenet1_1", 3).eval()
    torch.manual_seed(0)
    grey = make_model("squeezenet1_1", 3, channels=1).eval()
    images = torch.rand(2, 1, 64, 64)
    torch.testing.assert_close(grey(images), coloured(images.expand(-1, 3, -1, -1)))


def test_a_function_makes_the_model_and_a_file_has_its_weights(tmp_path, monkeypatch):
    (tmp_path / "linear_nets.py").write_text(
        "import torch\n\ndef net(num_classes):\n    return torch.nn.Linear(2, num_classes)\n"
    )
    torch.save(torch.nn.Linear(2, 3).state_dict(), tmp_path / "net.pt")
    monkeypatch.chdir(tmp_path)
    model = make_model("linear_nets:net", 3, "net.pt")
    assert torch.equal(model.weight, torch.load(tmp_path / "net.pt")["weight"])


@pytest.mark.parametrize(
    ("name", "weights", "says"),
    [
        ("resnet19", None, r"torchvision classifier, timm:name or module:function; got 'resnet19'; close .*resnet18"),
        ("resnet18", "IMAGENET1K_V9", "a file or one of resnet18's; got 'IMAGENET1K_V9'; close .*IMAGENET1K_V1"),
        ("torch.nn:Linear", "DEFAULT", "makes its own weights"),
    ],
)
def test_unknown_names_are_refused_with_close_matches(name, weights, says):
    with pytest.raises(InvalidValueError, match=says):
        make_model(name, 3, weights)
