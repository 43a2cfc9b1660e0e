"""The command answers without PyTorch, and says which extra a subcommand needs."""

import subprocess
import sys

import pytest

from zennit_isnet_command import main

ASKED = """
import sys
from zennit_isnet_command import main
try:
    main([sys.argv[1]])
finally:
    assert "torch" not in sys.modules
"""


@pytest.mark.parametrize(("asked", "answer"), [("--help", "check-data"), ("--version", "zennit-isnet ")])
def test_help_and_version_do_not_wait_for_pytorch(asked: str, answer: str) -> None:
    done = subprocess.run([sys.executable, "-c", ASKED, asked], capture_output=True, text=True, check=True)
    assert answer in done.stdout


@pytest.mark.parametrize("absent", ["lightning", "jsonargparse"])
def test_the_extra_is_named(absent: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, absent, None)
    assert main(["train", "--help"]) == 2
    assert 'pip install "zennit-isnet[train]"' in capsys.readouterr().err
