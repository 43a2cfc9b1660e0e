"""What all data sets of images with foreground masks share: policies, checks and the form of an item."""

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
    """How a data set deals with masks that are not as they should be; by default each is an error.

    Parameters
    ----------
    missing : {"error", "skip-penalty", "drop"}, default "error"
        What becomes of images without a mask: an error, items with ``has_mask`` False, or left out. ``"error"``,
        because masks that are missing by mistake would weaken the training unseen.
    empty : {"error", "skip-penalty"}, default "error"
        What becomes of masks without any foreground, in the file or after the transform, for which the heatmap loss
        is not defined: an error at reading that names the file, or items with ``has_mask`` False.
    binarize : {"strict", "half", "nonzero"} or collection of int, default "strict"
        Which values of a mask are foreground: the one that is not 0, and an error if there are several; those above
        half of the format's range; all but 0; or the given values.
    resize_masks : bool, default False
        Whether masks of another size than their image are brought to its size, such that no foreground is ever
        called background. Otherwise they are an error: another size often means another picture. Masks that look
        turned by 90° against their image are an error either way.

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
    """Images with foreground masks and labels; base class of the data sets for one's own data.

    An item is ``(image, mask, label)``. If the policy for missing or empty masks is ``"skip-penalty"``, every item is
    ``(image, mask, label, has_mask)``, so that the default collation works and
    ``regularizer(images, masks, has_mask)`` trains only the classifier on images without a mask:

    ======== ==================================================================================================
    image    `tv_tensors.Image`, uint8 RGB ``(3, H, W)``, or what `transform` made of it
    mask     `tv_tensors.Mask`, bool ``(1, H, W)``, True on the foreground; all False where ``has_mask`` is False
    label    int; for several labels an image, float32 ``(C,)`` of 0 and 1, as `BCEWithLogitsLoss` takes it
    has_mask bool
    ======== ==================================================================================================

    A subclass says where images and masks come from: `name`, `mask_name`, `load_image` and `load_levels`. `name` is
    used by the constructor's messages, so what it needs is set before.

    Parameters
    ----------
    classes : sequence of str
        Names of the classes, in the order of the logits.
    targets : torch.Tensor
        Labels of all images: int64 ``(N,)``, or float32 ``(N, C)`` of 0 and 1 for several labels an image.
    transform : callable, optional
        ``transform(image, mask) -> (image, mask)``, such as `training_transform` or `torchvision.transforms.v2`.
    policy : MaskPolicy, optional
        What becomes of masks that are missing, empty, of other values or of another size. Default: an error each.

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
            legal = f"int64 (N,), or float32 (N, {count}) for several labels an image"
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
        """Name of an image, usually its file, for messages and reports."""

    @abstractmethod
    def mask_name(self, index: int) -> str:
        """Name of an image's mask."""

    @abstractmethod
    def load_image(self, index: int) -> Image:
        """Read an image without `transform`; `InvalidValueError` if it cannot be read."""

    @abstractmethod
    def load_levels(self, index: int, image: Image) -> Levels | None:
        """Read the mask's values of what `load_image` returned, None without a mask; errors as there."""

    def foreground(self, index: int, levels: Levels) -> Tensor:
        """Decide which pixels of a mask are foreground; bool ``(1, H, W)`` of the mask's own size."""
        return binarized(levels, self.policy.binarize, f"mask {self.mask_name(index)}")

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Item:
        image = self.load_image(index)
        levels = self.load_levels(index, image)
        if levels is None:
            if self.policy.missing != "skip-penalty":
                raise InvalidValueError(f'image {self.name(index)} has no mask; missing="skip-penalty" allows it')
            mask = torch.zeros(1, *image.shape[-2:], dtype=torch.bool)
        else:
            mask = self._fitted(index, self.foreground(index, levels), image)
            self._check_foreground(index, mask, "no foreground")
        moved = Mask(mask)
        if self.transform is not None:
            image, moved = self.transform(image, moved)
        if image.shape[-2:] != moved.shape[-2:]:
            made = f"of {self.name(index)} it made {tuple(image.shape)} and {tuple(moved.shape)}"
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
        drawn = "it looks turned, perhaps drawn before the EXIF orientation was applied: turn the mask"
        remedy = drawn if turned else "resize_masks=True resizes masks"
        raise InvalidValueError(f"image {self.name(index)} has {found}; {remedy}")

    def _check_foreground(self, index: int, mask: Tensor, what: str) -> None:
        if self.policy.empty == "error" and not bool(mask.any()):
            where = f"in the mask {self.mask_name(index)} of image {self.name(index)}"
            remedy = 'training_transform keeps foreground, empty="skip-penalty" allows such masks'
            raise InvalidValueError(f"{what} {where}, so the heatmap loss is not defined; {remedy}")
