"""The Python that a page shows runs when it is copied from top to bottom; nothing is hidden from the reader."""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import socket
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
import torchvision
from torch import Tensor, distributed, multiprocessing

import zennit_isnet.data

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / "README.md", ROOT / "CONTRIBUTING.md"),
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in page.parts),
]
SLOW = {"docs/how-to/lightning.md", "docs/how-to/video.md"}  # a second training framework; convolutions in 3D
SNIPPET = re.compile(
    r"^(?P<indent> *)```(?P<kind>python|pycon)\n(?P<block>.*?)^(?P=indent)```$", flags=re.MULTILINE | re.DOTALL
)
"""A block that a page shows, indented in a list or not."""


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def snippets(page: Path) -> list[tuple[str, str, int]]:
    """Kind, code and line of each snippet."""
    text = page.read_text(encoding="utf-8")
    return [
        (match["kind"], textwrap.dedent(match["block"]), text.count("\n", 0, match.start()))
        for match in SNIPPET.finditer(text)
    ]


def run(kind: str, code: str, page: Path, line: int, names: dict[str, object]) -> None:
    where = name_of(page)
    if kind == "python":
        # as many lines before as in the page, so that a traceback shows the right one
        exec(compile("\n" * (line + 1) + code, where, "exec"), names)
        return
    # a console may end in a block, which a prompt of its own closes
    test = doctest.DocTestParser().get_doctest(code, names, where, where, line)
    runner = doctest.DebugRunner(optionflags=doctest.ELLIPSIS)
    runner.run(test, clear_globs=False)
    names.update(test.globs)


def random_weights(weights: Any, *_: Any, **__: Any) -> dict[str, Tensor]:
    """Return what a freshly made model of these weights has: as `WeightsEnum.get_state_dict`, without a download."""
    for name in torchvision.models.list_models():
        if weights in torchvision.models.get_model_weights(name):
            backbone = {"weights_backbone": None} if "segmentation" in str(type(weights).__module__) else {}
            made: dict[str, Tensor] = torchvision.models.get_model(name, weights=None, **backbone).state_dict()
            return made
    raise ValueError(f"no model of torchvision has the weights {weights}")


def few_digits() -> tuple[Tensor, Tensor]:
    """Return 200 random digits, on which a training takes seconds."""
    return torch.randint(256, (200, 28, 28), dtype=torch.uint8), torch.arange(10).repeat(20)


class FourteenStructures:
    """In place of TorchXRayVision's network, which downloads its weights: its interface."""

    targets: ClassVar = [*(f"structure {number}" for number in range(12)), "Left Lung", "Right Lung"]

    def __call__(self, images: Tensor) -> Tensor:
        assert images.shape[1] == 1
        assert -1024 <= images.min() <= images.max() <= 1024
        return torch.randn(len(images), len(self.targets), 512, 512)


@pytest.fixture
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An empty folder, no downloads, small networks and data, and what ``torchrun`` tells the first of one process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", random_weights)
    monkeypatch.setattr(torchvision.models, "resnet50", torchvision.models.resnet18)
    monkeypatch.setattr(zennit_isnet.data, "load_digits", few_digits)
    xrays = SimpleNamespace(baseline_models=SimpleNamespace(chestx_det=SimpleNamespace(PSPNet=FourteenStructures)))
    monkeypatch.setitem(sys.modules, "torchxrayvision", xrays)
    environment = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    yield
    if distributed.is_initialized():  # a page failed before its last line
        distributed.destroy_process_group()


def cases() -> Iterator[Any]:
    for page in PAGES:
        if snippets(page):
            yield pytest.param(page, id=name_of(page), marks=[pytest.mark.slow] if name_of(page) in SLOW else [])


# stand-ins for trained models are untrained, and PyTorch Lightning advises on its own options
@pytest.mark.filterwarnings("ignore::zennit_isnet.errors.RelevanceRangeWarning", "ignore:::lightning")
@pytest.mark.usefixtures("surroundings")
@pytest.mark.parametrize("page", list(cases()))
def test_snippets_run(page: Path) -> None:
    names: dict[str, object] = {"__name__": page.stem}
    with contextlib.redirect_stdout(io.StringIO()):
        for kind, code, line in snippets(page):
            run(kind, code, page, line, names)


def run_script(rank: int, world: int, code: str, folder: str, port: int) -> None:
    """What ``torchrun`` does in each process, with few digits."""
    os.chdir(folder)
    torch.set_num_threads(1)
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in places.items()})
    vars(zennit_isnet.data)["load_digits"] = few_digits
    exec(compile(code, "train.py", "exec"), {"__name__": "__main__"})


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="would ask for a GPU for each process")
def test_the_script_for_several_processes_trains_one_model(tmp_path: Path) -> None:
    (code, *_) = (code for _, code, _ in snippets(ROOT / "docs" / "how-to" / "distributed.md"))
    code = re.sub(r"PLAIN_EPOCHS, EPOCHS = \d+, \d+", "PLAIN_EPOCHS, EPOCHS = 1, 1", code, count=1)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(run_script, args=(2, code, str(tmp_path), port), nprocs=2)
    trained = torch.load(tmp_path / "model.pt", weights_only=True)
    assert all(values.isfinite().all() for values in trained.values())


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_nothing_is_hidden(page: Path) -> None:
    assert not re.search(r"<!--\s*setup|monkeypatch", page.read_text(encoding="utf-8"))


def test_unclosed_snippets_do_not_hide() -> None:
    for page in PAGES:
        opened = re.findall(r"^ *```(?:python|pycon)\b", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert len(opened) == len(snippets(page)), page
