"""The heatmap loss in Lightning: the checkpoint has the classifier alone, and both ways of optimization agree."""

from __future__ import annotations

import lightning_module
import pytest
import torch

pytestmark = [
    # what Lightning says about small data, about itself and about PyTorch
    pytest.mark.filterwarnings("ignore:The '\\w+' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step`"),
]


@pytest.fixture(scope="module")
def digits():
    """Squares in place of digits: these tests ask nothing of what is learned."""
    labels = torch.arange(200) % 10
    images = torch.zeros(200, 28, 28, dtype=torch.uint8)
    images[:, 8:20, 8:20] = 255
    return images, labels


@pytest.fixture
def run(tmp_path, digits):
    """Train for two epochs, one of them plain; return the accuracies and the checkpoint."""

    def run(*arguments):
        quiet = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
        folder = tmp_path / "-".join(("run", *arguments))
        epochs = ["--epochs", "2", "--plain-epochs", "1", "--output", str(folder)]
        accuracies = lightning_module.main([*epochs, *arguments], digits, **quiet)
        (path,) = folder.glob("checkpoints/*.ckpt")
        return accuracies, path

    return run


def test_the_checkpoint_has_the_classifier_and_beside_it_what_the_regularizer_keeps(run):
    accuracies, path = run()
    assert accuracies.keys() == {"biased", "confounding"}
    checkpoint = torch.load(path, weights_only=True)
    restored = lightning_module.ISNetClassifier.load_from_checkpoint(path)
    assert {f"model.{name}" for name in restored.model.state_dict()} == checkpoint["state_dict"].keys()
    measured = restored.regularizer.ranges["input"]
    assert measured.count > 1
    assert measured.c1 == checkpoint["regularizer"]["ranges"][0]["c1"]
    assert restored.regularizer.schedule.calls == 2, "two batches with a penalty"


def test_manual_optimization_takes_the_same_steps(run):
    weights = [torch.load(run(*arguments)[1], weights_only=True)["state_dict"] for arguments in ((), ("--manual",))]
    torch.testing.assert_close(*weights)


def test_mixed_precision_is_lightnings(run):
    _, path = run("--precision", "bf16-mixed")
    weights = torch.load(path, weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in weights.values())
    assert weights["model.0.weight"].dtype == torch.float32
