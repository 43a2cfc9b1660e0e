"""What stands where the donor's object was."""

import torch
from torch import Tensor
from torch.nn import functional as F


def fill_holes(images: Tensor, known: Tensor) -> Tensor:
    """Fill holes smoothly from the pixels around them.

    Known pixels are averaged to half the resolution, again and again, until one cell is left. On the way back each
    hole takes the interpolated values of the finest level that reaches a known pixel. The cost is that of a few
    poolings, whatever the size of the holes. The filling is made of weighted means of known pixels, so the range of
    values is kept.

    Parameters
    ----------
    images : torch.Tensor
        ``(N, C, H, W)`` or ``(N, C, T, H, W)``, dtype float32 or float64.
    known : torch.Tensor
        True where a pixel may be used, ``(N, 1, H, W)`` or ``(N, 1, T, H, W)``, dtype bool.

    Returns
    -------
    torch.Tensor
        `images` where `known`, else the filling; 0 everywhere in an image without a known pixel.

    References
    ----------
    Gortler, Grzeszczuk, Szeliski, Cohen: The Lumigraph. SIGGRAPH 1996, section 3.4 (the pull-push algorithm).

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.swap.filling import fill_holes
    >>> images = torch.tensor([[[[1.0, 9.0], [2.0, 3.0]]]])
    >>> fill_holes(images, known=images < 9)
    tensor([[[[1., 2.],
              [2., 3.]]]])
    """
    size = images.shape[2:]
    known_values = torch.where(known, images, 0)
    if max(size) == 1:
        return known_values
    average, mode = (F.avg_pool2d, "bilinear") if len(size) == 2 else (F.avg_pool3d, "trilinear")
    window = [min(2, length) for length in size]
    share = average(known.to(images.dtype), window, ceil_mode=True)
    means = average(known_values, window, ceil_mode=True) / share.clamp(min=torch.finfo(share.dtype).tiny)
    filling = F.interpolate(fill_holes(means, share > 0), size=size, mode=mode)
    return torch.where(known, images, filling)
