"""Versions of images: what stays, what changes, and where the new background comes from."""

from __future__ import annotations

import random

import pytest
import torch
from audit_data import CORNER, OBJECT, Cued

from zennit_isnet.audit.reading import DONORS, Batch, MaskedImages, Survey, survey
from zennit_isnet.audit.run import versions, without_object


def looked_at(data: Cued, batch_size: int = 100) -> tuple[Batch, Survey]:
    source = MaskedImages(data, batch_size)
    (batch,) = source.batches("", progress=False)
    return batch, survey(source, None, seed=0, progress=False)


@pytest.mark.parametrize("version", ["kept", "swapped", "same_class", "mean", "black"])
def test_foreground_stays_bit_by_bit(data: Cued, version: str) -> None:
    batch, seen = looked_at(data)
    altered = versions(batch, seen, random.Random(0))[version]
    assert bool(altered.counts.all())
    inside = data.masks.expand_as(data.images)
    assert torch.equal(altered.images[inside], data.images[inside])
    if version != "kept":
        assert not torch.equal(altered.images[~inside], data.images[~inside])


def test_swapped_background_is_that_of_another_class_and_same_class_that_of_another_image(data: Cued) -> None:
    batch, seen = looked_at(data)
    found = versions(batch, seen, random.Random(0))
    corner = (slice(None), slice(None), *CORNER)
    assert torch.equal(found["swapped"].images[corner], torch.eye(3)[1 - data.labels])
    assert torch.equal(found["same_class"].images[corner], torch.eye(3)[data.labels])
    border = data.images[:, 0, 0, 1:]  # noise that tells images apart
    for version in ("swapped", "same_class"):
        donors = (found[version].images[:, None, 0, 0, 1:] == border).all(2)
        assert donors.sum(1).tolist() == [1] * len(data)
        assert not bool(donors.diagonal().any())


def test_object_is_gone_with_its_bounding_box(data: Cued) -> None:
    data.masks[:, :, 3, 2] = False  # an object that does not fill its box
    data.masks[:, :, 2, 3] = True
    removed = without_object(data.images, data.masks)
    assert bool(removed.counts.all())
    row, column = OBJECT
    box = torch.zeros(6, 6, dtype=torch.bool)
    box[2:4, 2:4] = True
    assert torch.equal(removed.images[..., ~box], data.images[..., ~box])
    assert bool((removed.images[..., box] < 1).all())
    changed = data.images.clone()
    changed[..., box] = torch.rand(len(data), 3, 4)
    assert torch.equal(without_object(changed, data.masks).images, removed.images)
    assert removed.images[:, :, row, column].max() < 0.5


def test_without_a_fitting_donor_or_a_free_pixel_a_version_does_not_count(data: Cued) -> None:
    data.labels[0] = 2  # the only one of its class
    data.masks[1, :, 0, 0] = data.masks[1, :, 5, 5] = True  # its box is the whole image
    batch, seen = looked_at(data)
    found = versions(batch, seen, random.Random(0))
    assert found["same_class"].counts.tolist() == [False] + [True] * 59
    assert found["removed"].counts.tolist() == [True, False] + [True] * 58
    assert bool(found["swapped"].counts.all())
    data.labels[:] = 1
    batch, seen = looked_at(data)
    assert not bool(versions(batch, seen, random.Random(0))["swapped"].counts.any())


def test_colours_are_the_mean_of_all_pixels_and_black(data: Cued) -> None:
    batch, seen = looked_at(data)
    torch.testing.assert_close(seen.colour.flatten(), data.images.mean((0, 2, 3)))
    found = versions(batch, seen, random.Random(0))
    outside = ~data.masks[0, 0]
    assert bool((found["black"].images[..., outside] == 0).all())
    assert bool((found["mean"].images[..., outside] == seen.colour.flatten(1)).all())


def test_black_is_black_before_the_normalisation(data: Cued) -> None:
    data.images = (data.images - 0.5) / 0.25
    seen = survey(MaskedImages(data, 100), ([0.5], [0.25]), seed=0, progress=False)
    assert seen.low.item() == -2
    assert seen.visible(seen.low).item() == 0


def test_donors_are_a_bounded_draw_from_all_images() -> None:
    data = Cued(count=2 * DONORS)
    source = MaskedImages(data, 100)
    first, again, other = (survey(source, None, seed=seed, progress=False).donors.indices for seed in (0, 0, 1))
    assert len(first) == len(first.unique()) == DONORS
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert bool((first >= DONORS).any())
    assert bool((first < DONORS).any())
