"""The benchmark: what its images, masks and cues promise."""

import pickle
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

from zennit_isnet.data import BackgroundBias, foreground_mask
from zennit_isnet.data.background_bias import (
    CUTS_PER_SIDE,
    TEXTURE_BRIGHTNESS,
    TEXTURES,
    Background,
    Bias,
    Split,
    load_texture,
    patch_mask,
)
from zennit_isnet.errors import InvalidTypeError, InvalidValueError

Digits = tuple[Tensor, Tensor]
BACKGROUNDS: tuple[Background, ...] = get_args(Background)
CUED: tuple[Background, ...] = ("biased", "unbiased", "confounding")
BIASES: tuple[Bias, ...] = get_args(Bias)
SPLITS: tuple[Split, ...] = get_args(Split)


def test_default_is_3500_training_500_validation_1000_test_images(all_digits: Digits) -> None:
    lengths = [len(BackgroundBias(split=split, source=all_digits)) for split in SPLITS]
    assert lengths == [3500, 500, 1000]


def test_digits_that_are_passed_equal_digits_that_are_loaded(digits: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zennit_isnet.data.background_bias.load_digits", lambda: digits)
    loaded, passed = BackgroundBias(split="validation"), BackgroundBias(split="validation", source=digits)
    assert torch.equal(loaded.images, passed.images)


@pytest.mark.parametrize("bias", BIASES)
def test_item_is_image_mask_and_label(digits: Digits, bias: Bias) -> None:
    data = BackgroundBias(split="test", bias=bias, size=40, source=digits)
    image, mask, label = data[3]
    assert isinstance(image, tv_tensors.Image)
    assert isinstance(mask, tv_tensors.Mask)
    assert (image.shape, image.dtype) == ((3, 40, 40), torch.float32)
    assert (mask.shape, mask.dtype) == ((1, 40, 40), torch.bool)
    assert type(label) is int
    assert label == data.labels[3] == digits[1][data.indices[3]]
    assert torch.equal(image, data.images[3])
    assert torch.equal(mask, data.masks[3])
    assert data.images.min() >= 0
    assert data.images.max() <= 1


def test_classes_and_targets_are_those_of_all_data_sets_with_masks(digits: Digits) -> None:
    data = BackgroundBias(split="test", source=digits)
    assert data.classes == list("0123456789")
    assert torch.equal(data.targets, data.labels)
    assert data.name(3) == f"test digit {data.indices[3]}"


def test_iteration_ends_after_the_last_image(digits: Digits) -> None:
    data = BackgroundBias(split="validation", source=digits)
    assert [label for _, _, label in data] == data.labels.tolist()  # type: ignore[attr-defined]


@pytest.mark.parametrize("bias", BIASES)
def test_under_the_mask_lies_the_digit_and_nothing_else(digits: Digits, bias: Bias) -> None:
    data = BackgroundBias(split="test", bias=bias, source=digits)
    ink = digits[0][data.indices]
    centre = data.masks[:, 0, 2:30, 2:30]
    assert torch.equal(centre, foreground_mask(ink)[:, 0])
    assert data.masks.sum() == centre.sum()
    for channel in range(3):
        assert torch.equal(data.images[:, channel, 2:30, 2:30][centre], ink[centre].float() / 255)


@pytest.mark.parametrize("size", [32, 45])
def test_patch_is_white_on_black_at_the_place_of_the_cue(digits: Digits, size: int) -> None:
    data = BackgroundBias(background="unbiased", size=size, source=digits)
    patches = patch_mask(data.cues, size)
    assert not bool((patches & data.masks).any())
    outside = data.images.masked_fill(data.masks, 0)
    assert torch.equal(outside, patches.float().expand_as(outside))


def test_patch_stays_clear_of_a_digit_that_fills_its_28_pixels() -> None:
    full = torch.full((100, 28, 28), 255, dtype=torch.uint8), torch.arange(10).repeat(10)
    data = BackgroundBias(source=full)
    assert not bool((patch_mask(data.cues, 32) & data.masks).any())
    assert data.images.masked_fill(data.masks, 0).flatten(1).sum(1).tolist() == [12.0] * len(data)


def test_texture_is_a_dimmed_piece_of_the_source_of_the_cue(digits: Digits) -> None:
    data = BackgroundBias(split="validation", background="unbiased", bias="texture", source=digits)
    pictures = [TEXTURE_BRIGHTNESS * load_texture(name, CUTS_PER_SIDE * 32) for name in TEXTURES]
    corners = [picture.unfold(1, 2, 1).unfold(2, 2, 1) for picture in pictures]
    for image, cue in zip(data.images, data.cues.tolist(), strict=True):
        found = [bool((corner == image[:, None, None, :2, :2]).all((0, 3, 4)).any()) for corner in corners]
        assert found[cue]
        assert sum(found) == 1


@pytest.mark.parametrize("bias", BIASES)
def test_foreground_alone_lies_on_black(digits: Digits, bias: Bias) -> None:
    data = BackgroundBias(background="none", bias=bias, source=digits)
    assert not bool(data.images.masked_fill(data.masks, 0).any())
    assert data.cues.unique().tolist() == [-1]


def test_cue_agrees_with_the_label_as_the_background_says(digits: Digits) -> None:
    agreement = {}
    for background in CUED:
        data = BackgroundBias(background=background, source=digits)
        agreement[background] = (data.cues == data.labels).float().mean().item()
    assert agreement["biased"] == 1
    assert agreement["confounding"] == 0
    assert 0.02 < agreement["unbiased"] < 0.2


@pytest.mark.parametrize("bias", BIASES)
def test_backgrounds_of_one_seed_show_the_same_digits_and_differ_only_outside_the_mask(
    digits: Digits, bias: Bias
) -> None:
    biased, *others = (BackgroundBias(split="test", background=kind, bias=bias, source=digits) for kind in BACKGROUNDS)
    for other in others:
        assert torch.equal(other.labels, biased.labels)
        assert torch.equal(other.masks, biased.masks)
        differs = (other.images != biased.images).any(dim=1, keepdim=True)
        assert not bool((differs & biased.masks).any())
        assert torch.equal(differs.flatten(1).any(1), other.cues != biased.cues)


@pytest.mark.parametrize("bias", BIASES)
def test_same_seed_same_data_and_another_seed_other_data(digits: Digits, bias: Bias) -> None:
    first, second, other = (
        BackgroundBias(background="unbiased", bias=bias, source=digits, seed=seed) for seed in (5, 5, 6)
    )
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.masks, second.masks)
    assert torch.equal(first.cues, second.cues)
    assert not torch.equal(first.indices, other.indices)
    assert not torch.equal(first.cues, other.cues)


@pytest.mark.parametrize("transform", [v2.RandomHorizontalFlip(p=1.0), v2.Resize(64), v2.RandomAffine(30, (0.1, 0.1))])
def test_v2_transform_moves_image_and_mask_together(digits: Digits, transform: v2.Transform) -> None:
    plain = BackgroundBias(split="validation", background="none", source=digits)
    moved = BackgroundBias(split="validation", background="none", source=digits, transform=transform)
    for position in range(10):
        image, mask, label = moved[position]
        assert label == plain[position][2]
        assert isinstance(mask, tv_tensors.Mask)
        assert mask.dtype == torch.bool
        assert image.shape[1:] == mask.shape[1:]
        assert mask.shape != plain[position][1].shape or not torch.equal(mask, plain[position][1])
        # Bright strokes stay inside their mask, because the dilation leaves them a margin of one pixel.
        assert not bool((image.amax(dim=0, keepdim=True) > 0.5)[~mask].any())


def test_transform_that_works_in_place_leaves_the_data_alone(digits: Digits) -> None:
    def erase(image: tv_tensors.Image, mask: tv_tensors.Mask) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        image.zero_()
        mask.zero_()
        return image, mask

    data = BackgroundBias(split="validation", source=digits, transform=erase)
    before = data.images.clone(), data.masks.clone()
    image, mask, _ = data[0]
    assert not bool(image.any() or mask.any())
    assert torch.equal(data.images, before[0])
    assert torch.equal(data.masks, before[1])


def test_loader_batches_images_masks_and_labels(digits: Digits) -> None:
    data = BackgroundBias(split="test", source=digits)
    images, masks, labels = next(iter(DataLoader(data, batch_size=16)))
    assert torch.equal(images, data.images[:16])
    assert torch.equal(masks, data.masks[:16])
    assert torch.equal(labels, data.labels[:16])


def test_pickled_data_is_the_same(digits: Digits) -> None:
    data = BackgroundBias(split="validation", source=digits)
    copy = pickle.loads(pickle.dumps(data))
    assert repr(copy) == repr(data)
    assert torch.equal(copy.images, data.images)


def test_num_classes_is_known_without_an_instance() -> None:
    assert BackgroundBias.num_classes == 10


@pytest.mark.parametrize(("name", "legal"), [("split", Split), ("background", Background), ("bias", Bias)])
def test_unknown_option_lists_the_legal_values(name: str, legal: Any) -> None:
    with pytest.raises(InvalidValueError, match=f"{name} .*'bogus'") as caught:
        BackgroundBias(**{name: "bogus"})
    assert all(repr(option) in str(caught.value) for option in get_args(legal))


IMAGES, LABELS = torch.full((40, 28, 28), 255, dtype=torch.uint8), torch.arange(10).repeat(4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"size": 31}, InvalidValueError, "size .*32.*31"),
        ({"size": 32.0}, InvalidTypeError, "size .*32.0"),
        ({"seed": True}, InvalidTypeError, "seed .*True"),
        ({"seed": -1}, InvalidValueError, "seed .*-1"),
        ({"source": "mnist"}, InvalidTypeError, "uint8 images and int64 labels; got .*'str'"),
        ({"source": (IMAGES,)}, InvalidTypeError, r"\[torch.uint8\]"),
        ({"source": (IMAGES, [0] * 40)}, InvalidTypeError, r"\[torch.uint8, 'list'\]"),
        ({"source": (IMAGES.float(), LABELS)}, InvalidTypeError, "torch.float32, torch.int64"),
        ({"source": (IMAGES, LABELS.int())}, InvalidTypeError, "torch.uint8, torch.int32"),
        ({"source": (IMAGES[:, 1:], LABELS)}, InvalidValueError, r"\(40, 27, 28\)"),
        ({"source": (IMAGES, LABELS[1:])}, InvalidValueError, r"labels .*\(40,\).*\(39,\)"),
        ({"source": (IMAGES, LABELS + 1)}, InvalidValueError, r"labels .*10"),
        ({"source": (IMAGES, LABELS - 1)}, InvalidValueError, r"labels .*-1"),
        ({"source": (IMAGES[:0], LABELS[:0])}, InvalidValueError, "train split of 0 digits"),
        ({"source": (IMAGES * 0, LABELS)}, InvalidValueError, "stroke"),
    ],
)
def test_bad_argument_shows_what_came_and_what_is_allowed(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        BackgroundBias(**arguments)
