"""``examples/train.py --data oxford-pet`` on files laid out as that data set is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torchvision.io import write_jpeg, write_png
from train_runs import SHORT, last_state, photographed_digits, run
from training import checkpoints

from zennit_isnet.errors import InvalidValueError

BREEDS = {"five": ("Abyssinian", 1), "four": ("american_bulldog", 2)}
"""Digits in the role of two breeds, one of cats (1) and one of dogs (2)."""


def write_pets(root: Path, per_class: int) -> None:
    """Write images, trimaps (1 animal, 2 background, 3 between them) and the lists of the two splits."""
    base, splits = root / "oxford-iiit-pet", {"trainval": "", "test": ""}
    for folder in ("images", "annotations/trimaps"):
        (base / folder).mkdir(parents=True)
    for breed, (digit, (name, species)) in enumerate(BREEDS.items(), start=1):
        images, masks = photographed_digits(per_class)[digit]
        for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
            trimap = torch.where(mask, 1, 2).byte()
            trimap[..., 1:][mask[..., 1:] != mask[..., :-1]] = 3
            write_jpeg((255 * image).byte(), str(base / f"images/{name}_{number}.jpg"), quality=95)
            write_png(trimap, str(base / f"annotations/trimaps/{name}_{number}.png"))
            splits["test" if number % 4 == 0 else "trainval"] += f"{name}_{number} {breed} {species} 1\n"
    for split, lines in splits.items():
        (base / "annotations" / f"{split}.txt").write_text(lines)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("labels", "classes"), [("breed", ["Abyssinian", "American Bulldog"]), ("species", ["Cat", "Dog"])]
)
def test_breeds_and_species_are_trained_on(tmp_path: Path, labels: str, classes: list[str]):
    write_pets(tmp_path, per_class=8)
    output = tmp_path / "out"
    run("--data", "oxford-pet", "--root", str(tmp_path), "--pet-labels", labels, *SHORT, output=output)
    assert last_state(output)["epoch"] == 2
    assert [name.lower() for name in checkpoints.load(output / "best.pt")["classes"]] == [c.lower() for c in classes]
    report = (output / "report.md").read_text().lower()
    assert all(name.lower() in report for name in classes)


def test_a_data_set_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(InvalidValueError, match=re.escape(str(tmp_path))):
        run("--data", "oxford-pet", "--root", str(tmp_path), *SHORT, output=tmp_path / "out")
