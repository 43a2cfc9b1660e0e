"""One image with several mask files, such as one for each lung."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from masked_files import save_image, save_mask, saved
from PIL import Image

from zennit_isnet.data import MaskedImageFolder, MaskedImageTable
from zennit_isnet.errors import InvalidValueError

LEFT, RIGHT = torch.zeros(2, 1, 6, 8, dtype=torch.bool)
LEFT[0, 1:5, 1:3] = True
RIGHT[0, 2:4, 5:8] = True


@pytest.fixture
def lungs(tmp_path: Path) -> Path:
    save_image(tmp_path / "images" / "ill" / "1.png", torch.rand(3, 6, 8))
    save_mask(tmp_path / "left" / "ill" / "1.png", LEFT)
    save_mask(tmp_path / "right" / "ill" / "1.png", RIGHT)
    return tmp_path


def folders(lungs: Path, **options: object) -> MaskedImageFolder:
    return MaskedImageFolder(lungs / "images", [lungs / "left", lungs / "right"], **options)  # type: ignore[arg-type]


def table(lungs: Path, masks: str = "left/ill/1.png | right/ill/1.png", **options: object) -> MaskedImageTable:
    (lungs / "table.csv").write_text(f"image,mask,label\nimages/ill/1.png,{masks},ill\n")
    return MaskedImageTable(lungs / "table.csv", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("data", [folders, table])
def test_masks_are_united(lungs: Path, data) -> None:
    assert torch.equal(data(lungs)[0][1], LEFT | RIGHT)


def test_each_mask_is_read_by_itself(lungs: Path) -> None:
    """Trimaps: 1 is foreground, 2 background. A maximum would make them all background."""
    for side, mask in (("left", LEFT), ("right", RIGHT)):
        saved(Image.fromarray((2 - mask[0].to(torch.uint8)).numpy()), lungs / side / "ill" / "1.png")
    assert torch.equal(folders(lungs, binarize={1})[0][1], LEFT | RIGHT)


def test_values_that_are_not_allowed_are_named_with_their_file(lungs: Path) -> None:
    saved(Image.fromarray((torch.eye(6, 8) * 2 + RIGHT[0]).byte().numpy()), lungs / "right" / "ill" / "1.png")
    with pytest.raises(InvalidValueError, match=r"mask .*right/ill/1\.png has the values"):
        folders(lungs)[0]


def test_part_of_a_mask_counts_as_none(lungs: Path) -> None:
    (lungs / "right" / "ill" / "1.png").unlink()
    for data, missing in ((folders, r"right/ill/1\.\*"), (table, r"right/ill/1\.png")):
        with pytest.raises(InvalidValueError, match=rf"1 of 1 images have no mask: .*looked for .*{missing}"):
            data(lungs)
        assert not data(lungs, missing="skip-penalty")[0][3]


def test_all_masks_must_have_one_size(lungs: Path) -> None:
    save_mask(lungs / "right" / "ill" / "1.png", RIGHT[..., 1:])
    with pytest.raises(InvalidValueError, match=r"left.* and .*right.* must have the same size; got"):
        folders(lungs, resize_masks=True)[0]


def test_unused_masks_of_all_folders_are_kept_in_mind(lungs: Path) -> None:
    unused = [str(save_mask(lungs / side / "ill" / "2.png", LEFT)) for side in ("left", "right")]
    assert folders(lungs).unused_masks == unused


def test_some_folder_is_needed(lungs: Path) -> None:
    with pytest.raises(InvalidValueError, match=r"masks_root must be an existing folder or several of them; got \[\]"):
        MaskedImageFolder(lungs / "images", [])
