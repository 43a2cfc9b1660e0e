"""Oxford-IIIT Pet: photographs of cats and dogs with trimaps."""

from __future__ import annotations

import os
from typing import Literal, TypeAlias

import torch
from torchvision.datasets import OxfordIIITPet

from zennit_isnet.checks import check_choice
from zennit_isnet.data.decoding import Path
from zennit_isnet.data.files import MaskedFiles
from zennit_isnet.data.masked import PairTransform
from zennit_isnet.data.policy import Empty, MaskPolicy, Missing
from zennit_isnet.errors import InvalidValueError

PetSplit: TypeAlias = Literal["trainval", "test"]
PetLabels: TypeAlias = Literal["breed", "species"]

# The values of a trimap; the background is 2.
FOREGROUND, BORDER = 1, 3


class OxfordPetMasks(MaskedFiles):
    """Oxford-IIIT Pet with its trimaps as foreground masks: 37 breeds, or cats and dogs.

    Parameters
    ----------
    root : path
        The folder that holds, or receives, ``oxford-iiit-pet``, as for `torchvision.datasets.OxfordIIITPet`.
    split : {"trainval", "test"}, default "trainval"
        3,680 or 3,669 images.
    labels : {"breed", "species"}, default "breed"
        37 classes, or cat and dog.
    border_is_foreground : bool, default True
        Whether the trimap's border between animal and background, a few pixels wide, is foreground. By default it
        is, so that the loss never punishes relevance on the animal's own fur.
    download : bool, default False
        Whether torchvision may download the data set (about 800 MB).
    transform, missing, empty, resize_masks
        As for `MaskedImageFolder`.

    Raises
    ------
    InvalidValueError
        If the data set is not there, an option is illegal, an image does not exist, or a trimap does not exist and
        `missing` is ``"error"``. At reading as for `MaskedImageFolder`.

    Examples
    --------
    >>> from zennit_isnet.data import OxfordPetMasks, training_transform
    >>> data = OxfordPetMasks("datasets", transform=training_transform(224), download=True)  # doctest: +SKIP
    >>> image, mask, label = data[0]  # doctest: +SKIP

    References
    ----------
    Parkhi, Vedaldi, Zisserman, Jawahar: Cats and Dogs. CVPR 2012.
    """

    def __init__(
        self,
        root: Path,
        split: PetSplit = "trainval",
        *,
        labels: PetLabels = "breed",
        border_is_foreground: bool = True,
        download: bool = False,
        transform: PairTransform | None = None,
        missing: Missing = "error",
        empty: Empty = "error",
        resize_masks: bool = False,
    ) -> None:
        check_choice("split", split, PetSplit)
        check_choice("labels", labels, PetLabels)
        try:
            pets = OxfordIIITPet(root, split, download=download)
        except (RuntimeError, OSError) as error:
            raise InvalidValueError(
                f"Oxford-IIIT Pet could not be loaded from root={os.fspath(root)!r} with download={download}: {error}"
            ) from error
        folder = os.path.join(root, "oxford-iiit-pet")
        with open(os.path.join(folder, "annotations", f"{split}.txt"), encoding="utf-8") as file:
            names, breeds, species = zip(*(line.split()[:3] for line in file), strict=True)
        values = {FOREGROUND, BORDER} if border_is_foreground else {FOREGROUND}
        numbers, classes = (breeds, pets.classes) if labels == "breed" else (species, pets.bin_classes)
        super().__init__(
            [os.path.join(folder, "images", f"{name}.jpg") for name in names],
            [os.path.join(folder, "annotations", "trimaps", f"{name}.png") for name in names],
            classes,
            torch.tensor([int(number) - 1 for number in numbers]),
            transform,
            MaskPolicy(missing, empty, values, resize_masks),
        )
