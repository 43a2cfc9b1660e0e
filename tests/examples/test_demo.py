"""The demo runs end to end on real digits, writes what it says, and refuses what it cannot do."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from zennit_isnet.data import load_digits

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    """A small part of the digits."""
    images, labels = load_digits()
    return images[::25], labels[::25]


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch, digits: tuple[Tensor, Tensor]) -> Iterator[ModuleType]:
    """The example as a module, on a small part of the digits."""
    monkeypatch.syspath_prepend(EXAMPLES)
    names = ("background_bias", "bias_training")
    import background_bias

    monkeypatch.setattr(background_bias, "load_digits", lambda: digits)
    yield background_bias
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("formulation", "layers"), [("stochastic", []), ("dual", []), ("selective", ["--images-only"])]
)
def test_writes_table_figures_picture_and_weights(
    demo: ModuleType, tmp_path: Path, formulation: str, layers: list[str]
) -> None:
    options = ["--epochs", "1", "--plain-epochs", "1", "--output", str(tmp_path), "--formulation", formulation, *layers]
    results = demo.main(options)
    rows = ["plain", f"ISNet {formulation}", "ceiling"]
    assert list(results) == rows
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert list(figures["results"]) == rows
    assert figures["options"]["formulation"] == formulation
    for result in figures["results"].values():
        assert set(result["accuracy"]) == {"biased", "unbiased", "confounding", "none"}
        assert all(0 <= share <= 1 for share in [*result["accuracy"].values(), result["background_share"]])
        assert result["chosen_epoch"] == 1
    table = (tmp_path / "table.md").read_text()
    assert all(f"| {name} " in table for name in rows)
    assert (tmp_path / "heatmaps.png").read_bytes().startswith(b"\x89PNG")
    bias_training = sys.modules["bias_training"]
    model = bias_training.make_model("resnet18")
    model.load_state_dict(torch.load(tmp_path / f"ISNet_{formulation}.pth", weights_only=True))
    data = demo.BackgroundBias(split="test", background="confounding", source=demo.load_digits())
    assert bias_training.accuracy(model, data) == results[rows[1]].accuracy["confounding"]


def test_with_swap_isnet_stands_beside_cross_entropy_on_swapped_images(demo: ModuleType, tmp_path: Path) -> None:
    few = ["--epochs", "1", "--plain-epochs", "1", "--output", str(tmp_path)]
    swapped, without = demo.main([*few, "--swap", "1"]), demo.main(few)
    assert list(swapped) == ["plain", "swap", "ISNet stochastic", "ceiling"]
    assert swapped["plain"].history == without["plain"].history
    assert swapped["ISNet stochastic"].history != without["ISNet stochastic"].history


def test_same_seed_same_result(demo: ModuleType, tmp_path: Path) -> None:
    options = ["--epochs", "1", "--plain-epochs", "1", "--output", str(tmp_path), "--bias", "texture", "--seed", "3"]
    first, second = demo.main(options), demo.main(options)
    assert {name: result.accuracy for name, result in first.items()} == {
        name: result.accuracy for name, result in second.items()
    }
    assert torch.isfinite(torch.tensor([result.background_share for result in first.values()])).all()


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
