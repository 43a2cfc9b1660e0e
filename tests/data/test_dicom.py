"""DICOM images, shown as the standard says."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from masked_files import saved
from PIL import Image

from zennit_isnet.data import MaskedImageFolder, MaskedImageTable
from zennit_isnet.data.decoding import read_image
from zennit_isnet.errors import InvalidValueError, MissingDependencyError

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def dicom(path: Path, pixels: Any, bits: int = 16, colours: str = "MONOCHROME2", **entries: Any) -> Path:
    """Write an uncompressed file; of signed values if `pixels` are signed."""
    pixels = np.asarray(pixels)
    width = 8 if bits <= 8 else 16
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = SECONDARY_CAPTURE, "1.2.3"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = (3 if pixels.ndim == 3 else 1), colours
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = width, bits, bits - 1
    dataset.PixelRepresentation = int(pixels.min() < 0)
    kind = "i" if pixels.min() < 0 else "u"
    dataset.PixelData = pixels.astype(f"<{kind}{width // 8}").tobytes()
    for name, value in entries.items():
        setattr(dataset, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def shown(*args: Any, **entries: Any) -> list[list[int]]:
    """The three equal channels that are read, one of them."""
    image = read_image(dicom(*args, **entries))
    assert (image[0] == image).all()
    return image[0].tolist()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "1.dcm"


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_without_a_window_the_image_reaches_from_black_to_white(file: Path, bits: int) -> None:
    highest = 2**bits - 1
    assert shown(file, [[0, highest // 5, highest]], bits) == [[0, 51, 255]]


def test_image_of_one_value_is_black(file: Path) -> None:
    assert shown(file, [[7, 7]]) == [[0, 0]]


def test_values_outside_of_the_window_do_not_wrap_around(file: Path) -> None:
    """Center 100.5 and width 101 is, by the standard's formula, black up to 50 and white from 150."""
    values = [[0, 50, 70, 100, 150, 4095, 65535]]
    assert shown(file, values, WindowCenter=100.5, WindowWidth=101) == [[0, 0, 51, 128, 255, 255, 255]]


def test_window_applies_to_rescaled_values(file: Path) -> None:
    """Of a CT: -160 to 240 Hounsfield units."""
    window = {"WindowCenter": 40, "WindowWidth": 400, "VOILUTFunction": "LINEAR_EXACT"}
    values = [[0, 864, 1064, 1264, 4095]]
    assert shown(file, values, 12, RescaleSlope=1, RescaleIntercept=-1024, **window) == [[0, 0, 128, 255, 255]]


def test_signed_values(file: Path) -> None:
    assert shown(file, [[-1000, 0, 1000]], WindowCenter=0, WindowWidth=2001) == [[0, 128, 255]]


def test_first_of_several_windows_is_shown(file: Path) -> None:
    assert shown(file, [[0, 100, 1000]], WindowCenter=[50.5, 500], WindowWidth=[101, 1000]) == [[0, 255, 255]]


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_windows_are_those_of_pydicom(file: Path, function: str) -> None:
    values = np.random.randint(0, 4096, (5, 7))
    image = shown(file, values, 12, WindowCenter=1800, WindowWidth=900, VOILUTFunction=function)
    expected = pydicom.pixels.apply_windowing(values, pydicom.dcmread(file)) / 4095 * 255
    assert np.abs(np.asarray(image) - expected).max() <= 0.5 + 1e-9


def test_settings_of_an_enhanced_object_are_those_of_its_frame(file: Path) -> None:
    window, rescaling, shared, own = (pydicom.Dataset() for _ in range(4))
    window.WindowCenter, window.WindowWidth, window.VOILUTFunction = 40, 400, "LINEAR_EXACT"
    rescaling.RescaleSlope, rescaling.RescaleIntercept = 1, -1024
    shared.FrameVOILUTSequence, own.PixelValueTransformationSequence = [window], [rescaling]
    groups = {"SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": [own]}
    assert shown(file, [[0, 864, 1064, 1264, 4095]], 12, **groups) == [[0, 0, 128, 255, 255]]


def test_empty_settings_of_a_frame_do_not_replace_others(file: Path) -> None:
    window, shared = pydicom.Dataset(), pydicom.Dataset()
    window.WindowCenter, window.WindowWidth, shared.FrameVOILUTSequence = None, None, [window]
    options = {"WindowCenter": 100.5, "WindowWidth": 101, "SharedFunctionalGroupsSequence": [shared]}
    assert shown(file, [[0, 50, 70, 100, 150]], **options) == [[0, 0, 51, 128, 255]]


def test_empty_slopes_are_absent(file: Path) -> None:
    assert shown(file, [[0, 100]], RescaleSlope=None, RescaleIntercept=None) == [[0, 255]]


def test_width_of_one_is_a_threshold(file: Path) -> None:
    assert shown(file, [[99, 100, 101]], WindowCenter=100, WindowWidth=1) == [[0, 255, 255]]


@pytest.mark.parametrize("slope", [None, 1])
def test_lookup_table_takes_precedence_over_the_window(file: Path, slope: int | None) -> None:
    table = pydicom.Dataset()
    table.LUTDescriptor, table.LUTData = [4, 10, 12], [0, 4095, 819, 1638]
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    rescale = {} if slope is None else {"RescaleSlope": slope, "RescaleIntercept": 0}
    entries = {"VOILUTSequence": [table], "WindowCenter": 1, "WindowWidth": 2, **rescale}
    assert shown(file, [[9, 10, 11, 12, 13, 99]], **entries) == [[0, 0, 255, 51, 102, 102]]


def test_monochrome1_is_inverted(file: Path) -> None:
    assert shown(file, [[0, 20, 100]], 8, "MONOCHROME1") == [[255, 204, 0]]


def test_colours_of_eight_bits_stay(file: Path) -> None:
    pixels = np.random.randint(0, 256, (4, 5, 3))
    assert read_image(dicom(file, pixels, 8, "RGB")).permute(1, 2, 0).tolist() == pixels.tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"colours": "PALETTE COLOR"}, "16 bits of PALETTE COLOR; it must be MONOCHROME1, MONOCHROME2 or"),
        ({"NumberOfFrames": 3}, "3 frames"),
        ({"WindowCenter": 5, "WindowWidth": -2}, "width"),
        ({"WindowCenter": 5, "WindowWidth": 2, "VOILUTFunction": "CUBIC"}, "function CUBIC"),
        ({"PixelData": b"\0\0"}, "bytes"),
    ],
)
def test_what_cannot_be_shown_is_named_with_its_file(file: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=rf"image .*1\.dcm cannot be read: .*{message}"):
        read_image(dicom(file, [[1, 2, 3]], **options))


def test_other_files_and_decompression_bombs_are_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_bytes(b"no image")
    with pytest.raises(InvalidValueError, match=r"image .*1\.dcm cannot be read"):
        read_image(file)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    with pytest.raises(InvalidValueError, match="decompression bomb"):
        read_image(dicom(file, [[1, 2, 3], [4, 5, 6]]))


@pytest.mark.parametrize("name", ["1.dcm", "1.DICOM"])
def test_folders_and_tables_take_them_with_masks(tmp_path: Path, name: str) -> None:
    dicom(tmp_path / "images" / "ill" / name, [[0, 255], [51, 0]], 8)
    saved(Image.new("L", (2, 2), 255), tmp_path / "masks" / "ill" / "1.png")
    (tmp_path / "table.csv").write_text(f"image,mask,label\nimages/ill/{name},masks/ill/1.png,ill\n")
    folder = MaskedImageFolder(tmp_path / "images", tmp_path / "masks")
    for image, mask, _ in (folder[0], MaskedImageTable(tmp_path / "table.csv")[0]):
        assert image[0].tolist() == [[0, 255], [51, 0]]
        assert mask.all()


def test_package_that_is_missing_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(MissingDependencyError, match=r"pydicom.*zennit-isnet\[dicom\]"):
        read_image(file)
