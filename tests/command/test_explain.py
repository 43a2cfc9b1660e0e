"""``zennit-isnet explain``: a picture for each image, of a model by name too, and errors in one line."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.models import squeezenet1_1

from zennit_isnet_command import main


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An image in a folder of a folder, weights and names of classes; the current folder is theirs."""
    (tmp_path / "photos" / "day").mkdir(parents=True)
    Image.effect_noise((50, 40), 90).convert("RGB").save(tmp_path / "photos" / "day" / "1.jpg")
    torch.save(squeezenet1_1(num_classes=3).state_dict(), tmp_path / "net.pth")
    (tmp_path / "classes.txt").write_text("cat\ndog\nowl\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


NAMED = ["squeezenet1_1", "photos", "--checkpoint", "net.pth", "--size", "64", "--imagenet"]


def test_each_image_has_a_picture_in_the_same_place(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", *NAMED, "--classes", "classes.txt"]) == 0
    with Image.open(files / "heatmaps" / "day" / "1.jpg.png") as picture:
        assert picture.height > 200
    assert capsys.readouterr().out == "1 heatmaps written to heatmaps\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (NAMED, "the model's classes are unknown: give --classes"),
        (["squeezenet1_1", "photos", "--classes", "classes.txt"], "squeezenet1_1 needs --checkpoint"),
        (["no.ckpt", "photos"], r"no\.ckpt cannot be read"),
        (["squeezenet1_1", "nowhere", *NAMED[2:], "--classes", "classes.txt"], "nowhere contains none"),
    ],
)
def test_what_is_missing_is_named(
    files: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", *arguments]) == 2
    assert re.search(says, capsys.readouterr().err)
