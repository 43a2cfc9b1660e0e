"""The example of an audit trains, or loads what it has trained, and writes the report."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> Iterator[ModuleType]:
    """The example as a module, on a few pictures of noise."""
    digits = torch.randint(0, 256, (200, 28, 28), dtype=torch.uint8, generator=generator), torch.arange(10).repeat(20)
    monkeypatch.syspath_prepend(EXAMPLES)
    import audit

    monkeypatch.setattr(audit, "load_digits", lambda: digits)
    yield audit
    for name in ("audit", "bias_training"):
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_trains_saves_and_audits_again_with_the_same_result(example: ModuleType, tmp_path: Path) -> None:
    shared = ["--model", "squeezenet1_1", "--batch-size", "70", "--output", str(tmp_path)]
    first = example.main([*shared, "--plain-epochs", "1"])
    assert len(first.images) == 40
    for name in ("report.html", "report.md", "report.json"):
        assert first.verdict.outcome in (tmp_path / name).read_text(encoding="utf-8")
    again = example.main([*shared, "--checkpoint", str(tmp_path / "model.pth")])
    assert again.images == first.images


def test_bad_options_end_with_a_usage_message(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        example.main(["--plain-epochs", "0"])
    assert "--plain-epochs" in capsys.readouterr().err
