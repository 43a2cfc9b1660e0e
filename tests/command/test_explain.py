"""``zennit-isnet explain``: a picture for each image, of a model by name too, and errors in one line."""

import re
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.models import squeezenet1_1

from zennit_isnet.plotting import heatmap_panel
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


ONE_LOGIT = """
import torch

def net():
    linear = torch.nn.Linear(3 * 64, 1)
    torch.nn.init.constant_(linear.weight, 0.5 / linear.in_features)
    torch.nn.init.constant_(linear.bias, -2)
    return torch.nn.Sequential(torch.nn.Flatten(), linear)
"""


@pytest.fixture
def one_logit(files: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A white image with a black pixel, and a model whose logit is half the mean brightness minus 2."""
    (files / "one_logit_nets.py").write_text(ONE_LOGIT)
    image = Image.new("RGB", (8, 8), "white")
    image.putpixel((3, 5), (0, 0, 0))
    image.save(files / "photos" / "day" / "1.png")
    (files / "photos" / "day" / "1.jpg").unlink()
    monkeypatch.setitem(sys.modules, "one_logit_nets", None)
    monkeypatch.delitem(sys.modules, "one_logit_nets")
    return ["one_logit_nets:net", "photos", "--size", "8", "--classes", "classes.txt"]


def test_one_logit_is_for_the_second_class_and_against_the_first(
    files: Path, one_logit: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (files / "classes.txt").write_text("healthy\nsick\n")
    drawn = {}

    def keep(images: torch.Tensor, masks: None, heatmaps: dict[str, torch.Tensor]) -> Image.Image:
        drawn.update(heatmaps)
        return heatmap_panel(images, masks, heatmaps)

    monkeypatch.setattr("zennit_isnet.command.explain.heatmap_panel", keep)
    assert main(["explain", *one_logit]) == 0
    # the logit is about -1.5
    assert list(drawn) == ["healthy\n82 %", "sick\n18 %"]
    healthy, sick = drawn.values()
    # bright pixels speak for the second class, more than black ones
    assert int((sick > 0).sum()) == 3 * 63
    torch.testing.assert_close(healthy, -sick)


def test_classes_must_fit_the_logits(files: Path, one_logit: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", *one_logit]) == 2
    assert "classes must name the model's 2 classes; got 3 names" in capsys.readouterr().err


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
