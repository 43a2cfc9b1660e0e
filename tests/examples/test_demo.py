"""The demo runs end to end on real digits, writes what it says, and refuses what it cannot do."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from zennit_isnet.data import load_digits

EXAMPLES = Path(__file__).parents[2] / "examples"


FEW = ("--batch-size", "16", "--epochs", "1", "--plain-epochs", "1")


def small_net(name: str, weights: None, num_classes: int) -> nn.Module:
    """In place of torchvision's classifiers: these tests ask nothing of what is learned."""
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16)]
    return nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes))


@pytest.fixture(scope="module")
def demo() -> Iterator[ModuleType]:
    """The example as a module, on a small part of the digits."""
    images, labels = load_digits()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        import background_bias

        patch.setattr(background_bias, "load_digits", lambda: (images[::50], labels[::50]))
        patch.setattr(torchvision.models, "get_model", small_net)
        yield background_bias
    for name in ("background_bias", "bias_training"):
        sys.modules.pop(name, None)


Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def run(demo: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run it on textures, with more options."""

    def run(*options: str) -> dict[str, Any]:
        shared = ["--bias", "texture", "--seed", "3", "--images-only", "--output", str(tmp_path_factory.mktemp("run"))]
        return demo.main([*FEW, *shared, *options])

    return run


@pytest.fixture(scope="module")
def results(run: Run) -> dict[str, Any]:
    return run()


def test_writes_table_figures_picture_and_weights(demo: ModuleType, tmp_path: Path) -> None:
    results = demo.main([*FEW, "--formulation", "all", "--output", str(tmp_path)])
    rows = ["plain", "ISNet stochastic", "ISNet selective", "ISNet dual", "ceiling"]
    assert list(results) == rows
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert list(figures["results"]) == rows
    assert figures["options"]["formulation"] == "all"
    for result in figures["results"].values():
        assert set(result["accuracy"]) == {"biased", "unbiased", "confounding", "none"}
        assert all(0 <= share <= 1 for share in [*result["accuracy"].values(), result["background_share"]])
        assert result["chosen_epoch"] == 1
    table = (tmp_path / "table.md").read_text()
    assert all(f"| {name} " in table for name in rows)
    assert (tmp_path / "heatmaps.png").read_bytes().startswith(b"\x89PNG")
    bias_training = sys.modules["bias_training"]
    model = bias_training.make_model("resnet18")
    data = demo.BackgroundBias(split="test", background="confounding", source=demo.load_digits())
    for row in rows:
        model.load_state_dict(torch.load(tmp_path / f"{row.replace(' ', '_')}.pth", weights_only=True))
        assert bias_training.accuracy(model, data) == results[row].accuracy["confounding"]


@pytest.mark.slow
def test_with_swap_isnet_stands_beside_cross_entropy_on_swapped_images(run: Run, results: dict[str, Any]) -> None:
    swapped = run("--swap", "1")
    assert list(swapped) == ["plain", "swap", "ISNet stochastic", "ceiling"]
    assert swapped["plain"].history == results["plain"].history
    assert swapped["ISNet stochastic"].history != results["ISNet stochastic"].history


def test_same_seed_same_result(run: Run, results: dict[str, Any]) -> None:
    assert {name: result.history for name, result in run().items()} == {
        name: result.history for name, result in results.items()
    }
    assert torch.isfinite(torch.tensor([result.background_share for result in results.values()])).all()


def test_unknown_model_is_named_with_close_matches(demo: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"unknown model 'resnet19'; close matches: .*resnet18"):
        demo.main(["--model", "resnet19"])


@pytest.mark.parametrize(
    "options",
    [["--epochs", "0"], ["--weight", "1.5"], ["--swap", "-1"], ["--formulation", "random"], ["--bias", "colour"]],
)
def test_bad_options_end_with_a_usage_message(
    demo: ModuleType, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        demo.main(options)
    assert options[0] in capsys.readouterr().err
