"""Masks for data sets that have none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from masked_files import Layout
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset
from torchvision.datasets import FakeData, ImageFolder
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import to_pil_image

from zennit_isnet.data import with_masks
from zennit_isnet.data.masked import MaskedDataset
from zennit_isnet.errors import InvalidTypeError, InvalidValueError


def wrapped(masks: Any, **options: Any) -> MaskedDataset:
    """Three tensors of two classes, with masks."""
    images = TensorDataset(torch.rand(3, 3, 8, 8), torch.tensor([0, 1, 1]))
    return with_masks(images, masks, **{"classes": ["cat", "dog"], "targets": [0, 1, 1], **options})


@pytest.fixture
def masks() -> torch.Tensor:
    return torch.rand(3, 8, 8) > 0.5


@pytest.mark.parametrize(
    "form",
    [
        lambda mask: mask,
        lambda mask: mask.unsqueeze(0),
        lambda mask: mask.to(torch.uint8),
        lambda mask: mask.double(),
        lambda mask: mask.numpy(),
        lambda mask: (mask.numpy() * 255).astype(np.uint16),
        lambda mask: to_pil_image(mask.to(torch.uint8)),
    ],
    ids=["bool", "channel", "uint8", "float64", "array", "array16", "picture"],
)
def test_masks_come_in_many_forms(masks: torch.Tensor, form: Any) -> None:
    data = wrapped([form(mask) for mask in masks])
    assert [mask[0].tolist() for _, mask, _ in data] == masks.tolist()
    assert all((mask.shape, mask.dtype) == ((1, 8, 8), torch.bool) for _, mask, _ in data)


def test_class_folders_get_masks_by_path(layout: Layout) -> None:
    data = with_masks(ImageFolder(layout.images), [str(layout.masks / file) for file in layout.files])
    assert (data.classes, data.targets.tolist()) == (["digit0", "digit1"], layout.labels)
    for index, (image, mask, label) in enumerate(data):
        assert torch.equal(image, layout.pixels[index])
        assert torch.equal(mask, layout.foreground[index])
        assert label == layout.labels[index]


def test_function_makes_the_mask_from_the_image(layout: Layout) -> None:
    data = with_masks(ImageFolder(layout.images), lambda image, index: image[0] > 200)
    assert [mask.tolist() for _, mask, _ in data] == (layout.pixels[:, :1] > 200).tolist()


def test_function_sees_the_image_that_is_yielded() -> None:
    class Noise(Dataset[Any]):
        classes, targets = ("noise",), (0,)

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return torch.rand(3, 8, 8), 0

    image, mask, _ = with_masks(Noise(), lambda image, index: image[0] > 0.5)[0]
    assert torch.equal(mask[0], image[0] > 0.5)


class Rows(list[dict[str, Any]]):
    """Rows of columns, as `datasets.Dataset` gives them: decoded anew at each access."""

    def __getitem__(self, index: Any) -> Any:
        return dict(super().__getitem__(index))


def as_rows(layout: Layout, image: Any = to_pil_image, mask: Any = to_pil_image) -> Rows:
    parts = zip(layout.pixels, layout.foreground.to(torch.uint8), layout.labels, strict=True)
    return Rows({"image": image(pixels), "mask": mask(shape), "label": label} for pixels, shape, label in parts)


@pytest.mark.parametrize(
    ("image", "mask"),
    [(to_pil_image, to_pil_image), (lambda pixels: pixels.permute(1, 2, 0).numpy(), lambda mask: mask[0].numpy())],
    ids=["pictures", "arrays"],
)
def test_rows_of_columns_hold_image_and_mask(layout: Layout, image: Any, mask: Any) -> None:
    data = with_masks(as_rows(layout, image, mask), "mask", classes=["zero", "one"], targets=layout.labels)
    for index, item in enumerate(data):
        assert torch.equal(item[0], layout.pixels[index])
        assert torch.equal(item[1], layout.foreground[index])
        assert item[2] == layout.labels[index]


def test_rows_without_a_mask_follow_the_policy(layout: Layout) -> None:
    rows = as_rows(layout, mask=lambda mask: None)
    data = with_masks(rows, "mask", classes=["zero", "one"], targets=layout.labels, missing="skip-penalty")
    assert [item[3] for item in data] == [False] * 4


def test_columns_must_be_there_and_labels_those_of_the_rows(layout: Layout) -> None:
    options: dict[str, Any] = {"classes": ["zero", "one"], "targets": layout.labels}
    with pytest.raises(InvalidTypeError, match="mappings with the entry 'lungs'; got image, mask, label"):
        with_masks(as_rows(layout), "lungs", **options)[0]
    with pytest.raises(InvalidTypeError, match="mappings with the entry 'mask'; got tuple"):
        wrapped("mask")[0]
    with pytest.raises(InvalidTypeError, match=r"image Rows\[0\] must be a Pillow image.*NoneType"):
        with_masks(Rows({"picture": None} for _ in range(4)), "mask", **options)[0]
    with pytest.raises(InvalidValueError, match=r"Rows\[0\] has the label 0, but its target is 1"):
        with_masks(as_rows(layout), "mask", **{**options, "targets": [1] * 4})[0]


def test_transform_moves_both(masks: torch.Tensor) -> None:
    plain, moved = (wrapped(masks, transform=transform) for transform in (None, v2.RandomVerticalFlip(1.0)))
    moved._dataset = plain._dataset  # type: ignore[attr-defined]
    for before, after in zip(plain, moved, strict=True):
        assert torch.equal(after[0], before[0].flip(-2))
        assert torch.equal(after[1], before[1].flip(-2))


def test_transform_in_place_leaves_the_data_set_alone(masks: torch.Tensor) -> None:
    data = wrapped(masks, transform=lambda image, mask: (image.zero_(), mask))
    assert not data[0][0].any()
    assert data.load_image(0).any()


def test_images_without_mask_follow_the_policy(masks: torch.Tensor) -> None:
    some = [masks[0], None, masks[2]]
    with pytest.raises(InvalidValueError, match=r"TensorDataset\[1\] has no mask"):
        wrapped(some)[1]
    assert [item[3] for item in wrapped(some, missing="skip-penalty")] == [True, False, True]
    with pytest.raises(InvalidValueError, match="missing must be one of 'error', 'skip-penalty'; got 'drop'"):
        wrapped(some, missing="drop")


def test_several_labels_an_image(masks: torch.Tensor) -> None:
    data = wrapped(masks, targets=[[1, 0], [1, 1], [0, 0]])
    assert data.multi_label
    assert [label.tolist() for _, _, label in data] == [[1, 0], [1, 1], [0, 0]]


@pytest.mark.parametrize("form", [int, np.int64, torch.tensor], ids=["int", "np.int64", "tensor"])
def test_labels_of_the_items_must_be_the_targets(masks: torch.Tensor, form: Any) -> None:
    items = [(torch.rand(3, 8, 8), form(1))]
    assert with_masks(items, masks[:1], classes=["cat", "dog"], targets=[1])[0][2] == 1
    with pytest.raises(InvalidValueError, match="has the label 1, but its target is 0"):
        with_masks(items, masks[:1], classes=["cat", "dog"], targets=[0])[0]


def test_sequences_of_masks_refuse_data_sets_that_transform_their_images(layout: Layout) -> None:
    flipped = ImageFolder(layout.images, transform=v2.RandomHorizontalFlip())
    both = FakeData(size=4)
    both.transforms = v2.RandomHorizontalFlip()
    for dataset in (flipped, Subset(flipped, range(4)), ConcatDataset([flipped]), both):
        with pytest.raises(InvalidValueError, match="dataset has a transform"):
            with_masks(dataset, [None] * 4, classes=["a", "b"], targets=[0] * 4)


def test_transforms_of_labels_and_those_that_were_taken_off_are_allowed(layout: Layout) -> None:
    for option in ("target_transform", "transform"):
        data = ImageFolder(layout.images, **{option: lambda value: value})
        data.transform = None
        assert len(with_masks(data, [None] * 4, missing="skip-penalty")) == 4


def test_classes_and_targets_are_needed(layout: Layout, masks: torch.Tensor) -> None:
    for missing in ("classes", "targets"):
        with pytest.raises(InvalidValueError, match=f"{missing}: TensorDataset has no attribute"):
            wrapped(masks, **{missing: None})
    subset = Subset(ImageFolder(layout.images), [0, 3])
    assert with_masks(subset, [None] * 2, classes=["a", "b"], targets=[0, 1], missing="skip-penalty")[1][2] == 1


@pytest.mark.parametrize("name", ["masks", "targets"])
def test_lengths_must_agree(masks: torch.Tensor, name: str) -> None:
    options: dict[str, Any] = {"masks": masks, name: [0, 1]}
    with pytest.raises(InvalidValueError, match=f"{name} must have one entry for each of 3 images; got 2"):
        wrapped(options.pop("masks"), **options)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([0, 1, 2], r"labels of 2 classes must be from 0 to 1; image TensorDataset\[2\] has 2"),
        ([0, -1, 1], r"image TensorDataset\[1\] has -1"),
        ([[1, 0], [0, 2], [0, 0]], r"must be 0 or 1; image TensorDataset\[1\]"),
        ([[1], [0], [0]], r"targets must be int64 \(N,\), or float32 \(N, 2\)"),
        ([0.5, 0.5, 0.5], r"targets must be int64"),
    ],
)
def test_illegal_targets_are_named(masks: torch.Tensor, targets: Any, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        wrapped(masks, targets=targets)


def test_targets_are_no_names(masks: torch.Tensor) -> None:
    with pytest.raises(InvalidTypeError, match=r"targets must be integers, or 0 and 1 for each class; got \['cat'"):
        wrapped(masks, targets=["cat", "dog", "dog"])


@pytest.mark.parametrize("mask", [3.0, torch.zeros(2, 8, 8), torch.zeros(8), torch.zeros(8, 8, dtype=torch.complex64)])
def test_other_masks_are_refused(mask: Any) -> None:
    with pytest.raises(InvalidTypeError, match=r"mask of TensorDataset\[0\] must be a path"):
        wrapped([mask] * 3)[0]


@pytest.mark.parametrize("item", [Image.new("L", (8, 8)), ("text", 0), (torch.zeros(8, 8), 0), ()])
def test_other_items_are_refused(item: Any) -> None:
    class Items(Dataset[Any]):
        classes, targets = ("only",), (0,)

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> Any:
            return item

    with pytest.raises(InvalidTypeError, match=r"items of dataset must|image Items\[0\] must"):
        with_masks(Items(), [None])[0]
