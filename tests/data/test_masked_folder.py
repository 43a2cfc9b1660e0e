"""Images in class folders with masks in a parallel folder: items, policies, and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from masked_files import ORIENTATION, Layout, save_mask, saved
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

from zennit_isnet import ISNetRegularizer
from zennit_isnet.data import MaskedImageFolder, evaluation_transform
from zennit_isnet.errors import InvalidTypeError, InvalidValueError


def folder(layout: Layout, **options: object) -> MaskedImageFolder:
    return MaskedImageFolder(layout.images, layout.masks, **options)  # type: ignore[arg-type]


def test_items_are_what_the_files_show(layout: Layout) -> None:
    data = folder(layout)
    assert len(data) == len(layout.files) == 4
    for index, (image, mask, label) in enumerate(data):
        assert isinstance(image, tv_tensors.Image)
        assert isinstance(mask, tv_tensors.Mask)
        assert torch.equal(image, layout.pixels[index])
        assert torch.equal(mask, layout.foreground[index])
        assert (type(label), label) == (int, layout.labels[index])


def test_classes_and_labels_are_known_without_reading_images(layout: Layout) -> None:
    for file in layout.files:
        (layout.images / file).write_bytes(b"")
    data = folder(layout)
    assert (data.classes, data.num_classes, data.multi_label) == (["digit0", "digit1"], 2, False)
    assert data.targets.tolist() == layout.labels
    assert [Path(data.name(index)) for index in range(4)] == [layout.images / file for file in layout.files]


def test_transform_gets_image_and_mask_together(layout: Layout) -> None:
    image, mask, _ = folder(layout, transform=v2.RandomHorizontalFlip(1.0))[0]
    assert torch.equal(image, layout.pixels[0].flip(-1))
    assert torch.equal(mask, layout.foreground[0].flip(-1))


def test_transform_that_moves_the_image_only_is_found(layout: Layout) -> None:
    data = folder(layout, transform=lambda image, mask: (image[..., :20], mask))
    with pytest.raises(InvalidValueError, match=r"move image and mask together.*\(3, 40, 20\).*\(1, 40, 40\)"):
        data[0]


@pytest.mark.parametrize("extension", ["jpg", "JPEG", "tiff", "bmp"])
def test_extensions_of_image_and_mask_may_differ(layout: Layout, extension: str) -> None:
    for file in layout.files:
        with Image.open(layout.images / file) as picture:
            saved(picture, (layout.images / file).with_suffix(f".{extension}"))
        (layout.images / file).unlink()
    assert [mask.tolist() for _, mask, _ in folder(layout)] == layout.foreground.tolist()


def test_nested_folders_and_suffixes_of_masks(layout: Layout) -> None:
    for root, suffix in ((layout.images, ""), (layout.masks, "_mask")):
        for file in map(Path, layout.files):
            (root / file.parent / "nested").mkdir(exist_ok=True)
            (root / file).rename(root / file.parent / "nested" / f"{file.stem}{suffix}.png")
    data = folder(layout, mask_suffix="_mask")
    assert [mask.tolist() for _, mask, _ in data] == layout.foreground.tolist()
    assert data.unused_masks == []


def test_masks_beside_their_images_are_told_by_the_suffix(layout: Layout) -> None:
    for file in layout.files:
        (layout.masks / file).rename((layout.images / file).with_name(f"{Path(file).stem}_mask.png"))
    data = MaskedImageFolder(layout.images, layout.images, mask_suffix="_mask", missing="skip-penalty")
    assert [mask.tolist() for _, mask, *_ in data] == layout.foreground.tolist()
    assert (data.targets.tolist(), data.unused_masks, data.notes) == (layout.labels, [], [])
    with pytest.raises(InvalidValueError, match=r"nearest is .*_mask\.png"):
        MaskedImageFolder(layout.images, layout.images, mask_suffix="_seg")


def test_the_suffix_may_occur_in_names_of_images(layout: Layout) -> None:
    first = layout.images / layout.files[0]
    first.rename(first.with_name("boat.png"))
    (layout.masks / layout.files[0]).rename(first.with_name("boatt.png"))
    data = MaskedImageFolder(layout.images, layout.images, mask_suffix="t", missing="skip-penalty")
    assert (len(data), sorted(has for *_, has in data)) == (4, [False, False, False, True])


def test_masks_without_an_image_are_kept_in_mind(layout: Layout) -> None:
    (layout.images / layout.files[0]).unlink()
    assert folder(layout).unused_masks == [str(layout.masks / layout.files[0])]


def test_missing_masks_are_an_error_that_names_the_images(layout: Layout) -> None:
    (layout.masks / layout.files[1]).unlink()
    with pytest.raises(InvalidValueError, match=f"1 of 4 images have no mask: .*{layout.files[1]}"):
        folder(layout)


def test_images_without_mask_can_be_left_out(layout: Layout) -> None:
    (layout.masks / layout.files[1]).unlink()
    data = folder(layout, missing="drop")
    assert [Path(data.name(index)).name for index in range(len(data))] == [
        Path(layout.files[index]).name for index in (0, 2, 3)
    ]
    assert data.targets.tolist() == [layout.labels[index] for index in (0, 2, 3)]
    assert data.dropped == [str(layout.images / layout.files[1])]
    assert len(data[0]) == 3


def test_images_without_mask_can_train_the_classifier_only(layout: Layout) -> None:
    (layout.masks / layout.files[1]).unlink()
    data = folder(layout, missing="skip-penalty")
    assert data.yields_has_mask
    assert [item[3] for item in data] == [True, False, True, True]
    _, mask, label, _ = data[1]
    assert not mask.any()
    assert label == layout.labels[1]


def test_nothing_is_left_if_all_masks_are_missing(layout: Layout) -> None:
    for file in layout.files:
        (layout.masks / file).unlink()
    with pytest.raises(InvalidValueError, match="at least one image"):
        folder(layout, missing="drop")


def test_masks_without_foreground_are_an_error_that_names_the_files(layout: Layout) -> None:
    save_mask(layout.masks / layout.files[0], torch.zeros(1, 40, 40))
    data = folder(layout)
    with pytest.raises(InvalidValueError, match=f"no foreground in the mask .*masks.*{layout.files[0]}"):
        data[0]
    assert len(data[1]) == 3


def test_masks_without_foreground_can_skip_the_penalty(layout: Layout) -> None:
    save_mask(layout.masks / layout.files[0], torch.zeros(1, 40, 40))
    assert [item[3] for item in folder(layout, empty="skip-penalty")] == [False, True, True, True]


def test_foreground_that_the_transform_loses_counts_as_none(layout: Layout) -> None:
    corner = v2.Lambda(lambda part: part[..., :4, :4])
    with pytest.raises(InvalidValueError, match="no foreground left after transform"):
        folder(layout, transform=corner)[0]
    assert [item[3] for item in folder(layout, transform=corner, empty="skip-penalty")] == [False] * 4


def test_masks_of_another_size_are_an_error_that_names_files_and_sizes(layout: Layout) -> None:
    save_mask(layout.masks / layout.files[0], torch.ones(1, 20, 40))
    with pytest.raises(InvalidValueError, match=r"images.*png has 40×40 .*masks.*png has 20×40; pass resize_masks"):
        folder(layout)[0]


@pytest.mark.parametrize("policy", [{}, {"resize_masks": True}, {"missing": "skip-penalty", "empty": "skip-penalty"}])
@pytest.mark.parametrize("size", [(30, 20), (60, 40), (16, 11)])
def test_mask_that_is_turned_against_its_image_is_refused(
    layout: Layout, size: tuple[int, int], policy: dict[str, object]
) -> None:
    """As the masks of phone photographs that were drawn on what the sensor saw."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    saved(Image.new("RGB", (30, 20)), layout.images / layout.files[0], exif=exif)
    saved(Image.new("1", size, 1), layout.masks / layout.files[0])
    with pytest.raises(
        InvalidValueError, match=f"{layout.files[0]} has 30×20 .*{size[1]}×{size[0]}; .*EXIF orientation"
    ):
        folder(layout, **policy)[0]


def test_resized_masks_call_no_foreground_background(layout: Layout) -> None:
    mask = torch.zeros(1, 80, 80)
    mask[0, 7, 7] = 1
    save_mask(layout.masks / layout.files[0], mask)
    _, resized, _ = folder(layout, resize_masks=True)[0]
    assert resized.dtype == torch.bool
    assert resized[0].nonzero().tolist() == [[3, 3]]


def test_values_of_masks_are_checked_and_the_file_named(layout: Layout) -> None:
    picture = Image.new("L", (40, 40))
    picture.putpixel((3, 3), 1)
    picture.putpixel((4, 4), 2)
    saved(picture, layout.masks / layout.files[0])
    with pytest.raises(InvalidValueError, match=f"mask .*{layout.files[0]} has the values 0, 1, 2"):
        folder(layout)[0]
    _, mask, _ = folder(layout, binarize={2})[0]
    assert mask[0].nonzero().tolist() == [[4, 4]]


def test_damaged_images_are_an_error_that_names_the_file(layout: Layout) -> None:
    (layout.images / layout.files[2]).write_bytes(b"damaged")
    with pytest.raises(InvalidValueError, match=f"image .*{layout.files[2]} cannot be read"):
        folder(layout)[2]


def test_classes_without_images_are_an_error_unless_allowed(layout: Layout) -> None:
    (layout.images / "digit7").mkdir()
    with pytest.raises(InvalidValueError, match="digit7"):
        folder(layout)
    assert folder(layout, allow_empty=True).classes == ["digit0", "digit1", "digit7"]


@pytest.mark.parametrize("which", ["images", "masks"])
def test_files_that_differ_in_their_extension_only_are_refused(layout: Layout, which: str) -> None:
    file = getattr(layout, which) / layout.files[0]
    file.with_suffix(".jpg").write_bytes(b"")
    first, second = sorted(map(str, (file, file.with_suffix(".jpg"))))
    with pytest.raises(InvalidValueError, match=f"{first} and {second}"):
        folder(layout)


@pytest.mark.parametrize("which", ["images_root", "masks_root"])
def test_folders_must_exist(layout: Layout, which: str) -> None:
    roots = {"images_root": layout.images, "masks_root": layout.masks, which: layout.images / "absent"}
    with pytest.raises(InvalidValueError, match=f"{which} must .*absent"):
        MaskedImageFolder(**roots)  # type: ignore[arg-type]


def test_folder_without_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="images_root must hold a folder of images for each class"):
        MaskedImageFolder(tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ({"missing": "ignore"}, InvalidValueError),
        ({"empty": "drop"}, InvalidValueError),
        ({"binarize": "otsu"}, InvalidValueError),
        ({"transform": "flip"}, InvalidTypeError),
    ],
)
def test_illegal_options_are_named(layout: Layout, option: dict[str, object], error: type[Exception]) -> None:
    (name,) = option
    with pytest.raises(error, match=f"{name} must be"):
        folder(layout, **option)


def test_workers_of_a_loader_get_the_data_set(layout: Layout) -> None:
    copy = pickle.loads(pickle.dumps(folder(layout, transform=evaluation_transform(32))))
    images, masks, labels = next(iter(DataLoader(copy, batch_size=4)))
    assert (images.shape, masks.shape, labels.tolist()) == ((4, 3, 32, 32), (4, 1, 32, 32), layout.labels)


def test_batches_fit_the_regularizer(layout: Layout) -> None:
    (layout.masks / layout.files[1]).unlink()
    data = folder(layout, missing="skip-penalty", transform=evaluation_transform(32, mean=0.5, std=0.5))
    images, masks, labels, has_mask = next(iter(DataLoader(data, batch_size=4)))
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(3600, 2))
    logits, penalty = ISNetRegularizer(model)(images, masks, has_mask)
    torch.nn.functional.cross_entropy(logits, labels).add(penalty).backward()
    assert model[0].weight.grad.abs().sum() > 0
    assert has_mask.tolist() == [True, False, True, True]
