"""DICOM images, with the display settings of their files. Needs the extra ``dicom``."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zennit_isnet.data.limits import check_pixels
from zennit_isnet.errors import InvalidValueError, import_optional

DICOM_EXTENSIONS = (".dcm", ".dicom")


def is_dicom(path: str | os.PathLike[str]) -> bool:
    """Whether a file has a DICOM extension."""
    return os.fspath(path).lower().endswith(DICOM_EXTENSIONS)


def read_dicom(source: str | os.PathLike[str], name: str = "") -> Image.Image:
    """Read a DICOM image with a viewer's initial settings.

    Grey values are rescaled (modality LUT), then brought to [0, 1] by the file's first VOI LUT or window, and inverted
    for MONOCHROME1. Without VOI LUT or window, the image's lowest value is black and its highest white.

    Parameters
    ----------
    source : path
        A file with one frame: grey with any number of bits, or 8-bit colour.
    name : str, optional
        Name for messages. If None, the path.

    Returns
    -------
    PIL.Image.Image
        Mode ``L`` or ``RGB`` with 8 bits, scaled and rounded after windowing.

    Raises
    ------
    InvalidValueError
        If the file cannot be read, has several frames, or has an unsupported colour type; the message names it.
    MissingDependencyError
        If pydicom is not installed.
    """
    pydicom = import_optional("pydicom", "pydicom", extra="dicom")
    try:
        dataset = pydicom.dcmread(source)
        check_pixels(dataset.Columns, dataset.Rows)
        return Image.fromarray(_shown(dataset))
    except Exception as error:  # damaged files raise many kinds of errors
        raise InvalidValueError(f"{name or source} cannot be read: {error}") from error


def _shown(dataset: Any) -> NDArray[np.uint8]:
    if (frames := int(dataset.get("NumberOfFrames") or 1)) > 1:
        raise InvalidValueError(f"it has {frames} frames; save only the one that the mask belongs to")
    _flatten(dataset)
    colours, pixels = dataset.PhotometricInterpretation, dataset.pixel_array
    if dataset.SamplesPerPixel == 3 and pixels.dtype == np.uint8:
        return np.asarray(pixels)  # RGB: pydicom converts other colours
    if colours not in ("MONOCHROME1", "MONOCHROME2"):
        legal = "MONOCHROME1, MONOCHROME2 or 8-bit colour"
        raise InvalidValueError(f"it has {dataset.BitsAllocated} bits of {colours}; it must be {legal}")
    grey = _windowed(pixels, dataset)
    if colours == "MONOCHROME1":
        grey = 1 - grey
    return np.rint(255 * grey).astype(np.uint8)


def _flatten(dataset: Any) -> None:
    """Copy the display settings of an enhanced object's frame to the top level, and leave out empty ones."""
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in dataset.get(groups) or ():
            for settings in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
                for item in (group.get(settings) or ())[:1]:
                    dataset.update({element.tag: element for element in item if not element.is_empty})
    for word in ("RescaleSlope", "RescaleIntercept"):
        if word in dataset and dataset[word].is_empty:
            del dataset[word]


def _windowed(pixels: NDArray[Any], dataset: Any) -> NDArray[np.float64]:
    """Return grey values in [0, 1]; computed in floats, because integers would wrap around outside the window."""
    processing = import_optional("pydicom.pixels", "pydicom", extra="dicom")
    values = processing.apply_modality_lut(pixels, dataset).astype(np.float64)
    grey: NDArray[np.float64]
    if dataset.get("VOILUTSequence"):
        brightest = 2 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1
        grey = processing.apply_voi(np.rint(values).astype(np.int64), dataset) / brightest
    elif dataset.get("WindowCenter") is None or dataset.get("WindowWidth") is None:
        grey = (values - values.min()) / (np.ptp(values) or 1)
    else:
        # several windows are alternatives; the first is the default
        center, width = (float(np.ravel(dataset[word].value)[0]) for word in ("WindowCenter", "WindowWidth"))
        function = dataset.get("VOILUTFunction") or "LINEAR"
        if width <= 0 or function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
            raise InvalidValueError(f"it has an illegal window: width {width:g} with the VOI LUT function {function}")
        if function == "LINEAR":  # DICOM PS3.3, C.11.2.1.2; a width of 1 is a threshold
            center, width = center - 0.5, max(width - 1, 1e-6)
        distance = (values - center) / width
        grey = (1 + np.tanh(2 * distance)) / 2 if function == "SIGMOID" else distance + 0.5
    return grey.clip(0, 1)
