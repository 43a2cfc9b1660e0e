"""The texture bias: cuts of real photographs, one source for each cue."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from zennit_isnet.errors import import_optional

# A cut shows a third of its source's shorter side: small enough to vary, large enough to be recognised.
CUTS_PER_SIDE = 3


class TextureSource(NamedTuple):
    """Where a photograph comes from: the package that carries it, and its name there."""

    package: str
    name: str


# Only pictures inside the packages' wheels, so that nothing is downloaded; ten that differ in colour or pattern at a
# glance, so that the bias is easier to learn than the digits.
_OF_SCIKIT_IMAGE = "brick grass page coffee chelsea immunohistochemistry coins hubble_deep_field rocket"
TEXTURE_SOURCES = (
    *(TextureSource("scikit-image", name) for name in _OF_SCIKIT_IMAGE.split()),
    TextureSource("scikit-learn", "flower.jpg"),
)


def load_texture(source: TextureSource, side: int) -> Tensor:
    """Load one photograph, scaled such that its shorter side has a given length.

    Parameters
    ----------
    source : TextureSource
        One of `TEXTURE_SOURCES`.
    side : int
        Length of the shorter side in pixels; the proportions are kept.

    Returns
    -------
    torch.Tensor
        Colours in [0, 1], shape ``(3, H, W)`` with ``min(H, W) == side``, dtype float32; grey pictures have three
        equal channels.

    Raises
    ------
    MissingDependencyError
        If the package that carries the photograph is not installed.

    Examples
    --------
    >>> load_texture(TEXTURE_SOURCES[0], side=96).shape
    torch.Size([3, 96, 96])
    """
    if source.package == "scikit-image":
        pixels = getattr(import_optional("skimage.data", source.package), source.name)()
    else:
        pixels = import_optional("sklearn.datasets", source.package).load_sample_image(source.name)
    picture = torch.tensor(pixels, dtype=torch.float32) / 255
    picture = picture.expand(3, -1, -1) if picture.ndim == 2 else picture.permute(2, 0, 1)
    height, width = picture.shape[1:]
    shape = [round(length * side / min(height, width)) for length in (height, width)]
    scaled = interpolate(picture.unsqueeze(0), size=shape, mode="bilinear", antialias=True)[0]
    return scaled.clamp(0, 1)


def cut_textures(cues: Tensor, positions: Tensor, size: int) -> Tensor:
    """Cut one square for each image from the source that its cue names.

    Parameters
    ----------
    cues : torch.Tensor
        The cue of each image, an index of `TEXTURE_SOURCES`, shape ``(n,)``, dtype int64.
    positions : torch.Tensor
        Where to cut, as a fraction in [0, 1) of the free way down and to the right, shape ``(n, 2)``. Fractions, so
        that an image keeps its place when only its cue changes.
    size : int
        Height and width of the cuts in pixels.

    Returns
    -------
    torch.Tensor
        Colours in [0, 1], shape ``(n, 3, size, size)``, dtype float32.

    Raises
    ------
    MissingDependencyError
        If a package that carries one of the photographs is not installed.

    Examples
    --------
    >>> cut_textures(torch.tensor([0, 9]), torch.rand(2, 2), size=32).shape
    torch.Size([2, 3, 32, 32])
    """
    pictures = [load_texture(source, CUTS_PER_SIDE * size) for source in TEXTURE_SOURCES]
    cuts = torch.empty(len(cues), 3, size, size)
    for cut, cue, (down, right) in zip(cuts, cues.tolist(), positions.tolist(), strict=True):
        height, width = pictures[cue].shape[1:]
        top, left = int(down * (height - size + 1)), int(right * (width - size + 1))
        cut.copy_(pictures[cue][:, top : top + size, left : left + size])
    return cuts
