"""Values of the heatmap loss: the authors' numbers, and a slow oracle over many settings."""

import pickle
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

import loss_oracle
import numpy as np
import pytest
import torch

from zennit_isnet import HeatmapLoss
from zennit_isnet.functional import (
    background_loss,
    foreground_loss,
    heatmap_loss,
    normalized_background,
    total_relevance,
)

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "reference.npz")
GOLDEN_LOSSES = sorted(key for key in GOLDEN.files if "/loss/d=" in key)
VARIANTS = {"L2": "squared", "hybrid": "hybrid"}
NORMALIZATIONS = {"absRoIMean": "absolute_first", "RoIMean": "normalize_first"}


def golden_loss(key, **options):
    """Our losses for the heatmaps and options of one array of the reference, shape (c1, N)."""
    path, settings = key.split("/loss/")
    settings = dict(setting.split("=") for setting in settings.split(","))
    loss = HeatmapLoss(
        foreground_weight=3.0,
        background_scale=1.0,
        decay=float(settings["d"]),
        foreground_variant=VARIANTS[settings["foreground"]],
        normalization=NORMALIZATIONS[settings["norm"]],
        **options,
    )
    heatmaps, mask = torch.from_numpy(GOLDEN[f"{path}/heatmap"]), torch.from_numpy(GOLDEN["mask"])
    c1s = GOLDEN[f"{path}/loss/c1"].tolist()
    return torch.stack([loss(heatmaps, mask, c1, 25 * c1) for c1 in c1s]).numpy()


def test_the_reference_has_every_setting():
    assert len(GOLDEN_LOSSES) == 3 * 2 * 2 * 2 * 2


@pytest.mark.parametrize("key", GOLDEN_LOSSES)
def test_equals_the_authors_implementation(key):
    # The authors add 1e-10 to the mean of the foreground. It shows in one heatmap, whose signed mean nearly cancels:
    # there it is 2e-4 of the mean, so the loss itself moves by 1.2e-5.
    np.testing.assert_allclose(golden_loss(key, stabilizer=1e-10), GOLDEN[key], rtol=1e-5)
    cancels = key.startswith("conv_bn/original") and key.endswith("=RoIMean")
    np.testing.assert_allclose(golden_loss(key), GOLDEN[key], rtol=2e-5 if cancels else 1e-5)


SHAPES = {
    "image": ((2, 1, 3, 6, 5), (6, 5)),
    "several heatmaps": ((2, 4, 3, 4, 4), (4, 4)),
    "one channel, finer mask": ((2, 1, 1, 4, 4), (8, 9)),
    "coarser mask": ((2, 2, 2, 6, 6), (3, 4)),
    "video": ((2, 2, 3, 2, 4, 3), (2, 4, 3)),
    "video, finer mask": ((2, 1, 2, 2, 3, 3), (4, 6, 5)),
}


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
@pytest.mark.parametrize("decay", [1.0, 0.9])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_a_slow_oracle(shape, decay, dtype, rtol, generator):
    shape, mask_size = SHAPES[shape]
    relevance = torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype) + 0.5
    foreground = torch.rand(shape[0], *mask_size, generator=generator) < 0.2
    foreground.flatten(1)[:, 0] = True
    total = total_relevance(relevance).mean().item()
    for variant, normalization, c1, scale in product(
        ("hybrid", "squared"), ("absolute_first", "normalize_first"), (total / 100, total / 3, 2 * total), (1.0, 10.0)
    ):
        loss = heatmap_loss(
            relevance,
            foreground,
            c1,
            5 * c1,
            background_weight=0.7,
            foreground_weight=3.0,
            decay=decay,
            background_scale=scale,
            foreground_variant=variant,
            normalization=normalization,
        )
        expected = [
            loss_oracle.image_loss(
                image.double().numpy(),
                mask.numpy(),
                c1,
                5 * c1,
                decay=decay,
                scale=scale,
                variant=variant,
                normalization=normalization,
                weights=(0.7, 3.0),
            )
            for image, mask in zip(relevance, foreground, strict=True)
        ]
        assert loss.dtype == dtype
        np.testing.assert_allclose(loss.numpy(), expected, rtol=rtol)


def test_parts_add_up_to_the_whole(generator):
    relevance = torch.randn(3, 2, 3, 8, 8, generator=generator)
    foreground = torch.ones(3, 1, 8, 8)
    foreground[..., :3] = 0
    loss = heatmap_loss(relevance, foreground, 1.0, 25.0, background_weight=2.0, foreground_weight=0.25)
    parts = 2 * background_loss(relevance, foreground) + 0.25 * foreground_loss(relevance, foreground, 1.0, 25.0)
    torch.testing.assert_close(loss, parts)
    torch.testing.assert_close(
        background_loss(relevance, foreground),
        (normalized_background(relevance, foreground) / 0.01).log1p().mean(dim=(1, 2)),
    )


def test_each_image_has_its_own_loss(generator):
    relevance = torch.randn(4, 2, 3, 8, 8, generator=generator)
    foreground = torch.rand(4, 1, 8, 8, generator=generator) < 0.5
    together = heatmap_loss(relevance, foreground, 1.0, 25.0)
    alone = torch.cat([heatmap_loss(relevance[[i]], foreground[[i]], 1.0, 25.0) for i in range(4)])
    torch.testing.assert_close(together, alone)
    assert heatmap_loss(relevance[:0], foreground[:0], 1.0, 25.0).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32, torch.float64])
def test_layout_and_dtype_of_the_mask_do_not_matter(dtype, generator):
    relevance = torch.randn(2, 1, 3, 8, 8, generator=generator)
    foreground = (torch.rand(2, 1, 8, 8, generator=generator) < 0.5).float()
    expected = heatmap_loss(relevance, foreground, 1.0, 25.0)
    for layout in (foreground, foreground[:, 0]):
        loss = heatmap_loss(relevance, layout.to(dtype), 1.0, 25.0)
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_compute_in_float32(dtype, generator):
    relevance = torch.randn(2, 1, 3, 16, 16, generator=generator).to(dtype).requires_grad_()
    foreground = torch.rand(2, 1, 16, 16, generator=generator) < 0.5
    expected = heatmap_loss(relevance.float(), foreground, 1.0, 25.0)
    with torch.autocast("cpu", torch.bfloat16):
        loss = heatmap_loss(relevance, foreground, 1.0, 25.0)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0, atol=0)
    loss.sum().backward()
    assert relevance.grad.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_range_may_be_scalar_tensors(dtype, generator):
    relevance = torch.randn(2, 2, 3, 8, 8, generator=generator, dtype=dtype)
    foreground = torch.ones(2, 8, 8)
    for c1, variant in product((0.5, 100.0, 1000.0), ("hybrid", "squared")):
        as_tensors = (torch.tensor(c1, dtype=torch.float64), torch.tensor(3 * c1, dtype=torch.float64))
        loss = foreground_loss(relevance, foreground, *as_tensors, variant=variant)
        assert loss.dtype == dtype
        torch.testing.assert_close(loss, foreground_loss(relevance, foreground, c1, 3 * c1, variant=variant))


def test_total_relevance_is_the_mean_over_the_heatmaps_of_the_absolute_sum():
    relevance = torch.tensor([[1.0, -2.0], [3.0, 6.0]]).reshape(1, 2, 1, 1, 2)
    assert total_relevance(relevance).tolist() == [6.0]
    assert total_relevance(relevance.half()).dtype == torch.float32
    assert total_relevance(relevance.expand(3, 2, 4, 5, 2)).tolist() == [6.0 * 20] * 3


def test_the_loss_is_a_record_of_its_options(generator):
    relevance = torch.randn(2, 2, 3, 8, 8, generator=generator)
    foreground = torch.rand(2, 1, 8, 8, generator=generator) < 0.5
    options = {
        "background_weight": 2.0,
        "foreground_weight": 0.5,
        "decay": 0.3,
        "background_scale": 4.0,
        "foreground_variant": "squared",
        "normalization": "normalize_first",
        "stabilizer": 0.1,
    }
    loss = HeatmapLoss(**options)
    assert asdict(loss) == options
    assert pickle.loads(pickle.dumps(loss)) == loss != HeatmapLoss()
    found = loss(relevance, foreground, 1.0, 9.0)
    assert torch.equal(found, heatmap_loss(relevance, foreground, 1.0, 9.0, **options))
    for name in options:
        default = replace(loss, **{name: getattr(HeatmapLoss(), name)})
        assert not torch.equal(found, default(relevance, foreground, 1.0, 9.0)), name
