"""`BackgroundSwap`: backgrounds exchanged at random within a batch."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zennit_isnet.checks import check_generator, check_has_mask, check_number
from zennit_isnet.errors import InvalidValueError
from zennit_isnet.functional import validate_foreground
from zennit_isnet.swap.backgrounds import check_pair, exchanged


class BackgroundSwap:
    r"""Exchange the backgrounds of some images of a batch, so that they go less with the labels.

    A batch transform for training: labels and masks stay as they are. The images that take part are brought into a
    random circle, and each of them that is chosen gets the background of the next one. So nobody is their own donor,
    each background is given away at most once, and images that are not chosen still give theirs. Donors are drawn
    whatever their label is: a new background then says nothing about the label, while one that is never of the same
    class would say what the image is not. Where each of C equally frequent classes has its own background, the share of
    images on that of their class falls from 1 to about :math:`1 - p + p/C` with probability :math:`p`: for few classes,
    one half still leaves a strong hint.

    Images take part if they have a mask, with some background. Where fewer than two of them do, as in a batch of one,
    the batch stays as it is.

    Parameters
    ----------
    probability : float, default=0.5
        The chance of each image to get another background, in [0, 1]. One half, so that the model still sees real
        images, which the statistics of its BatchNorm layers must fit at test time.
    feather : float, default=0.0
        Softness of the edge in pixels (`swap_backgrounds`).
    generator : torch.Generator, optional
        Source of the draws, on the CPU. Pass a seeded one for runs that can be repeated; by default PyTorch's global
        generator is used. The draws do not depend on the device of the images.
    validate : bool, default=False
        Whether the values of masks are checked at every call on accelerators too, where that waits for the device. On
        the CPU, and at the first call, they always are.

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
        check_number("probability", probability, high=1.0, include_low=True)
        check_number("feather", feather, include_low=True)
        check_generator(generator)
        self.probability = probability
        self.feather = feather
        self.generator = generator
        self.validate = validate
        self._called = False

    def __call__(self, images: Tensor, masks: Tensor, has_mask: Any = None) -> Tensor:
        """Return the batch with some backgrounds exchanged.

        Parameters
        ----------
        images : torch.Tensor
            ``(N, C, H, W)`` or ``(N, C, T, H, W)``, of any real dtype.
        masks : torch.Tensor
            Foreground masks, 1 on the object and 0 elsewhere: ``(N, 1, H, W)`` or ``(N, H, W)``, with ``T`` for videos.
        has_mask : torch.Tensor of bool, optional
            ``(N,)``; images without a mask neither give nor get a background, and what stands in `masks` for them is
            ignored.

        Returns
        -------
        torch.Tensor
            New images, as from `swap_backgrounds`; `images` is not changed.

        Raises
        ------
        InvalidTypeError, InvalidValueError
            If an argument is not allowed; nothing has been drawn then.
        """
        swapped, _ = self.with_donors(images, masks, has_mask)
        return swapped

    def with_donors(self, images: Tensor, masks: Tensor, has_mask: Any = None) -> tuple[Tensor, Tensor]:
        """Return the batch as a call does, and who gave each background.

        Parameters
        ----------
        images, masks, has_mask
            As for a call.

        Returns
        -------
        images : torch.Tensor
        donors : torch.Tensor
            The index in the batch of each image's donor, its own where the image stayed as it is; ``(N,)``, dtype
            int64.

        Raises
        ------
        InvalidTypeError, InvalidValueError
            As for a call.
        """
        images, masks = check_pair(images, masks)
        flags = check_has_mask(has_mask, len(images), images.device).view(-1, *(1,) * (masks.ndim - 1))
        # without background an image takes no part
        masks = torch.where(flags, masks, torch.ones_like(masks))
        # reading values makes an accelerator wait
        if self.validate or not self._called or images.device.type == "cpu":
            validate_foreground(masks)
        self._called = True
        foreground = masks == 1
        donors = self._draw(takes_part=~foreground.flatten(1).all(1))
        return exchanged(images, foreground, donors, self.feather), donors

    def state_dict(self) -> dict[str, Tensor]:
        """State of the generator; empty for the global generator, which belongs to the user."""
        return {} if self.generator is None else {"generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the state of the generator, so that the draws go on as they would have.

        Parameters
        ----------
        state : mapping of str to torch.Tensor
            From the `state_dict` of a swap that had a generator if and only if this one has.

        Raises
        ------
        InvalidValueError
            If `state` has other keys than this swap's own state.
        """
        expected = sorted(self.state_dict())
        if sorted(state) != expected:
            raise InvalidValueError(f"the state of {self!r} must have the keys {expected}; got {sorted(state)}")
        if self.generator is not None:
            self.generator.set_state(state["generator"].cpu())

    def _draw(self, takes_part: Tensor) -> Tensor:
        """Draw the donors; always the same count of random numbers, and no wait for the device."""
        count = len(takes_part)
        places, chances = torch.rand(2, count, generator=self.generator).to(takes_part.device)
        images = torch.arange(count, device=takes_part.device)
        circle = places.masked_fill(~takes_part, torch.inf).argsort()
        following = circle[(images + 1) % takes_part.sum().clamp(min=1)]
        donors = torch.empty_like(circle).scatter(0, circle, following)
        return torch.where(takes_part & (chances < self.probability), donors, images)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(probability={self.probability}, feather={self.feather})"
