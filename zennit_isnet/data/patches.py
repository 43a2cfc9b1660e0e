"""The patch bias: a small bright square whose place is the cue."""

import torch
from torch import Tensor

from zennit_isnet.data.options import DIGIT_SIZE, NUM_CLASSES
from zennit_isnet.errors import InvalidValueError

PATCH_SIZE = 2
MIN_CANVAS = DIGIT_SIZE + 2 * PATCH_SIZE


def check_canvas(size: int) -> None:
    """Reject a canvas on which the digit would leave no border for the patch.

    Parameters
    ----------
    size : int
        The canvas's height and width in pixels.

    Raises
    ------
    InvalidValueError
        If `size` is less than 32: a digit of 28 pixels with the patch's 2 pixels on each side.
    """
    if size < MIN_CANVAS:
        raise InvalidValueError(f"size must be at least {MIN_CANVAS} pixels, got {size}")


def patch_places(size: int) -> Tensor:
    """Place one patch for each cue along the border of a canvas.

    The places lie at equal distances on the way around, clockwise from the top left corner, and keep to the outermost
    two pixels. A digit of 28 pixels in the centre of the canvas cannot reach these, so no patch ever touches a digit.

    Parameters
    ----------
    size : int
        The canvas's height and width in pixels, at least 32.

    Returns
    -------
    torch.Tensor
        Row and column of each patch's upper left pixel, shape ``(10, 2)``, dtype int64.

    Raises
    ------
    InvalidValueError
        If `size` is less than 32.

    Examples
    --------
    >>> patch_places(32).tolist()
    [[0, 0], [0, 12], [0, 24], [6, 30], [18, 30], [30, 30], [30, 18], [30, 6], [24, 0], [12, 0]]
    """
    check_canvas(size)
    side = size - PATCH_SIZE
    way = torch.arange(NUM_CLASSES) * (4 * side) // NUM_CLASSES
    # Both coordinates rise and fall along the way around; columns run one side ahead of rows.
    row = torch.minimum((way - side).clamp(0, side), (4 * side - way).clamp(0, side))
    column = torch.minimum(way.clamp(0, side), (3 * side - way).clamp(0, side))
    return torch.stack([row, column], dim=1)


def patch_mask(cues: Tensor, size: int) -> Tensor:
    """Mark the pixels of each image's patch.

    Parameters
    ----------
    cues : torch.Tensor
        The cue of each image, 0 to 9, shape ``(n,)``, dtype int64.
    size : int
        The canvas's height and width in pixels, at least 32.

    Returns
    -------
    torch.Tensor
        True on the patch, shape ``(n, 1, size, size)``, dtype bool.

    Raises
    ------
    InvalidValueError
        If `size` is less than 32.

    Examples
    --------
    >>> patch_mask(torch.tensor([0, 5]), 32).flatten(1).sum(1)
    tensor([4, 4])
    """
    offset = torch.arange(size) - patch_places(size)[cues].unsqueeze(-1)
    row, column = ((offset >= 0) & (offset < PATCH_SIZE)).unbind(1)
    return (row.unsqueeze(-1) & column.unsqueeze(-2)).unsqueeze(1)
