"""Base class of all data sets of images with foreground masks: policies, checks and the form of an item."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.tv_tensors import Image, Mask

from zennit_isnet.checks import check_callable, check_choice, looks_turned
from zennit_isnet.data.decoding import Binarization, Binarize, Levels, binarized
from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.functional import resize_foreground

PairTransform: TypeAlias = Callable[[Image, Mask], tuple[Image, Mask]]
Item: TypeAlias = tuple[Image, Mask, int | Tensor] | tuple[Image, Mask, int | Tensor, bool]
Missing: TypeAlias = Literal["error", "skip-penalty", "drop"]
Empty: TypeAlias = Literal["error", "skip-penalty"]


@dataclass(frozen=True)
class MaskPolicy:
    """How a data set handles faulty masks; by default each is an error.

    Parameters
    ----------
    missing : {"error", "skip-penalty", "drop"}, default="error"
        Images without a mask: an error, items with ``has_mask`` False, or left out. ``"error"`` is the default because
        masks missing by mistake would silently weaken the training.
    empty : {"error", "skip-penalty"}, default="error"
        Masks without any foreground, in the file or after the transform, for which the heatmap loss is undefined: an
        error that names the file when the item is read, or items with ``has_mask`` False.
    binarize : {"strict", "half", "nonzero"} or collection of int, default="strict"
        Which values of a mask are foreground: the only nonzero value (several are an error); values above half of the
        format's range; all values but 0; or the given values.
    resize_masks : bool, default=False
        Whether to resize masks whose size differs from their image, without ever turning foreground into background.
        Otherwise they are an error: another size often means another image. Masks that look rotated by 90° against
        their image are always an error.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If a value is not allowed.
    """

    missing: Missing = "error"
    empty: Empty = "error"
    binarize: Binarize = "strict"
    resize_masks: bool = False

    def __post_init__(self) -> None:
        check_choice("missing", self.missing, Missing)
        check_choice("empty", self.empty, Empty)
        if isinstance(self.binarize, str):
            check_choice("binarize", self.binarize, Binarization)
        elif not isinstance(self.binarize, Collection) or {type(value) for value in self.binarize} != {int}:
            words = ", ".join(map(repr, get_args(Binarization)))
            raise InvalidTypeError(f"binarize must be one of {words}, or at least one integer; got {self.binarize!r}")


class MaskedDataset(Dataset[Any], ABC):
    """Images with foreground masks and labels; base class for data sets.

    An item is ``(image, mask, label)``. If the policy for missing or empty masks is ``"skip-penalty"``, every item is
    ``(image, mask, label, has_mask)``, so that the default collation works and
    ``regularizer(images, masks, has_mask)`` trains only the classifier on images without a mask:

    ======== ==================================================================================================
    image    `tv_tensors.Image`, uint8 RGB ``(3, H, W)``, or what `transform` made of it
    mask     `tv_tensors.Mask`, bool ``(1, H, W)``, True on the foreground; all False where ``has_mask`` is False
    label    int; for several labels per image, float32 ``(C,)`` of 0 and 1, as `BCEWithLogitsLoss` takes it
    has_mask bool
    ======== ==================================================================================================

    A subclass defines where images and masks come from: `name`, `mask_name`, `load_image` and `load_levels`. The
    constructor's messages use `name`, so set the attributes it needs first.

    Parameters
    ----------
    classes : sequence of str
        Names of the classes, in the order of the logits.
    targets : torch.Tensor
        Labels of all images: int64 ``(N,)``, or float32 ``(N, C)`` of 0 and 1 for several labels per image.
    transform : callable, optional
        ``transform(image, mask) -> (image, mask)``, such as `training_transform` or `torchvision.transforms.v2`.
    policy : MaskPolicy, optional
        How masks that are missing, empty, of another size or with other values are handled. If None, as errors.

    Attributes
    ----------
    classes : list of str
    targets : torch.Tensor
    transform : callable or None
        May be replaced.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If an option or the targets are not allowed.

    Examples
    --------
    Images that are in memory:

    >>> import torch
    >>> from torchvision import tv_tensors
    >>> from zennit_isnet.data import MaskedDataset
    >>> from zennit_isnet.data.decoding import Levels
    >>> class InMemory(MaskedDataset):
    ...     def name(self, index):
    ...         return f"image {index}"
    ...
    ...     mask_name = name
    ...
    ...     def load_image(self, index):
    ...         return tv_tensors.Image(torch.zeros(3, 8, 8, dtype=torch.uint8))
    ...
    ...     def load_levels(self, index, image):
    ...         values = torch.zeros(8, 8, dtype=torch.uint8)
    ...         values[2:6, 2:6] = 255
    ...         return Levels(values, top=255.0)
    >>> image, mask, label = InMemory(["cat", "dog"], torch.tensor([0, 1, 1]))[2]
    >>> image.shape, int(mask.sum()), label
    (torch.Size([3, 8, 8]), 16, 1)
    """

    def __init__(
        self,
        classes: Sequence[str],
        targets: Tensor,
        transform: PairTransform | None = None,
        policy: MaskPolicy = MaskPolicy(),
    ) -> None:
        check_callable(transform=transform)
        self.classes, self.targets, self.transform, self.policy = list(classes), targets, transform, policy
        count = len(classes)
        kind = (targets.dtype, targets.shape[1:]) if isinstance(targets, Tensor) else type(targets)
        if kind == (torch.int64, ()):
            wrong, legal = (targets < 0) | (targets >= count), f"from 0 to {count - 1}"
        elif kind == (torch.float32, (count,)):
            wrong, legal = ((targets != 0) & (targets != 1)).any(1), "0 or 1"
        else:
            legal = f"int64 (N,), or float32 (N, {count}) for several labels per image"
            raise InvalidValueError(f"targets must be {legal}; got {kind}")
        if not len(targets):
            raise InvalidValueError("a data set must have at least one image; got none")
        if bool(wrong.any()):
            index = int(wrong.nonzero()[0])
            found = f"image {self.name(index)} has {targets[index].tolist()}"
            raise InvalidValueError(f"labels of {count} classes must be {legal}; {found}")

    @property
    def num_classes(self) -> int:
        """Number of classes, and of logits."""
        return len(self.classes)

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several labels."""
        return self.targets.ndim == 2

    @property
    def yields_has_mask(self) -> bool:
        """Whether items have the fourth entry ``has_mask``."""
        return "skip-penalty" in (self.policy.missing, self.policy.empty)

    @abstractmethod
    def name(self, index: int) -> str:
        """Return the name of an image, usually its file, for messages and reports."""

    @abstractmethod
    def mask_name(self, index: int) -> str:
        """Return the name of an image's mask."""

    @abstractmethod
    def load_image(self, index: int) -> Image:
        """Read an image without `transform`; `InvalidValueError` if it cannot be read."""

    @abstractmethod
    def load_levels(self, index: int, image: Image) -> Levels | None:
        """Read the values of the mask for the output of `load_image`; None without a mask. Errors as there."""

    def foreground(self, index: int, levels: Levels) -> Tensor:
        """Decide which pixels of a mask are foreground; returns bool ``(1, H, W)`` in the mask's own size."""
        return binarized(levels, self.policy.binarize, f"mask {self.mask_name(index)}")

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Item:
        image = self.load_image(index)
        levels = self.load_levels(index, image)
        if levels is None:
            if self.policy.missing != "skip-penalty":
                raise InvalidValueError(
                    f'image {self.name(index)} has no mask; pass missing="skip-penalty" to allow this'
                )
            mask = torch.zeros(1, *image.shape[-2:], dtype=torch.bool)
        else:
            mask = self._fitted(index, self.foreground(index, levels), image)
            self._check_foreground(index, mask, "no foreground")
        moved = Mask(mask)
        if self.transform is not None:
            image, moved = self.transform(image, moved)
        if image.shape[-2:] != moved.shape[-2:]:
            made = f"got {tuple(image.shape)} and {tuple(moved.shape)} for {self.name(index)}"
            raise InvalidValueError(f"transform must move image and mask together; {made}")
        if levels is not None:
            self._check_foreground(index, moved, "no foreground left after transform")
        target = self.targets[index]
        label = target.clone() if self.multi_label else int(target)
        return (image, moved, label, bool(moved.any())) if self.yields_has_mask else (image, moved, label)

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {len(self)} images of {self.num_classes} classes"

    def _fitted(self, index: int, mask: Tensor, image: Tensor) -> Tensor:
        (height, width), own = image.shape[-2:], mask.shape[-2:]
        if own == (height, width):
            return mask
        turned = looks_turned(own, (height, width))
        if self.policy.resize_masks and not turned:
            return resize_foreground(mask.unsqueeze(0), (height, width))[0].bool()
        found = f"{height}×{width} pixels (height × width), but its mask {self.mask_name(index)} has {own[0]}×{own[1]}"
        drawn = "it looks rotated, perhaps drawn before the EXIF orientation was applied: rotate the mask"
        remedy = drawn if turned else "pass resize_masks=True to resize masks"
        raise InvalidValueError(f"image {self.name(index)} has {found}; {remedy}")

    def _check_foreground(self, index: int, mask: Tensor, what: str) -> None:
        if self.policy.empty == "error" and not bool(mask.any()):
            where = f"in the mask {self.mask_name(index)} of image {self.name(index)}"
            remedy = 'use training_transform, which keeps foreground, or pass empty="skip-penalty"'
            raise InvalidValueError(f"{what} {where}, so the heatmap loss is undefined; {remedy}")
