"""The heatmap loss in a loop with Accelerate, which saves and restores the regularizer with the rest."""

from __future__ import annotations

import accelerate_loop
import pytest
import torch
from accelerate.state import AcceleratorState

# squares instead of digits, and few steps: these tests ask nothing of what is learned
pytestmark = pytest.mark.filterwarnings("ignore::zennit_isnet.errors.RelevanceRangeWarning")


@pytest.fixture(scope="module")
def digits():
    labels = torch.arange(200) % 10
    images = torch.zeros(200, 28, 28, dtype=torch.uint8)
    images[:, 8:20, 8:20] = 255
    return images, labels


@pytest.fixture(autouse=True)
def _own_state():
    """Accelerate keeps one state for the process, which one test would hand on to the next."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_the_state_of_the_regularizer_is_saved_and_taken_over(tmp_path, digits):
    folder = tmp_path / "state"
    options = ["--plain-epochs", "1", "--checkpoint", str(folder)]
    accuracies = accelerate_loop.main(["--epochs", "2", *options], digits)
    assert accuracies.keys() == {"biased", "confounding"}
    first = torch.load(folder / "custom_checkpoint_0.pkl", weights_only=True)
    assert first["ranges"][0]["count"] > 1
    accelerate_loop.main(["--epochs", "2", *options], digits)
    second = torch.load(folder / "custom_checkpoint_0.pkl", weights_only=True)
    assert second["ranges"] == first["ranges"], "not measured again"
    assert second["calls"] == 2 * first["calls"]


def test_mixed_precision_is_accelerates(digits, capsys):
    accuracies = accelerate_loop.main(["--epochs", "2", "--plain-epochs", "1", "--precision", "bf16"], digits)
    assert all(0 <= value <= 1 for value in accuracies.values())
    assert "biased" in capsys.readouterr().out
