"""Images in a folder for each class, masks in a parallel folder."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, has_file_allowed_extension, make_dataset

from zennit_isnet.data.binarization import Binarize
from zennit_isnet.data.decoding import Path
from zennit_isnet.data.files import MaskedFiles, listed_files
from zennit_isnet.data.masked import PairTransform
from zennit_isnet.data.policy import Empty, MaskPolicy, Missing
from zennit_isnet.errors import InvalidValueError


class MaskedImageFolder(MaskedFiles):
    """Images in one folder a class, as for `torchvision.datasets.ImageFolder`, with masks in a parallel folder.

    The image ``images_root/CLASS/.../NAME.jpg`` has the mask ``masks_root/CLASS/.../NAME.png``: the same relative
    path; the extensions may be any of torchvision's image extensions. Classes are the sorted names of the folders.

    Parameters
    ----------
    images_root, masks_root : path
        The two folders.
    mask_suffix : str, default ""
        What the names of masks add to those of images, such as ``"_mask"``.
    allow_empty : bool, default False
        Whether a class folder may hold no image, for instance in a small validation set.
    transform : callable, optional
        ``transform(image, mask) -> (image, mask)``, such as `training_transform` or `torchvision.transforms.v2`.
    missing : {"error", "skip-penalty", "drop"}, default "error"
        What becomes of images without a mask, see `MaskPolicy`.
    empty : {"error", "skip-penalty"}, default "error"
        What becomes of masks without foreground, see `MaskPolicy`.
    binarize : {"strict", "half", "nonzero"} or collection of int, default "strict"
        Which values of a mask are foreground, see `MaskPolicy`.
    resize_masks : bool, default False
        Whether masks of another size than their image are resized, see `MaskPolicy`.

    Attributes
    ----------
    classes, num_classes, multi_label, targets, yields_has_mask
        As for `MaskedDataset`.
    dropped : list of str
        Images that ``missing="drop"`` left out.
    unused_masks : list of str
        Mask files that belong to no image.

    Raises
    ------
    InvalidValueError
        If a folder does not exist or has no classes, a class has no image, an image has several masks or a mask
        several images, or an image has no mask and `missing` is ``"error"``. At reading: if a file cannot be read, a
        mask has another size than its image, illegal values or no foreground. Messages name the files.
    InvalidTypeError
        If an option has the wrong type.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from zennit_isnet.data import MaskedImageFolder, evaluation_transform
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for kind, mode in (("images", "RGB"), ("masks", "L")):
    ...         for animal in ("cat", "dog"):
    ...             file = Path(folder) / kind / animal / "1.png"
    ...             file.parent.mkdir(parents=True)
    ...             Image.new(mode, (40, 30), "white").save(file)
    ...     data = MaskedImageFolder(f"{folder}/images", f"{folder}/masks", transform=evaluation_transform(32))
    ...     image, mask, label = data[1]
    >>> data.classes, label, image.shape, mask.shape
    (['cat', 'dog'], 1, torch.Size([3, 32, 32]), torch.Size([1, 32, 32]))
    """

    def __init__(
        self,
        images_root: Path,
        masks_root: Path,
        *,
        mask_suffix: str = "",
        allow_empty: bool = False,
        transform: PairTransform | None = None,
        missing: Missing = "error",
        empty: Empty = "error",
        binarize: Binarize = "strict",
        resize_masks: bool = False,
    ) -> None:
        policy = MaskPolicy(missing, empty, binarize, resize_masks)
        images_root, masks_root = _existing("images_root", images_root), _existing("masks_root", masks_root)
        try:
            classes, class_index = find_classes(images_root)
            samples = make_dataset(images_root, class_index, IMG_EXTENSIONS, allow_empty=allow_empty)
        except FileNotFoundError as error:
            raise InvalidValueError(f"images_root must hold a folder of images for each class: {error}") from error
        image_of = _by_stem(images_root, [path for path, _ in samples])
        mask_of = _by_stem(masks_root, _image_files(masks_root))
        masks = [mask_of.pop(stem + mask_suffix, None) for stem in image_of]
        self.unused_masks = sorted(mask_of.values())
        targets = torch.tensor([label for _, label in samples], dtype=torch.int64)
        super().__init__(list(image_of.values()), masks, classes, targets, transform, policy)


def _existing(name: str, root: Path) -> str:
    if not os.path.isdir(root):
        raise InvalidValueError(f"{name} must be an existing folder; got {os.fspath(root)!r}")
    return os.fspath(root)


def _image_files(root: str) -> list[str]:
    files = (os.path.join(folder, name) for folder, _, names in os.walk(root, followlinks=True) for name in names)
    return [file for file in sorted(files) if has_file_allowed_extension(file, IMG_EXTENSIONS)]


def _by_stem(root: str, files: Sequence[str]) -> dict[str, str]:
    """Files by their relative paths without extension, in their order."""
    grouped: dict[str, list[str]] = {}
    for file in files:
        grouped.setdefault(os.path.splitext(os.path.relpath(file, root))[0], []).append(file)
    doubles = [" and ".join(same) for same in grouped.values() if len(same) > 1]
    if doubles:
        raise InvalidValueError(
            f"image and mask are paired by their names without extension, which these files share: "
            f"{listed_files(doubles)}"
        )
    return {stem: file for stem, (file,) in grouped.items()}
