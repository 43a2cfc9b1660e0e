"""Without the packages of the extra, the command says how to get them."""

import sys

import pytest

from zennit_isnet.command import main


@pytest.mark.parametrize("absent", ["lightning", "jsonargparse"])
def test_the_extra_is_named(absent: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, absent, None)
    assert main(["train", "--help"]) == 2
    assert 'pip install "zennit-isnet[train]"' in capsys.readouterr().err
