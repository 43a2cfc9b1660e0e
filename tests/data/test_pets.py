"""Oxford-IIIT Pet, on a few files laid out as that data set is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from masked_files import saved
from PIL import Image

from zennit_isnet.data import BackgroundBias, OxfordPetMasks
from zennit_isnet.errors import InvalidValueError

# Names of cats begin with a capital; the columns are breed, species and the breed's number within the species.
TRAINVAL = {"Abyssinian_100": (1, 1, 1), "american_bulldog_1": (2, 2, 1), "Abyssinian_102": (1, 1, 1)}
TEST = {"Abyssinian_201": (1, 1, 1), "american_bulldog_9": (2, 2, 1)}


@pytest.fixture
def root(tmp_path: Path, digit_pairs: BackgroundBias) -> Path:
    """Digits in the role of animals: stroke 1, background 2, a border of 3 where the stroke begins and ends."""
    base = tmp_path / "oxford-iiit-pet"
    for place, name in enumerate([*TRAINVAL, *TEST]):
        pixels = (digit_pairs.images[place] * 255).to(torch.uint8).permute(1, 2, 0).numpy()
        saved(Image.fromarray(pixels), base / "images" / f"{name}.jpg", quality=95)
        saved(
            Image.fromarray(trimap(digit_pairs.masks[place, 0]).numpy()), base / "annotations/trimaps" / f"{name}.png"
        )
    for split, rows in (("trainval", TRAINVAL), ("test", TEST)):
        lines = [f"{name} {' '.join(map(str, numbers))}\n" for name, numbers in rows.items()]
        (base / "annotations" / f"{split}.txt").write_text("".join(lines))
    return tmp_path


def trimap(mask: torch.Tensor) -> torch.Tensor:
    values = torch.where(mask, 1, 2).to(torch.uint8)
    values[:, 1:][mask[:, 1:] != mask[:, :-1]] = 3
    return values


def test_items_are_what_the_files_show(root: Path, digit_pairs: BackgroundBias) -> None:
    data = OxfordPetMasks(root)
    assert (data.classes, data.targets.tolist()) == (["Abyssinian", "American Bulldog"], [0, 1, 0])
    for index, (image, mask, label) in enumerate(data):
        with Image.open(data.name(index)) as picture:
            assert (image.permute(1, 2, 0).numpy() == np.asarray(picture)).all()
        assert torch.equal(mask[0], trimap(digit_pairs.masks[index, 0]) != 2)
        assert label == data.targets[index]


def test_splits_are_those_of_the_data_set(root: Path) -> None:
    names = {
        split: [Path(OxfordPetMasks(root, split).name(index)).stem for index in (0, 1)]
        for split in ("trainval", "test")
    }
    assert names == {"trainval": list(TRAINVAL)[:2], "test": list(TEST)}


def test_species_are_two_classes(root: Path) -> None:
    data = OxfordPetMasks(root, labels="species")
    assert (data.classes, data.targets.tolist()) == (["Cat", "Dog"], [0, 1, 0])


def test_missing_trimaps_follow_the_policy(root: Path) -> None:
    (root / "oxford-iiit-pet/annotations/trimaps/american_bulldog_1.png").unlink()
    with pytest.raises(InvalidValueError, match=r"american_bulldog_1\.jpg"):
        OxfordPetMasks(root)
    assert OxfordPetMasks(root, missing="drop").targets.tolist() == [0, 0]
    assert [item[3] for item in OxfordPetMasks(root, missing="skip-penalty")] == [True, False, True]


def test_data_set_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match=r"could not be loaded from root=.* with download=False"):
        OxfordPetMasks(tmp_path)


@pytest.mark.parametrize("option", ["split", "labels"])
def test_illegal_options_are_named(root: Path, option: str) -> None:
    with pytest.raises(InvalidValueError, match=f"{option} must be one of"):
        OxfordPetMasks(root, **{option: "other"})  # type: ignore[arg-type]
