"""The measures of localization: values, ties, symmetries, shapes, dtypes and what is undefined."""

import re
from functools import partial

import measures_oracle as oracle
import pytest
import torch
from metric_data import MEASURES, K, data

from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.functional import (
    background_share,
    energy_pointing_game,
    pointing_game,
    pool_channels,
    relevance_mass_accuracy,
    relevance_rank_accuracy,
    top_k_intersection,
)

SIGNED, NON_NEGATIVE = list(oracle.CHANNELS), [name for name in oracle.CHANNELS if name != "sum"]
CASES = [
    *((background_share, oracle.background_share, pooling) for pooling in NON_NEGATIVE),
    *((relevance_mass_accuracy, oracle.foreground_share, pooling) for pooling in NON_NEGATIVE),
    *((relevance_rank_accuracy, oracle.rank_accuracy, pooling) for pooling in SIGNED if pooling != "sum_pos"),
    *((pointing_game, oracle.pointing_game, pooling) for pooling in SIGNED),
    *((partial(top_k_intersection, k=K), partial(oracle.top_k, k=K), pooling) for pooling in SIGNED),
]
each_measure = pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)


@pytest.mark.parametrize(("measure", "slow", "pooling"), CASES)
def test_values_are_those_of_the_formula(measure, slow, pooling, generator):
    heatmaps, foreground = data(generator)
    expected = [
        [slow(heatmap, mask[0], pooling) for heatmap in maps] for maps, mask in zip(heatmaps, foreground, strict=True)
    ]
    torch.testing.assert_close(
        measure(heatmaps, foreground, pooling=pooling), torch.tensor(expected, dtype=torch.float64), check_dtype=False
    )


def test_the_energy_pointing_game_is_the_share_of_positive_relevance(generator):
    heatmaps, foreground = data(generator, heatmaps=1)
    expected = [
        oracle.foreground_share(maps[0], mask[0], "sum_pos") for maps, mask in zip(heatmaps, foreground, strict=True)
    ]
    torch.testing.assert_close(
        energy_pointing_game(heatmaps[:, 0], foreground), torch.tensor(expected, dtype=torch.float64)
    )


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_ties_count_as_the_mean_over_their_orders(count, generator):
    for _ in range(10):
        values = torch.randint(0, 3, (5,), generator=generator).double()
        flags = torch.rand(5, generator=generator) < 0.5
        flags[0] = values[1] = True
        expected = oracle.mean_hits_over_all_orders(values.tolist(), flags.tolist(), count) / count
        found = top_k_intersection(values.view(1, 1, 5), flags.view(1, 1, 5), k=count)
        assert found.item() == pytest.approx(expected)


def test_a_constant_heatmap_knows_nothing():
    heatmap, foreground = torch.ones(1, 4, 5), torch.zeros(1, 4, 5)
    foreground[0, 0] = 1
    for measure in (pointing_game, relevance_rank_accuracy, partial(top_k_intersection, k=3), relevance_mass_accuracy):
        assert measure(heatmap, foreground).item() == pytest.approx(0.25)


@pytest.mark.parametrize("tolerance", [0, 1, 2, 3])
def test_the_tolerance_is_a_distance_in_pixels(tolerance, generator):
    foreground = torch.zeros(1, 1, 9, 8)
    foreground[0, 0, 4, 5] = foreground[0, 0, 2, 2] = 1
    expected = oracle.grown(foreground[0, 0], tolerance)
    for cell in range(72):
        heatmap = torch.zeros(1, 72)
        heatmap[0, cell] = 1
        assert pointing_game(heatmap.view(1, 9, 8), foreground, tolerance=tolerance).item() == expected.flatten()[cell]


@each_measure
def test_the_scale_of_the_relevance_does_not_matter(measure, generator):
    heatmaps, foreground = data(generator)
    for scale in (2.0**-40, 2.0**40):
        torch.testing.assert_close(measure(scale * heatmaps, foreground), measure(heatmaps, foreground))


@pytest.mark.parametrize("measure", [background_share, pointing_game])
@pytest.mark.parametrize("pooling", NON_NEGATIVE)
def test_squares_of_relevance_leave_no_range(measure, pooling, generator):
    heatmaps, foreground = data(generator)
    heatmaps = heatmaps.float()
    expected = measure(heatmaps, foreground, pooling=pooling)
    for scale in (2.0**-100, 2.0**100):
        assert torch.equal(measure(scale * heatmaps, foreground, pooling=pooling), expected)


@each_measure
def test_moving_pixels_about_changes_nothing(measure, generator):
    heatmaps, foreground = data(generator)
    order = torch.randperm(7, generator=generator)
    torch.testing.assert_close(measure(heatmaps[..., order], foreground[..., order]), measure(heatmaps, foreground))


@each_measure
def test_all_relevance_on_the_object_is_the_best_case(measure, generator):
    heatmaps, foreground = data(generator)
    best = measure(heatmaps.abs() * foreground.unsqueeze(2) + 0.0, foreground)
    torch.testing.assert_close(best, torch.full_like(best, 0.0 if measure is background_share else 1.0))


@each_measure
def test_a_mask_without_background_is_no_challenge(measure, generator):
    heatmaps, foreground = data(generator)
    found = measure(heatmaps, torch.ones_like(foreground))
    torch.testing.assert_close(found, torch.full_like(found, 0.0 if measure is background_share else 1.0))


@each_measure
def test_shapes_of_heatmaps_and_masks(measure, generator):
    heatmaps, foreground = data(generator)
    several = measure(heatmaps, foreground)
    assert several.shape == (4, 2)
    for masks in (foreground[:, 0], foreground.bool(), foreground.to(torch.uint8)):
        assert torch.equal(measure(heatmaps, masks), several)
    first = measure(heatmaps[:, 0], foreground)
    assert first.shape == (4,)
    assert torch.equal(first, several[:, 0])
    one_channel = heatmaps[:, 0, :1]
    assert torch.equal(measure(one_channel[:, 0], foreground), measure(one_channel, foreground))


@each_measure
def test_frames_of_a_video_are_parts_of_one_picture(measure, generator):
    heatmaps, foreground = data(generator)
    video, masks = heatmaps.unflatten(3, (2, 3)), foreground.unflatten(2, (2, 3))
    for form in (masks, masks[:, 0]):
        assert torch.equal(measure(video, form), measure(heatmaps, foreground))
    with pytest.raises(InvalidValueError, match=r"shape \(4, 1, 2, 3, 7\) .* got \(4, 1, 3, 7\)"):
        measure(video, masks[:, :, 0])
    with pytest.raises(InvalidValueError, match=r"heatmaps of videos have shape \(N, K, C, T, H, W\)"):
        measure(video[:, 0], masks)


def test_the_tolerance_does_not_reach_other_frames():
    foreground = torch.zeros(1, 1, 2, 3, 3)
    foreground[0, 0, 0, 2, 2] = 1
    hits = []
    for cell in range(18):
        video = torch.zeros(18)
        video[cell] = 1
        hits.append(pointing_game(video.view(1, 1, 1, 2, 3, 3), foreground, tolerance=1).item())
    assert [cell for cell, hit in enumerate(hits) if hit] == [5, 7, 8]


@each_measure
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(measure, dtype, generator):
    heatmaps, foreground = data(generator)
    heatmaps = heatmaps.to(dtype)
    found = measure(heatmaps, foreground)
    assert found.dtype == torch.float32
    assert torch.equal(found, measure(heatmaps.float(), foreground))


@each_measure
def test_without_foreground_or_relevance_there_is_no_value(measure, generator):
    heatmaps, foreground = data(generator)
    foreground[1] = 0
    heatmaps[2, 1] = 0
    with pytest.raises(
        InvalidValueError, match=r"no foreground in the masks of image 1 of 4 and no relevance .* of image 2 of 4;"
    ):
        measure(heatmaps, foreground)
    found = measure(heatmaps, foreground, undefined="skip")
    assert found.isnan().tolist() == [[False, False], [True, True], [False, True], [False, False]]
    torch.testing.assert_close(found[3], measure(heatmaps[3:], foreground[3:])[0])


def test_relevance_that_pooling_takes_away_is_none():
    heatmap, foreground = torch.tensor([[[[1.0, -2.0]], [[-2.0, 1.0]]]]), torch.tensor([[[1, 0]]])
    with pytest.raises(InvalidValueError, match="no relevance in the pooled heatmaps of image 0 of 1"):
        relevance_mass_accuracy(heatmap, foreground)
    assert relevance_mass_accuracy(heatmap, foreground, pooling="l1_norm").item() == 0.5


@pytest.mark.parametrize("measure", [background_share, pointing_game])
def test_wrong_heatmaps_are_refused(measure):
    foreground = torch.ones(2, 1, 4, 4)
    for wrong, kind in ((torch.ones(2, 3, 4, 4).long(), "torch.int64"), ([1.0], "list")):
        with pytest.raises(InvalidTypeError, match=f"heatmaps .*floating.*{kind}"):
            measure(wrong, foreground)
    for shape in ((4, 4), (2, 1, 3, 1, 1, 4, 4), (2, 0, 4, 4), (0, 3, 4, 4)):
        with pytest.raises(InvalidValueError, match=rf"heatmaps .*shape.*{re.escape(str(shape))}"):
            measure(torch.ones(shape), foreground)
    for value in (torch.nan, torch.inf):
        broken = torch.ones(2, 3, 4, 4)
        broken[1, 0, 0, 0] = value
        for undefined in ("error", "skip"):
            with pytest.raises(InvalidValueError, match=r"heatmaps .*NaN or Inf.*image 1 of 2"):
                measure(broken, foreground, undefined=undefined)


@pytest.mark.parametrize("measure", [background_share, pointing_game])
def test_wrong_masks_are_refused(measure):
    heatmaps = torch.ones(2, 3, 4, 4)
    with pytest.raises(InvalidTypeError, match=r"foreground .*str"):
        measure(heatmaps, "mask")
    for shape in ((2, 1, 8, 8), (3, 1, 4, 4), (1, 1, 4, 4), (2, 3, 4, 4), (4, 4)):
        with pytest.raises(InvalidValueError, match=r"foreground .*\(2, 1, 4, 4\) .*resize_foreground"):
            measure(heatmaps, torch.ones(shape))
    with pytest.raises(InvalidValueError, match=r"foreground .*on cpu.*on meta"):
        measure(heatmaps, torch.ones(2, 1, 4, 4, device="meta"))
    for value in (0.5, torch.nan):
        with pytest.raises(InvalidValueError, match=f"foreground .*images 0, 1 of 2.*{value}"):
            measure(heatmaps, torch.full((2, 1, 4, 4), value))


@each_measure
def test_wrong_options_are_refused(measure):
    heatmaps, foreground = torch.ones(2, 3, 4, 4), torch.ones(2, 1, 4, 4)
    with pytest.raises(InvalidValueError, match=r"undefined .*'error', 'skip'.*'zero'"):
        measure(heatmaps, foreground, undefined="zero")
    if measure is not energy_pointing_game:
        with pytest.raises(InvalidValueError, match=r"pooling .*'mean'"):
            measure(heatmaps, foreground, pooling="mean")


@pytest.mark.parametrize("share", [background_share, relevance_mass_accuracy])
def test_signed_relevance_has_no_share(share):
    with pytest.raises(InvalidValueError, match=r"pooling .*'sum_pos', .*'sum'$"):
        share(torch.ones(2, 3, 4, 4), torch.ones(2, 1, 4, 4), pooling="sum")


def test_k_and_tolerance_are_numbers_of_pixels():
    heatmaps, foreground = torch.ones(2, 3, 4, 4), torch.ones(2, 1, 4, 4)
    for k, error in (
        (0, InvalidValueError),
        (17, InvalidValueError),
        (2.0, InvalidTypeError),
        (True, InvalidTypeError),
    ):
        with pytest.raises(error, match="k must"):
            top_k_intersection(heatmaps, foreground, k=k)
    for tolerance, error in ((-1, InvalidValueError), (1.5, InvalidTypeError)):
        with pytest.raises(error, match=r"tolerance .*at least 0"):
            pointing_game(heatmaps, foreground, tolerance=tolerance)


@pytest.mark.parametrize("pooling", SIGNED)
def test_channels_are_pooled_in_float32(pooling):
    heatmaps = torch.full((2, 3, 1, 1), 300.0)
    assert torch.equal(pool_channels(heatmaps.half(), pooling), pool_channels(heatmaps, pooling))


def test_channels_that_cannot_be_pooled_are_refused():
    with pytest.raises(InvalidValueError, match=r"pooling .*'sum', .*'mean'"):
        pool_channels(torch.ones(3, 4, 4), "mean")
    with pytest.raises(InvalidTypeError, match=r"heatmaps .*torch.int64"):
        pool_channels(torch.ones(3, 4, 4).long(), "sum")
    for shape in ((4, 4), (2, 0, 4, 4)):
        with pytest.raises(InvalidValueError, match=r"heatmaps .*\(..., C, H, W\)"):
            pool_channels(torch.ones(shape), "sum")
