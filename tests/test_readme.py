"""What the README shows runs when it is copied from top to bottom."""

import doctest
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"^```(python|pycon)\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_blocks_run_and_train(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[nn.Module] = []
    before: list[torch.Tensor] = []

    def small_model(weights: str) -> nn.Module:
        """In place of a ResNet-50 with weights, which would be downloaded."""
        assert weights == "DEFAULT"
        made.append(torchvision.models.resnet18(num_classes=1000))
        before.extend(parameter.detach().clone() for parameter in made[0].parameters())
        return made[0]

    monkeypatch.setattr(torchvision.models, "resnet50", small_model)
    names: dict[str, Any] = {}
    for kind, block in BLOCKS:
        if kind == "python":
            exec(block, names)
            continue
        example = doctest.DocTestParser().get_doctest(block, names, "README.md", "README.md", 0)
        doctest.DebugRunner().run(example, clear_globs=False)
        names.update(example.globs)
    assert names["regularizer"].ranges["input"].count == 4
    changed = [not torch.equal(old, new) for old, new in zip(before, made[0].parameters(), strict=True)]
    assert all(changed)
    assert names["relevance"].shape == (2, 3, 64, 64)
    assert names["composite"].propagates == "signal"
