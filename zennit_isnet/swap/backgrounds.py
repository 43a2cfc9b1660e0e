"""Images on other images' backgrounds, with given donors or donors drawn within a batch."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import gaussian_blur

from zennit_isnet.checks import Drawing, as_integers, check_has_mask, check_masks, check_number, kind_of
from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.functional import validate_foreground


def swap_backgrounds(images: Tensor, masks: Tensor, donors: Tensor, *, feather: float = 0.0) -> Tensor:
    r"""Put each image's foreground on the background of its donor.

    .. math:: x'_i = \alpha_i \odot x_i + (1 - \alpha_i) \odot b_{d_i}

    with the opacity :math:`\alpha_i`, which is the foreground mask where `feather` is 0, the donor :math:`d_i` and the
    donor's background :math:`b`: its image, with the hole left by its own object filled from the surrounding pixels
    (`zennit_isnet.swap.backgrounds.fill_holes`). No value of the donor's foreground enters the result. The outline of
    the donor's object may be visible as a blur. The hole is not filled from the image's own background, because that
    would show the cue that the swap should remove, in the shape of the donor's object.

    Parameters
    ----------
    images : torch.Tensor
        ``(N, C, H, W)`` or ``(N, C, T, H, W)``, of any real dtype and value range (for int64 up to 2 ** 53).
    masks : torch.Tensor
        Foreground masks, 1 (or True) on the object and 0 elsewhere: ``(N, 1, H, W)`` or ``(N, H, W)``, with ``T`` for
        videos. They should include the object's soft rim, which is otherwise lost.
    donors : torch.Tensor
        The index of each image's donor in the batch, ``(N,)``, dtype int64. An image that is its own donor is
        unchanged. `BackgroundSwap.with_donors` draws donors.
    feather : float, default=0.0
        Standard deviation in pixels of the Gaussian that makes the edge soft: :math:`\alpha = \max(m, \min(1, 2 G m))`
        falls from 1 at the edge to 0 at about twice this distance outside it, and is 1 on the whole foreground. The
        default is a hard edge: within a soft edge the image's own background stays visible, including its cues.

    Returns
    -------
    torch.Tensor
        Shape, dtype and device of `images`; bitwise equal to them on the foreground. Differentiable with respect to
        `images`.

    Raises
    ------
    InvalidTypeError
        If an argument is not a tensor, or has a dtype that is not allowed.
    InvalidValueError
        If shapes, devices or values do not match: masks with values other than 0 and 1 or without foreground, donors
        outside the batch, a donor without background, a negative `feather`.

    Notes
    -----
    The values of masks and donors are read, which synchronises an accelerator once. `BackgroundSwap` draws valid donors
    and does not synchronise.

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
    .. [1] Xiao, K., Engstrom, L., Ilyas, A., Madry, A. "Noise or signal: the role of image backgrounds in object
       recognition". ICLR 2021. arXiv:2006.09994.
    """
    images, masks = check_pair(images, masks)
    check_number("feather", feather, include_low=True)
    validate_foreground(masks)
    donors = as_integers("donors", donors, masks.shape[:1], masks.device, len(masks), booleans=False)
    full = masks.flatten(1).all(1)
    useless = full[donors] & (donors != torch.arange(len(donors), device=donors.device))
    if bool(useless.any()):
        raise InvalidValueError(
            f"donors must have background; got images {donors[useless].unique().tolist()} without any"
        )
    return exchanged(images, masks == 1, donors, feather)


class RandomBackgrounds(Drawing):
    """Base class of transforms that change backgrounds at random: their draws, and the checks of a batch.

    Parameters
    ----------
    probability, generator, validate
        See `BackgroundSwap`.
    """

    def __init__(
        self, probability: float = 0.5, generator: torch.Generator | None = None, *, validate: bool = False
    ) -> None:
        check_number("probability", probability, high=1.0, include_low=True)
        super().__init__(generator)
        self.probability = probability
        self.validate = validate
        self._called = False

    def _prepared(self, images: Tensor, masks: Tensor, has_mask: Any) -> tuple[Tensor, Tensor]:
        """Return images and boolean foreground; an image without a mask becomes all foreground."""
        images, masks = check_pair(images, masks)
        flags = check_has_mask(has_mask, len(images), images.device).view(-1, *(1,) * (masks.ndim - 1))
        masks = torch.where(flags, masks, torch.ones_like(masks))
        # reading values synchronises an accelerator
        if self.validate or not self._called or images.device.type == "cpu":
            validate_foreground(masks)
        self._called = True
        return images, masks == 1


class BackgroundSwap(RandomBackgrounds):
    r"""Exchange the backgrounds of some images of a batch, to weaken their correlation with the labels.

    A batch transform for training: labels and masks do not change. The participating images are arranged in a random
    circle, and each chosen image gets the background of the next one. So no image is its own donor, each background is
    given at most once, and images that are not chosen still give theirs. Donors are drawn regardless of their label: a
    new background is then independent of the label, while one that is never from the same class would reveal what the
    image is not. If each of C equally frequent classes has its own background, the share of images on their class's
    background falls from 1 to about :math:`1 - p + p/C` with probability :math:`p`: with few classes, one half still
    leaves a strong cue.

    Images participate if they have a mask with some background. If fewer than two do, as in a batch of one, the batch
    is unchanged.

    Parameters
    ----------
    probability : float, default=0.5
        Probability that an image gets another background, in [0, 1]. The default of one half lets the model see real
        images too, which its BatchNorm statistics must fit at test time.
    feather : float, default=0.0
        Softness of the edge in pixels, see `swap_backgrounds`.
    generator : torch.Generator, optional
        Generator of the random draws, on the CPU. Pass a seeded one for reproducible runs. If None, PyTorch's
        global generator is used. The draws do not depend on the device of the images.
    validate : bool, default=False
        Whether to check the values of masks at every call on accelerators too, which synchronises the device. On the
        CPU, and at the first call, they are always checked.

    Raises
    ------
    InvalidTypeError
        If an argument has the wrong type.
    InvalidValueError
        If `probability` or `feather` is out of range, or `generator` is not on the CPU.

    Examples
    --------
    As augmentation, before the model or a regularizer sees the batch:

    >>> import torch
    >>> from zennit_isnet.swap import BackgroundSwap
    >>> swap = BackgroundSwap(probability=1.0, generator=torch.Generator().manual_seed(0))
    >>> images, masks = torch.rand(4, 3, 8, 8), torch.zeros(4, 1, 8, 8)
    >>> masks[..., 2:6, 2:6] = 1
    >>> swapped = swap(images, masks)
    >>> bool((swapped == images)[..., 2:6, 2:6].all()), bool((swapped == images)[..., :2, :].any())
    (True, False)

    As a loss term, see `swap_consistency`; as a test, see `swap_gap`.
    """

    def __init__(
        self,
        probability: float = 0.5,
        feather: float = 0.0,
        generator: torch.Generator | None = None,
        *,
        validate: bool = False,
    ) -> None:
        super().__init__(probability, generator, validate=validate)
        check_number("feather", feather, include_low=True)
        self.feather = feather

    def __call__(self, images: Tensor, masks: Tensor, has_mask: Any = None) -> Tensor:
        """Return the batch with some backgrounds exchanged.

        Parameters
        ----------
        images : torch.Tensor
            ``(N, C, H, W)`` or ``(N, C, T, H, W)``, of any real dtype.
        masks : torch.Tensor
            Foreground masks, 1 on the object and 0 elsewhere: ``(N, 1, H, W)`` or ``(N, H, W)``, with ``T`` for videos.
        has_mask : torch.Tensor of bool, optional
            ``(N,)``; images without a mask neither give nor get a background, and their entries in `masks` are ignored.

        Returns
        -------
        torch.Tensor
            New images, as from `swap_backgrounds`; `images` is not changed.

        Raises
        ------
        InvalidTypeError, InvalidValueError
            If an argument is not allowed; nothing is drawn then.
        """
        return self.with_donors(images, masks, has_mask)[0]

    def with_donors(self, images: Tensor, masks: Tensor, has_mask: Any = None) -> tuple[Tensor, Tensor]:
        """Return the same batch as a call, and the donor of each background.

        Parameters
        ----------
        images, masks, has_mask
            As for a call.

        Returns
        -------
        images : torch.Tensor
        donors : torch.Tensor
            The index of each image's donor in the batch, its own if the image is unchanged; ``(N,)``, dtype
            int64.

        Raises
        ------
        InvalidTypeError, InvalidValueError
            As for a call.
        """
        images, foreground = self._prepared(images, masks, has_mask)
        # an image without background does not participate
        takes_part = ~foreground.flatten(1).all(1)
        # a fixed number of draws, and no device synchronisation
        places, chances = torch.rand(2, len(images), generator=self.generator).to(images.device)
        own = torch.arange(len(images), device=images.device)
        circle = places.masked_fill(~takes_part, torch.inf).argsort()
        following = circle[(own + 1) % takes_part.sum().clamp(min=1)]
        others = torch.empty_like(circle).scatter(0, circle, following)
        donors = torch.where(takes_part & (chances < self.probability), others, own)
        return exchanged(images, foreground, donors, self.feather), donors


class BackgroundFade(RandomBackgrounds):
    r"""Fade the backgrounds of some images of a batch towards their darkest value, to weaken their cues.

    .. math:: x' = m \odot x + (1 - m) \odot (r + s\,(x - r))

    with the foreground mask :math:`m`, the darkest value :math:`r` of each channel of the image, and a strength
    :math:`s` drawn uniformly from [0, 1] for each image. Images do not mix.

    A batch transform for training, before the call of a regularizer. Alone it does not remove a shortcut. Together with
    the heatmap loss it exposes the effect of a background through the network's gates, which are constant at one
    strength and change between two.

    Parameters
    ----------
    probability : float, default=0.5
        Probability that an image is faded, in [0, 1]. The default of one half lets the model see real images too.
    generator : torch.Generator, optional
        Generator of the random draws, on the CPU. Pass a seeded one for reproducible runs. If None, PyTorch's
        global generator is used. The draws do not depend on the device of the images.
    validate : bool, default=False
        As for `BackgroundSwap`.

    Raises
    ------
    InvalidTypeError
        If an argument has the wrong type.
    InvalidValueError
        If `probability` is out of range, or `generator` is not on the CPU.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.swap import BackgroundFade
    >>> fade = BackgroundFade(probability=1.0, generator=torch.Generator().manual_seed(0))
    >>> images, masks = torch.rand(4, 3, 8, 8), torch.zeros(4, 1, 8, 8)
    >>> masks[..., 2:6, 2:6] = 1
    >>> faded = fade(images, masks)
    >>> bool((faded == images)[..., 2:6, 2:6].all()), bool((faded <= images).all())
    (True, True)
    """

    def __call__(self, images: Tensor, masks: Tensor, has_mask: Any = None) -> Tensor:
        """Return the batch with some backgrounds faded.

        Parameters
        ----------
        images : torch.Tensor
            Floating point, ``(N, C, H, W)`` or ``(N, C, T, H, W)``.
        masks, has_mask
            As for `BackgroundSwap`.

        Returns
        -------
        torch.Tensor
            New images; `images` is not changed. Differentiable with respect to `images`.

        Raises
        ------
        InvalidTypeError, InvalidValueError
            If an argument is not allowed; nothing is drawn then.
        """
        if isinstance(images, Tensor) and not images.is_floating_point():
            raise InvalidTypeError(
                f"images must be floating; got {images.dtype}; convert them first, for example by ToDtype(scale=True)"
            )
        images, foreground = self._prepared(images, masks, has_mask)
        one_an_image = (len(images), *(1,) * (images.ndim - 1))
        chance, strength = torch.rand(2, *one_an_image, generator=self.generator).to(images.device)
        darkest = images.amin(tuple(range(2, images.ndim)), keepdim=True)
        faded = darkest + strength.to(images.dtype) * (images - darkest)
        return torch.where(foreground | (chance >= self.probability), images, faded)


def exchanged(images: Tensor, foreground: Tensor, donors: Tensor, feather: float) -> Tensor:
    """Return the swapped images; arguments as for `swap_backgrounds`, checked, with a boolean foreground."""
    # half precision and small integers are filled in float32, which represents their values exactly
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
    """Return the opacity: 1 on the foreground, falling to 0 outside it; float32, shape of `foreground`.

    Parameters
    ----------
    foreground : torch.Tensor
        ``(N, 1, H, W)`` or ``(N, 1, T, H, W)``, dtype bool; frames are blurred one by one.
    feather : float
        Standard deviation of the Gaussian in pixels, above 0.
    """
    mask = foreground.float()
    # the blur reflects at the border, so its radius must stay below the image size
    sides = [2 * min(math.ceil(3 * feather), length - 1) + 1 for length in mask.shape[-2:]]
    blurred = gaussian_blur(mask.movedim(1, -3), [sides[1], sides[0]], [feather, feather]).movedim(-3, 1)
    return torch.maximum(mask, (2 * blurred).clamp(max=1))


def fill_holes(images: Tensor, known: Tensor) -> Tensor:
    """Fill holes smoothly from the pixels around them.

    Known pixels are repeatedly averaged to half the resolution until one cell is left. On the way back, each hole gets
    interpolated values from the finest level that reaches a known pixel. The cost is a few poolings, whatever the size
    of the holes. The filling consists of weighted means of known pixels, so it stays in their value range.

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
    .. [1] Gortler, S. J., Grzeszczuk, R., Szeliski, R., Cohen, M. F. "The Lumigraph". SIGGRAPH 1996. Section 3.4, the
       pull-push algorithm.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.swap.backgrounds import fill_holes
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


def check_pair(images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return images as a plain tensor, and masks as one of shape ``(N, 1, H, W)`` or ``(N, 1, T, H, W)``.

    Raises
    ------
    InvalidTypeError
        If one is not a tensor, or images are complex or boolean.
    InvalidValueError
        If shapes or devices do not match.
    """
    if not isinstance(images, Tensor) or images.is_complex() or images.dtype == torch.bool:
        raise InvalidTypeError(f"images must be a Tensor (N, C, H, W), integer or floating; got {kind_of(images)}")
    if images.ndim not in (4, 5) or images.numel() == 0:
        raise InvalidValueError(f"images must have shape (N, C, H, W) or (N, C, T, H, W); got {tuple(images.shape)}")
    images = images.as_subclass(Tensor)
    masks = check_masks(masks, images)
    if masks.shape[2:] != images.shape[2:]:
        raise InvalidValueError(f"masks must have the images' size {tuple(images.shape[2:])}; got {tuple(masks.shape)}")
    return images, masks
