"""What the README shows runs as it stands."""

import doctest
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

README = Path(__file__).parents[1] / "README.md"


def only_block(kind: str) -> str:
    (block,) = re.findall(rf"```{kind}\n(.*?)```", README.read_text(), flags=re.DOTALL)
    return str(block)


def test_the_training_loop_of_the_readme_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = only_block("python")
    made: list[nn.Module] = []

    def small_model(weights: str) -> nn.Module:
        assert weights == "DEFAULT"
        made.append(torchvision.models.resnet18(num_classes=3))
        return made[0]

    monkeypatch.setattr(torchvision.models, "resnet50", small_model)
    images, masks = torch.rand(8, 3, 32, 32), torch.zeros(8, 1, 32, 32)
    masks[:, :, 8:24, 8:24] = 1
    names: dict[str, Any] = {
        "loader": [(images[:4], masks[:4], torch.tensor([0, 1, 2, 0])), (images[4:], masks[4:], torch.tensor([1] * 4))],
        "criterion": nn.CrossEntropyLoss(),
    }
    first, second = loop.split("for images, masks, labels in loader:", 1)
    exec(first, names)
    before = [parameter.detach().clone() for parameter in made[0].parameters()]
    names["optimizer"] = torch.optim.SGD(made[0].parameters(), lr=1e-3)
    exec("for images, masks, labels in loader:" + second, names)
    assert names["regularizer"].ranges["input"].count == 8
    assert all(not torch.equal(old, new) for old, new in zip(before, made[0].parameters(), strict=True))


def test_the_console_in_zennit_runs() -> None:
    names = {
        "torch": torch,
        "model": torchvision.models.resnet18(num_classes=1000),
        "images": torch.rand(2, 3, 32, 32),
        "labels": torch.tensor([3, 999]),
    }
    example = doctest.DocTestParser().get_doctest(only_block("pycon"), names, "README.md", "README.md", 0)
    doctest.DebugRunner().run(example, clear_globs=False)
    assert example.globs["relevance"].shape == (2, 3, 32, 32)
    assert example.globs["composite"].propagates == "signal"
