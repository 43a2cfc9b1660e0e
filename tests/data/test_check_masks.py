"""The mask check: every kind of problem is found, named, and found in one go."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from masked_files import Layout, save_mask, saved
from PIL import Image
from torch.utils.data import TensorDataset

from zennit_isnet.data import BackgroundBias, MaskedImageFolder, check_masks, with_masks
from zennit_isnet.data.mask_check import MaskReport, ProblemKind
from zennit_isnet.errors import InvalidTypeError, InvalidValueError


def report_of(layout: Layout, **options: Any) -> MaskReport:
    data = MaskedImageFolder(layout.images, layout.masks, **{"missing": "skip-penalty", "allow_empty": True, **options})
    return check_masks(data, progress=False)


def found(report: MaskReport) -> dict[str, str]:
    return {problem.kind: Path(problem.name).name for problem in report.problems}


def test_good_masks_have_no_problems_and_their_coverage_by_class(layout: Layout) -> None:
    report = report_of(layout)
    assert report.ok
    shares = layout.foreground.float().mean((1, 2, 3))
    for row, part in zip((*report.classes, report.total), (shares[:2], shares[2:], shares), strict=True):
        assert (row.images, row.missing, row.empty, row.full) == (len(part), 0, 0, 0)
        expected = [part.mean().item(), part.min().item(), part.max().item()]
        assert [row.mean, row.lowest, row.highest] == pytest.approx(expected)


@pytest.mark.parametrize("workers", [0, 3])
def test_all_problems_are_found_in_one_go(layout: Layout, workers: int) -> None:
    layout_files = [layout.masks / file for file in layout.files]
    layout_files[0].unlink()
    save_mask(layout_files[1], torch.zeros(1, 40, 40))
    save_mask(layout_files[2], torch.ones(1, 20, 20))
    (layout.images / layout.files[3]).write_bytes(b"damaged")
    data = MaskedImageFolder(layout.images, layout.masks, missing="skip-penalty")
    report = check_masks(data, workers=workers, progress=False)
    kinds = [(problem.kind, Path(problem.name).name) for problem in report.problems]
    names = [Path(file).name for file in layout.files]
    assert kinds == [
        ("missing", names[0]),
        ("empty", names[1]),
        ("size", names[2]),
        ("all-foreground", names[2]),
        ("unreadable", names[3]),
    ]
    assert [(row.images, row.missing, row.empty, row.full) for row in report.classes] == [(2, 1, 1, 0), (2, 0, 0, 1)]


def plant_turned(layout: Layout) -> None:
    for root, turn in ((layout.images, None), (layout.masks, Image.Transpose.ROTATE_90)):
        with Image.open(root / layout.files[0]) as picture:
            cut = picture.crop((0, 0, 40, 36))
        saved(cut if turn is None else cut.transpose(turn), root / layout.files[0])


def plant_contrast(layout: Layout) -> None:
    with Image.open(layout.images / layout.files[0]) as picture:
        saved(Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 16), layout.images / layout.files[0])


def plant_swapped(layout: Layout) -> None:
    layout.images.rename(layout.images.with_name("photographs"))
    layout.masks.rename(layout.images)
    layout.images.with_name("photographs").rename(layout.masks)


PLANTED = {
    "turned": plant_turned,
    "contrast": plant_contrast,
    "swapped": plant_swapped,
    "unreadable": lambda layout: (layout.masks / layout.files[0]).write_bytes(b"damaged"),
    "missing": lambda layout: (layout.masks / layout.files[0]).unlink(),
    "values": lambda layout: shutil.copy(layout.images / layout.files[0], layout.masks / layout.files[0]),
    "size": lambda layout: save_mask(layout.masks / layout.files[0], torch.eye(20)[None]),
    "empty": lambda layout: save_mask(layout.masks / layout.files[0], torch.zeros(1, 40, 40)),
    "all-foreground": lambda layout: save_mask(layout.masks / layout.files[0], torch.ones(1, 40, 40)),
    "inverted": lambda layout: save_mask(layout.masks / layout.files[0], ~layout.foreground[0]),
    "unused-mask": lambda layout: save_mask(layout.masks / "digit0" / "unused.png", torch.ones(1, 40, 40)),
    "empty-class": lambda layout: (layout.images / "digit7").mkdir(),
}


def test_each_kind_of_problem_is_planted_here() -> None:
    assert set(PLANTED) == set(get_args(ProblemKind))


@pytest.mark.parametrize("kind", PLANTED)
def test_planted_problem_is_the_only_one_and_named(layout: Layout, kind: str) -> None:
    PLANTED[kind](layout)
    report = report_of(layout)
    name = {"unused-mask": "unused.png", "empty-class": "digit7"}.get(kind, Path(layout.files[0]).name)
    assert found(report) == {kind: name}
    assert not report.ok
    assert name in report.problems[0].detail
    assert f"1 problem:\n  - {kind}: {report.problems[0].detail}" in str(report)


def test_close_up_whose_border_is_less_covered_than_the_rest_is_not_inverted(layout: Layout) -> None:
    mask = torch.ones(1, 40, 40)
    mask[:, 0] = 0
    save_mask(layout.masks / layout.files[0], mask)
    assert report_of(layout).ok


def test_resized_masks_are_no_problem(layout: Layout) -> None:
    PLANTED["size"](layout)
    assert report_of(layout, resize_masks=True).ok


def test_table_has_a_line_for_each_class_and_for_all(layout: Layout) -> None:
    lines = str(report_of(layout)).splitlines()
    assert [line.split()[:2] for line in lines[:-1]] == [
        ["class", "images"],
        ["digit0", "2"],
        ["digit1", "2"],
        ["all", "4"],
    ]
    assert lines[-1] == "no problems"


def test_image_with_several_labels_counts_for_each() -> None:
    images = TensorDataset(torch.rand(2, 3, 8, 8))
    masks = torch.eye(8).repeat(2, 1, 1)
    data = with_masks(images, masks, classes=["cat", "dog"], targets=[[1, 1], [0, 1]])
    report = check_masks(data, progress=False)
    assert [row.images for row in (*report.classes, report.total)] == [1, 2, 2]
    assert report.ok


def test_data_set_stays_as_it_is(layout: Layout) -> None:
    data = MaskedImageFolder(layout.images, layout.masks, transform=pytest.fail)
    before = dict(vars(data))
    check_masks(data, progress=False)
    assert vars(data) == before


def test_other_arguments_are_refused(layout: Layout, digit_pairs: BackgroundBias) -> None:
    with pytest.raises(InvalidTypeError, match=r"dataset must be a MaskedDataset.*got BackgroundBias"):
        check_masks(digit_pairs)  # type: ignore[arg-type]
    data = MaskedImageFolder(layout.images, layout.masks)
    with pytest.raises(InvalidValueError, match=r"workers .*-1"):
        check_masks(data, workers=-1)
    with pytest.raises(InvalidTypeError, match="workers must be an int"):
        check_masks(data, workers=1.5)  # type: ignore[arg-type]
