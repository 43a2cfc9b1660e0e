"""The measures agree with those of Quantus wherever both define the same quantity, and differ where it is said."""

import numpy as np
import pytest
import quantus
import torch

from zennit_isnet.errors import InvalidValueError
from zennit_isnet.functional import (
    background_share,
    energy_pointing_game,
    pointing_game,
    relevance_mass_accuracy,
    relevance_rank_accuracy,
    top_k_intersection,
)

MEASURES = (energy_pointing_game, pointing_game, relevance_mass_accuracy, relevance_rank_accuracy)
QUIET = {"disable_warnings": True, "display_progressbar": False}


def scores(metric, heatmaps, foreground):
    """What a metric of Quantus says about heatmaps (N, 1, H, W)."""
    images = np.zeros(heatmaps.shape)
    found = metric(
        model=None,
        x_batch=images,
        y_batch=np.zeros(len(images), dtype=int),
        a_batch=heatmaps.numpy(),
        s_batch=foreground.numpy(),
    )
    return torch.tensor(np.asarray(found, dtype=float))


@pytest.fixture(params=["signed", "positive", "mostly negative"])
def heatmaps(request, generator):
    maps = torch.randn(6, 1, 8, 9, dtype=torch.float64, generator=generator)
    return {"signed": maps, "positive": maps.abs(), "mostly negative": maps - 1}[request.param]


@pytest.fixture
def foreground(generator):
    masks = torch.rand(6, 1, 8, 9, generator=generator) < 0.3
    masks[..., 0, 0] = True
    return masks


def close(found, expected):
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)


def test_absolute_relevance_mass_accuracy(heatmaps, foreground):
    expected = scores(quantus.RelevanceMassAccuracy(abs=True, **QUIET), heatmaps, foreground)
    close(relevance_mass_accuracy(heatmaps, foreground, pooling="l1_norm"), expected)
    close(1 - background_share(heatmaps, foreground), expected)


@pytest.mark.parametrize("normalise", [True, False])
def test_the_scale_that_quantus_normalises_plays_no_role(heatmaps, foreground, normalise):
    expected = scores(quantus.RelevanceMassAccuracy(abs=True, normalise=normalise, **QUIET), heatmaps, foreground)
    close(relevance_mass_accuracy(1000 * heatmaps, foreground, pooling="l1_norm"), expected)


def test_positive_attribution_localisation_is_the_energy_pointing_game(heatmaps, foreground):
    metric = quantus.AttributionLocalisation(positive_attributions=True, abs=False, **QUIET)
    close(energy_pointing_game(heatmaps, foreground), scores(metric, heatmaps, foreground))


@pytest.mark.parametrize(("absolute", "pooling"), [(False, "sum"), (True, "sum_abs")])
def test_relevance_rank_accuracy(heatmaps, foreground, absolute, pooling):
    expected = scores(quantus.RelevanceRankAccuracy(abs=absolute, **QUIET), heatmaps, foreground)
    close(relevance_rank_accuracy(heatmaps, foreground, pooling=pooling), expected)


@pytest.mark.parametrize(("absolute", "pooling"), [(False, "sum"), (True, "sum_abs")])
def test_pointing_game(heatmaps, foreground, absolute, pooling):
    expected = scores(quantus.PointingGame(abs=absolute, **QUIET), heatmaps, foreground)
    close(pointing_game(heatmaps, foreground, pooling=pooling), expected)


@pytest.mark.parametrize(("absolute", "pooling"), [(False, "sum"), (True, "sum_abs")])
@pytest.mark.parametrize("k", [1, 7, 71])
def test_top_k_intersection(heatmaps, foreground, absolute, pooling, k):
    expected = scores(quantus.TopKIntersection(k=k, abs=absolute, **QUIET), heatmaps, foreground)
    close(top_k_intersection(heatmaps, foreground, k=k, pooling=pooling), expected)


def test_quantus_lets_signed_relevance_leave_the_range_of_a_share(foreground):
    heatmap = torch.where(foreground[:1], 2.0, -1.0 / 72).double()
    assert scores(quantus.RelevanceMassAccuracy(**QUIET), heatmap, foreground[:1]).item() > 1
    assert relevance_mass_accuracy(heatmap, foreground[:1]).item() == 1


def tied():
    """A heatmap (1, 1, 8, 9) whose pixels are all tied but the last."""
    heatmap = torch.ones(1, 1, 8, 9, dtype=torch.float64)
    heatmap[..., -1, -1] = 0.5
    return heatmap


def test_quantus_counts_one_of_several_maxima_as_a_hit(foreground):
    assert scores(quantus.PointingGame(**QUIET), tied(), foreground[:1]).item() == 1
    close(pointing_game(tied(), foreground[:1]), foreground[0].double().flatten()[:-1].mean().view(1))


def test_quantus_lets_the_place_decide_between_tied_pixels():
    heatmaps, masks = tied().expand(71, 1, 8, 9), torch.eye(72)[:-1].view(71, 1, 8, 9)
    found = scores(quantus.TopKIntersection(k=1, **QUIET), heatmaps, masks)
    assert sorted(found.tolist()) == [0.0] * 70 + [1.0]
    close(top_k_intersection(heatmaps, masks, k=1), torch.full((71,), 1 / 71, dtype=torch.float64))


def test_a_constant_in_the_denominator_of_quantus_acts_on_small_maps(heatmaps, foreground):
    metric = quantus.AttributionLocalisation(positive_attributions=True, abs=False, **QUIET)
    small = heatmaps.clone()
    small[0] *= 1e-8
    found, expected = scores(metric, small, foreground), scores(metric, heatmaps, foreground)
    close(energy_pointing_game(small, foreground), expected)
    close(found[1:], expected[1:])
    assert found[0] < 0.999 * expected[0]


def test_quantus_has_a_value_for_a_map_without_relevance(heatmaps, foreground):
    heatmaps[0] = 0
    values = {
        "nan": quantus.RelevanceMassAccuracy(**QUIET),
        "0.0": quantus.AttributionLocalisation(positive_attributions=True, abs=False, **QUIET),
        "1.0": quantus.PointingGame(**QUIET),
    }
    for value, metric in values.items():
        with np.errstate(invalid="ignore"):
            assert str(scores(metric, heatmaps, foreground)[0].item()) == value
    for measure in MEASURES:
        found = measure(heatmaps, foreground, undefined="skip")
        assert found.isnan().tolist() == [True] + 5 * [False]


def test_quantus_refuses_maps_that_are_negative_or_of_one_value(heatmaps, foreground):
    for refused, message in ((-heatmaps.abs(), "not all be less than zero"), (tied() * 0 + 2, "uniformly distributed")):
        maps = refused.expand(6, -1, -1, -1)
        with pytest.raises(AssertionError, match=message):
            scores(quantus.PointingGame(**QUIET), maps, foreground)
        assert bool(pointing_game(maps, foreground).isfinite().all())


def test_quantus_has_a_value_for_nan(heatmaps, foreground):
    heatmaps[0, 0, 0, 1] = torch.nan
    assert bool(scores(quantus.RelevanceRankAccuracy(**QUIET), heatmaps, foreground).isfinite().all())
    for measure in MEASURES:
        with pytest.raises(InvalidValueError, match="NaN or Inf in image 0 of 6"):
            measure(heatmaps, foreground)


def test_quantus_knows_one_channel_and_fewer_than_all_pixels(heatmaps, foreground):
    with pytest.raises(ValueError, match="broadcast"):
        scores(quantus.PointingGame(**QUIET), heatmaps.expand(6, 3, 8, 9), foreground)
    with pytest.raises(ValueError, match="'k' must be smaller than input size"):
        scores(quantus.TopKIntersection(k=72, **QUIET), heatmaps, foreground)
    expected = foreground.flatten(1).double().mean(1)
    close(top_k_intersection(heatmaps.expand(6, 3, 8, 9), foreground, k=72), expected)


def test_quantus_gives_nan_without_foreground_but_hits_in_the_pointing_game(heatmaps, foreground):
    nothing = torch.zeros_like(foreground)
    with pytest.warns(UserWarning, match="segmentation map is empty"):
        assert scores(quantus.RelevanceMassAccuracy(**QUIET), heatmaps, nothing).isnan().all()
    assert scores(quantus.PointingGame(**QUIET), heatmaps, nothing).tolist() == [1.0] * 6
    for measure in (relevance_mass_accuracy, pointing_game):
        assert measure(heatmaps, nothing, undefined="skip").isnan().all()
