"""Data sets whose images and masks are files."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision import tv_tensors

from zennit_isnet.data.decoding import Levels, read_image, read_levels
from zennit_isnet.data.masked import MaskedDataset, PairTransform
from zennit_isnet.data.policy import MaskPolicy
from zennit_isnet.errors import InvalidValueError

_NAMED_FILES = 8

_logger = logging.getLogger(__name__)


class MaskedFiles(MaskedDataset):
    """Images with masks, given as lists of files; what folders and tables have in common.

    Parameters
    ----------
    images : sequence of str
        Image files.
    masks : sequence of str or None
        The mask file of each image, None where there is none.
    classes : sequence of str
        Names of the classes.
    targets : torch.Tensor
        Labels, as for `MaskedDataset`.
    transform, policy
        As for `MaskedDataset`. Masks that do not exist are missing.

    Attributes
    ----------
    dropped : list of str
        Images that ``missing="drop"`` left out.

    Raises
    ------
    InvalidValueError
        If an image does not exist, a mask does not exist and that is an error, or no image remains.
    """

    def __init__(
        self,
        images: Sequence[str],
        masks: Sequence[str | None],
        classes: Sequence[str],
        targets: Tensor,
        transform: PairTransform | None,
        policy: MaskPolicy,
    ) -> None:
        absent = [image for image in images if not os.path.isfile(image)]
        if absent:
            raise InvalidValueError(f"{len(absent)} of {len(images)} images do not exist: {listed_files(absent)}")
        found = [mask if mask is not None and os.path.isfile(mask) else None for mask in masks]
        without = [
            image if mask is None else f"{image} (mask {mask})"
            for image, mask, existing in zip(images, masks, found, strict=True)
            if existing is None
        ]
        if without and policy.missing == "error":
            raise InvalidValueError(
                f"{len(without)} of {len(images)} images have no mask: {listed_files(without)}; "
                f'missing="skip-penalty" or "drop" allows this'
            )
        kept = [index for index, mask in enumerate(found) if mask is not None or policy.missing != "drop"]
        self.dropped = without if policy.missing == "drop" else []
        if self.dropped:
            _logger.info("left out %d of %d images, which have no mask", len(self.dropped), len(images))
        self._images, self._masks = [images[index] for index in kept], [found[index] for index in kept]
        super().__init__(classes, targets[torch.tensor(kept, dtype=torch.int64)], transform, policy)

    def name(self, index: int) -> str:
        """Path of the image file."""
        return self._images[index]

    def mask_name(self, index: int) -> str:
        """Path of the mask file."""
        return str(self._masks[index])

    def load_image(self, index: int) -> tv_tensors.Image:
        """Read the image file, see `read_image`."""
        return read_image(self._images[index])

    def load_levels(self, index: int, image: tv_tensors.Image) -> Levels | None:
        """Read the mask file, see `read_levels`."""
        mask = self._masks[index]
        return None if mask is None else read_levels(mask)


def listed_files(files: Sequence[str]) -> str:
    """Return the first few names for a message."""
    return ", ".join(files[:_NAMED_FILES]) + (", ..." if len(files) > _NAMED_FILES else "")
