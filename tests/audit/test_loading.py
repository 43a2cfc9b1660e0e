"""Models by name: torchvision's with weights from a file, and those that a function makes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torchvision.models import squeezenet1_1

from zennit_isnet.audit.loading import load_model
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
    loaded = load_model("squeezenet1_1", 3, tmp_path / "weights.pt").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


def test_names_that_only_look_wrapped_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.ModuleDict({"model": torch.nn.Linear(2, 3)})
    monkeypatch.setattr("pkgutil.resolve_name", lambda _: lambda: model)
    torch.save({"model.weight": torch.ones(3, 2), "model.bias": torch.zeros(3)}, tmp_path / "weights.pt")
    load_model("any:make", 3, tmp_path / "weights.pt")
    assert bool((model["model"].weight == 1).all())


def test_function_of_a_module_in_the_current_folder_makes_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_models.py").write_text("import torch\nmake = lambda: torch.nn.Linear(2, 3)\nnumber = lambda: 3\n")
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    try:
        assert load_model("my_models:make", 3).out_features == 3
        with pytest.raises(InvalidTypeError, match=r"must return a torch.nn.Module; got int"):
            load_model("my_models:number", 3)
        with pytest.raises(InvalidValueError, match="'my_models:missing' cannot be imported"):
            load_model("my_models:missing", 3)
    finally:
        sys.modules.pop("my_models", None)
    assert sys.path == path


def test_refuses_unknown_names_and_random_weights() -> None:
    with pytest.raises(InvalidValueError, match=r"got 'resnet19'; close matches: resnet18"):
        load_model("resnet19", 3)
    with pytest.raises(InvalidValueError, match="resnet18 needs a checkpoint"):
        load_model("resnet18", 3)
    with pytest.raises(InvalidValueError, match="cannot be imported"):
        load_model("no_such_module:make", 3)


def test_refuses_files_that_are_no_weights_of_the_model(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    refused = [
        (lambda: None, "cannot be read"),
        (lambda: file.write_bytes(b"damaged"), "cannot be read"),
        (lambda: torch.save({f"{i}.weight": torch.ones(3) for i in range(500)}, file), "weights of another model"),
        (lambda: torch.save(torch.ones(3), file), "must hold a state dict; got Tensor"),
        (
            lambda: torch.save(squeezenet1_1(num_classes=4).state_dict(), file),
            "weights of another model, or number of classes: size mismatch",
        ),
        (
            lambda: torch.save(squeezenet1_1(num_classes=3), file),
            r"cannot be read .*model.state_dict\(\)",
        ),  # would run code
    ]
    for write, message in refused:
        write()
        with pytest.raises(InvalidValueError, match=f"weights.pt .*{message}|weights.pt {message}") as refusal:
            load_model("squeezenet1_1", 3, file)
        assert len(str(refusal.value)) < 1000
