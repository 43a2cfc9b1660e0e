"""Masks for any data set of images."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence, Sized
from numbers import Integral
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.datasets.vision import StandardTransform

from zennit_isnet.checks import check_choice
from zennit_isnet.data.decoding import TOP_8, TOP_16, Binarize, Levels, read_image, read_levels
from zennit_isnet.data.masked import Empty, MaskedDataset, MaskPolicy, PairTransform
from zennit_isnet.errors import InvalidTypeError, InvalidValueError

# Path, Pillow image, array or tensor (H, W) or (1, H, W); None where there is no mask.
RawMask: TypeAlias = Any
MaskFunction: TypeAlias = Callable[[Any, int], RawMask]

# Wider types have no conventional brightest value.
_TOPS = {torch.bool: 1, torch.uint8: TOP_8, torch.uint16: TOP_16}


def with_masks(
    dataset: Dataset[Any],
    masks: Sequence[RawMask] | MaskFunction | str,
    *,
    classes: Sequence[str] | None = None,
    targets: Sequence[int] | Tensor | None = None,
    transform: PairTransform | None = None,
    missing: Empty = "error",
    empty: Empty = "error",
    binarize: Binarize = "strict",
    resize_masks: bool = False,
) -> MaskedDataset:
    """Add foreground masks to any data set of images and labels.

    Parameters
    ----------
    dataset : Dataset
        Its items are tuples that begin with an image, or mappings with the entry ``image``, like rows of Hugging Face
        `datasets`. The image is a Pillow image or a uint8 array ``(H, W)`` or ``(H, W, 3)``, which becomes uint8 RGB,
        or a tensor ``(C, H, W)``, which is not changed. The EXIF orientation of Pillow images is applied.
    masks : sequence, callable or str
        The mask of each image; a function ``masks(image, index)`` that makes it, where `image` is the
        `tv_tensors.Image` before `transform`; or the name of the entry in `dataset`'s items that contains it (each item
        is then read twice). A mask is a path, a Pillow image, an array or tensor ``(H, W)`` or ``(1, H, W)``, or None.
    classes : sequence of str, optional
        Names of the classes. If None, ``dataset.classes``.
    targets : sequence of int or Tensor, optional
        Labels of all images: int64 ``(N,)``, or 0 and 1 ``(N, C)`` for several labels per image. If None,
        ``dataset.targets``.
    transform : callable, optional
        ``transform(image, mask) -> (image, mask)``, such as `training_transform` or `torchvision.transforms.v2`.
    missing : {"error", "skip-penalty"}, default="error"
        How images whose mask is None are handled, see `MaskPolicy`.
    empty : {"error", "skip-penalty"}, default="error"
        How masks without foreground are handled, see `MaskPolicy`.
    binarize : {"strict", "half", "nonzero"} or collection of int, default="strict"
        Which values of a mask are foreground, see `MaskPolicy`.
    resize_masks : bool, default=False
        Whether to resize masks whose size differs from their image, see `MaskPolicy`.

    Returns
    -------
    MaskedDataset

    Raises
    ------
    InvalidValueError
        If lengths disagree, classes or targets are neither given nor attributes of `dataset`, or `masks` is not a
        function and `dataset`, or one that it is made of, has its own transform. When an item is read: if its own label
        is not its target, and as for `MaskedImageFolder`.
    InvalidTypeError
        If an argument, image or mask has the wrong type.

    Examples
    --------
    >>> import torch
    >>> from torch.utils.data import TensorDataset
    >>> from zennit_isnet.data import with_masks
    >>> images = TensorDataset(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 1, 0]))
    >>> data = with_masks(
    ...     images,
    ...     lambda image, index: image.mean(0) > 0.5,
    ...     classes=["cat", "dog"],
    ...     targets=images.tensors[1],
    ... )
    >>> image, mask, label = data[1]
    >>> mask.shape, label
    (torch.Size([1, 8, 8]), 1)
    """
    # a sequence of masks may be lazy: missing masks are found when read, too late to leave images out
    check_choice("missing", missing, Empty)
    policy = MaskPolicy(missing, empty, binarize, resize_masks)
    count: int = len(dataset)  # type: ignore[arg-type]
    classes, targets = _given("classes", classes, dataset), _as_targets(_given("targets", targets, dataset))
    if not callable(masks) and _has_transform(dataset):
        raise InvalidValueError(
            "dataset has a transform that would not be applied to the masks: pass it to with_masks instead"
        )
    for name, values in (("masks", masks), ("targets", targets)):
        came = len(values) if isinstance(values, Sized) else type(values).__name__
        if not (callable(values) or isinstance(values, str)) and came != count:
            raise InvalidValueError(f"{name} must have one entry for each of {count} images; got {came}")
    return _WithMasks(dataset, masks, classes, targets, transform, policy)


class _WithMasks(MaskedDataset):
    def __init__(self, dataset: Any, masks: Any, *rest: Any) -> None:
        # set before the constructor, whose messages use the name
        self._dataset, self._masks = dataset, masks
        super().__init__(*rest)

    def name(self, index: int) -> str:
        return f"{type(self._dataset).__name__}[{index}]"

    def mask_name(self, index: int) -> str:
        return f"of {self.name(index)}"

    def load_image(self, index: int) -> tv_tensors.Image:
        item = self._dataset[index]
        if isinstance(item, Mapping):
            item = (item.get("image"), item.get("label"))
        if not isinstance(item, (tuple, list)) or not item:
            legal = 'tuples that begin with an image, or mappings with the entry "image"'
            raise InvalidTypeError(f"items of dataset must be {legal}; got {_described(item)}")
        target, label = self.targets[index], item[1] if len(item) > 1 else None
        if isinstance(label, (Tensor, np.ndarray)) and label.ndim == 0:
            label = label.item()
        if isinstance(label, Integral) and not self.multi_label and label != target:
            raise InvalidValueError(
                f"{self.name(index)} has the label {label}, but its target is {int(target)}; pass targets that agree"
            )
        image = item[0]
        if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape[2:] in ((), (3,)):
            image = Image.fromarray(image)
        if isinstance(image, Image.Image):
            return read_image(image, self.name(index))
        if isinstance(image, Tensor) and image.ndim == 3:
            # a copy, so that an in-place transform cannot change the data set
            return tv_tensors.Image(image.clone())
        kinds = "a Pillow image, a uint8 array (H, W) or (H, W, 3), or a tensor (C, H, W)"
        raise InvalidTypeError(f"image {self.name(index)} must be {kinds}; got {_described(image)}")

    def load_levels(self, index: int, image: tv_tensors.Image) -> Levels | None:
        if isinstance(self._masks, str):
            mask = self._entry(index, self._masks)
        else:
            mask = self._masks(image, index) if callable(self._masks) else self._masks[index]
        if mask is None:
            return None
        if isinstance(mask, (str, os.PathLike, Image.Image)):
            return read_levels(mask)
        if isinstance(mask, (Tensor, np.ndarray)):
            values = mask.detach().cpu() if isinstance(mask, Tensor) else torch.tensor(mask)
            values = values[0] if values.ndim == 3 and len(values) == 1 else values
            if values.ndim == 2 and values.is_floating_point():
                return Levels(values.double(), 1.0)
            if values.ndim == 2 and not values.is_complex():
                return Levels(values.long(), _TOPS.get(values.dtype))
        kinds = "a path, a Pillow image, an array or tensor (H, W) or (1, H, W), or None"
        raise InvalidTypeError(f"mask {self.mask_name(index)} must be {kinds}; got {_described(mask)}")

    def _entry(self, index: int, name: str) -> RawMask:
        item = self._dataset[index]
        if not isinstance(item, Mapping) or name not in item:
            found = ", ".join(map(str, item)) if isinstance(item, Mapping) else _described(item)
            raise InvalidTypeError(f"items of dataset must be mappings with the entry {name!r}; got {found}")
        return item[name]


def _has_transform(dataset: Any) -> bool:
    """Whether a data set, or one that it is made of, transforms its images."""
    # torchvision's StandardTransform repeats `transform` and the transform of the labels
    both = getattr(dataset, "transforms", None)
    if getattr(dataset, "transform", None) is not None or (both and not isinstance(both, StandardTransform)):
        return True
    parts = (getattr(dataset, "dataset", None), *(getattr(dataset, "datasets", None) or ()))
    return any(_has_transform(part) for part in parts if isinstance(part, Dataset) and part is not dataset)


def _as_targets(targets: Any) -> Tensor:
    try:
        tensor = torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidTypeError(f"targets must be integers, or 0 and 1 for each class; got {targets!r:.80}") from error
    return tensor.to(torch.int64 if tensor.ndim == 1 and not tensor.is_floating_point() else torch.float32)


def _given(name: str, value: Any, dataset: Any) -> Any:
    value = getattr(dataset, name, None) if value is None else value
    if value is None:
        raise InvalidValueError(f"pass {name}: {type(dataset).__name__} has no attribute {name}")
    return value


def _described(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ + ("" if shape is None else f" of shape {tuple(shape)}")
