"""Images on other images' backgrounds."""

import math

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from zennit_isnet.checks import check_masks, check_number
from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.functional import validate_foreground
from zennit_isnet.swap.filling import fill_holes


def swap_backgrounds(images: Tensor, masks: Tensor, donors: Tensor, *, feather: float = 0.0) -> Tensor:
    r"""Put each image's foreground on the background of its donor.

    .. math:: x'_i = \alpha_i \odot x_i + (1 - \alpha_i) \odot b_{d_i}

    with the opacity :math:`\alpha_i`, which is the foreground mask where `feather` is 0, the donor :math:`d_i` and the
    donor's background :math:`b`: its image, in which the hole that its own object leaves is filled from the pixels
    around it (`zennit_isnet.swap.filling.fill_holes`). No value of the donor's foreground enters the result. The
    outline of the donor's object may show as a blur. Filling the hole from the image's own background is no choice:
    that would show the cue that the swap is to remove, in the shape of the donor's object.

    Parameters
    ----------
    images : torch.Tensor
        ``(N, C, H, W)`` or ``(N, C, T, H, W)``, of any real dtype and range of values (of int64 up to 2 ** 53).
    masks : torch.Tensor
        Foreground masks, 1 (or True) on the object and 0 elsewhere: ``(N, 1, H, W)`` or ``(N, H, W)``, with ``T`` for
        videos. They should include the soft rim of the object, which otherwise stays on the donor's background.
    donors : torch.Tensor
        The index of each image's donor in the batch, ``(N,)``, dtype int64. An image that is its own donor stays as it
        is. `BackgroundSwap.with_donors` draws them.
    feather : float, default=0.0
        Standard deviation in pixels of the Gaussian that makes the edge soft: :math:`\alpha = \max(m, \min(1, 2 G m))`
        falls from 1 at the edge to 0 at about twice this distance outside of it, and is 1 on the whole foreground. The
        default is a hard edge: within a soft one the image's own background stays visible, with what it gives away.

    Returns
    -------
    torch.Tensor
        Shape, dtype and device of `images`; equal to them, bit by bit, on the foreground. Differentiable in `images`.

    Raises
    ------
    InvalidTypeError
        If an argument is no tensor, or has a dtype that is not allowed.
    InvalidValueError
        If shapes, devices or values do not fit: masks other than 0 and 1 or without foreground, donors outside of the
        batch, a donor that is all foreground and so has no background to give, a negative `feather`.

    Notes
    -----
    The values of masks and donors are read, which waits for an accelerator once. `BackgroundSwap` checks its own
    donors by construction and does not wait.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.swap import swap_backgrounds
    >>> images = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])
    >>> masks = torch.zeros(2, 1, 8, 8)
    >>> masks[..., 2:6, 2:6] = 1
    >>> swapped = swap_backgrounds(images, masks, donors=torch.tensor([1, 0]))
    >>> bool((swapped[0, :, 2:6, 2:6] == 0).all() and (swapped[0, :, :2] == 1).all())
    True

    References
    ----------
    Xiao, Engstrom, Ilyas, Madry: Noise or signal: the role of image backgrounds in object recognition. ICLR 2021.
    """
    images, masks = check_pair(images, masks)
    check_number("feather", feather, include_low=True)
    validate_foreground(masks)
    _check_donors(donors, masks)
    return exchanged(images, masks == 1, donors, feather)


def exchanged(images: Tensor, foreground: Tensor, donors: Tensor, feather: float) -> Tensor:
    """Return the swapped images; arguments as for `swap_backgrounds`, checked, with a boolean foreground."""
    # half precision and small integers are filled in float32, which holds each of their values
    exact = torch.float64 if images.dtype.itemsize > 2 else torch.float32
    precise = images if images.dtype in (torch.float32, torch.float64) else images.to(exact)
    background = fill_holes(precise, ~foreground)[donors]
    if feather > 0:
        opacity = soft_edge(foreground, feather).to(precise.dtype)
        background = opacity * precise + (1 - opacity) * background
    if not images.is_floating_point():
        background = background.round()
    own = donors == torch.arange(len(donors), device=donors.device)
    kept = foreground | own.view(-1, *(1,) * (images.ndim - 1))
    return torch.where(kept, images, background.to(images.dtype))


def soft_edge(foreground: Tensor, feather: float) -> Tensor:
    """Return the opacity: 1 on the foreground, falling to 0 outside of it; float32, shape of `foreground`.

    Parameters
    ----------
    foreground : torch.Tensor
        ``(N, 1, H, W)`` or ``(N, 1, T, H, W)``, dtype bool; frames are blurred one by one.
    feather : float
        Standard deviation of the Gaussian in pixels, above 0.
    """
    mask = foreground.float()
    frames = mask.movedim(1, -3)
    # the blur reflects at the border, so its reach must stay below the images' size
    sides = [2 * min(math.ceil(3 * feather), length - 1) + 1 for length in mask.shape[-2:]]
    blurred = gaussian_blur(frames, [sides[1], sides[0]], [feather, feather]).movedim(-3, 1)
    return torch.maximum(mask, (2 * blurred).clamp(max=1))


def check_pair(images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return images as a plain tensor, and masks as one of shape ``(N, 1, H, W)`` or ``(N, 1, T, H, W)``.

    Raises
    ------
    InvalidTypeError
        If one is no tensor, or images are complex or boolean.
    InvalidValueError
        If shapes or devices do not fit.
    """
    if not isinstance(images, Tensor):
        raise InvalidTypeError(f"images must be a Tensor (N, C, H, W), got {type(images).__name__}")
    if images.is_complex() or images.dtype == torch.bool:
        raise InvalidTypeError(f"images must be integer or floating, got {images.dtype}")
    if images.ndim not in (4, 5) or images.numel() == 0:
        raise InvalidValueError(
            f"images must have shape (N, C, H, W) or (N, C, T, H, W), none of them 0, got {tuple(images.shape)}"
        )
    images = images.as_subclass(Tensor)
    masks = check_masks(masks, images)
    if masks.shape[2:] != images.shape[2:]:
        raise InvalidValueError(
            f"masks must have the images' size {tuple(images.shape[2:])}, got {tuple(masks.shape[2:])}"
        )
    return images, masks


def _check_donors(donors: Tensor, masks: Tensor) -> None:
    if not isinstance(donors, Tensor) or donors.dtype != torch.int64:
        kind = donors.dtype if isinstance(donors, Tensor) else type(donors).__name__
        raise InvalidTypeError(f"donors must be an int64 tensor of indices, got {kind}")
    count = len(masks)
    if donors.shape != (count,) or donors.device != masks.device:
        raise InvalidValueError(
            f"donors must have shape ({count},) on {masks.device}, got {tuple(donors.shape)} on {donors.device}"
        )
    outside = (donors < 0) | (donors >= count)
    if bool(outside.any()):
        raise InvalidValueError(
            f"donors must be indices of the batch, from 0 to {count - 1}, got {donors[outside].tolist()}"
        )
    full = masks.flatten(1).all(1)
    others = donors != torch.arange(count, device=donors.device)
    useless = full[donors] & others
    if bool(useless.any()):
        raise InvalidValueError(
            f"donors must have background, but the images {donors[useless].unique().tolist()} are all foreground"
        )
