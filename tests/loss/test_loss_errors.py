"""Every wrong argument of the heatmap loss is refused with what came and what is allowed."""

import pytest
import torch

from zennit_isnet import HeatmapLoss
from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.functional import (
    background_loss,
    foreground_loss,
    heatmap_loss,
    normalized_background,
    total_relevance,
)

RELEVANCE = torch.ones(2, 1, 3, 4, 4)
FOREGROUND = torch.ones(2, 1, 4, 4)
PARTS = [background_loss, lambda *maps: foreground_loss(*maps, 1.0, 2.0)]


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"decay": 0.0}, InvalidValueError, r"decay .*\(0, 1\].*0.0"),
        ({"decay": 1.5}, InvalidValueError, r"decay .*\(0, 1\].*1.5"),
        ({"decay": "high"}, InvalidTypeError, r"decay .*\(0, 1\].*str: 'high'"),
        ({"background_weight": -1.0}, InvalidValueError, r"background_weight .*\[0, inf\).*-1.0"),
        ({"foreground_weight": float("nan")}, InvalidValueError, r"foreground_weight .*\[0, inf\).*nan"),
        ({"foreground_weight": float("inf")}, InvalidValueError, r"foreground_weight .*\[0, inf\).*inf"),
        ({"background_scale": 0.0}, InvalidValueError, r"background_scale .*\(0, inf\).*0.0"),
        ({"stabilizer": -1e-9}, InvalidValueError, r"stabilizer .*\[0, inf\).*-1e-09"),
        ({"foreground_variant": "L2"}, InvalidValueError, "variant .*'hybrid', 'squared'.*'L2'"),
        ({"normalization": None}, InvalidValueError, "normalization .*'absolute_first', 'normalize_first'.*None"),
    ],
)
def test_wrong_options_are_refused_before_the_loss_is_used(options, error, named):
    with pytest.raises(error, match=named):
        HeatmapLoss(**options)


def test_unknown_options_are_refused():
    with pytest.raises(TypeError, match="decline"):
        heatmap_loss(RELEVANCE, FOREGROUND, 1.0, 25.0, decline=0.9)


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (background_loss, {"decay": 2.0}),
        (background_loss, {"background_scale": -1.0}),
        (normalized_background, {"normalization": "none"}),
        (normalized_background, {"stabilizer": -1.0}),
        (normalized_background, {"ceiling": 0.0}),
        (lambda *maps, **options: foreground_loss(*maps, 1.0, 2.0, **options), {"variant": "cubic"}),
    ],
)
def test_the_parts_check_their_own_options(function, options):
    (name,) = options
    with pytest.raises(InvalidValueError, match=f"{name} must"):
        function(RELEVANCE, FOREGROUND, **options)


@pytest.mark.parametrize(
    ("c1", "c2", "error", "named"),
    [
        (2.0, 1.0, InvalidValueError, "c1=2.0 and c2=1.0"),
        (1, 1, InvalidValueError, "c1=1 and c2=1"),
        (0.0, 1.0, InvalidValueError, r"c1 .*\(0, inf\).*0.0"),
        (1.0, float("nan"), InvalidValueError, r"c2 .*\(0, inf\).*nan"),
        ("1", 2.0, InvalidTypeError, r"c1 .*\(0, inf\).*str"),
        (None, 2.0, InvalidTypeError, r"c1 .*\(0, inf\).*NoneType"),
        (torch.ones(1), 2.0, InvalidValueError, r"c1 .*\(\).*\(1,\)"),
    ],
)
def test_an_impossible_range_is_refused(c1, c2, error, named):
    with pytest.raises(error, match=named):
        heatmap_loss(RELEVANCE, FOREGROUND, c1, c2)


@pytest.mark.parametrize("function", [total_relevance, *(lambda r, part=part: part(r, FOREGROUND) for part in PARTS)])
def test_what_is_no_heatmap_is_refused(function):
    for shape in ((2, 3, 4, 4), (2, 1, 3, 1, 1, 4, 4), (2, 0, 3, 4, 4), (2, 1, 3, 4, 0)):
        with pytest.raises(InvalidValueError, match=r"relevance .*\(N, K, C, H, W\).*got \(2,"):
            function(torch.ones(shape))
    for wrong, kind in ((RELEVANCE.long(), "torch.int64"), ([1.0], "list")):
        with pytest.raises(InvalidTypeError, match=f"relevance .*floating.*{kind}"):
            function(wrong)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    ("foreground", "error", "named"),
    [
        (torch.ones(3, 1, 4, 4), InvalidValueError, "foreground .*2 images.*3"),
        (torch.ones(1, 1, 4, 4), InvalidValueError, "foreground .*2 images.*1"),
        (torch.ones(2, 3, 4, 4), InvalidValueError, r"\(N, 1, H, W\) or \(N, H, W\) .*\(2, 3, 4, 4\)"),
        (torch.ones(4, 4), InvalidValueError, r"\(N, 1, H, W\) or \(N, H, W\) .*\(4, 4\)"),
        (torch.ones(2, 4, 4, dtype=torch.complex64), InvalidTypeError, "foreground .*torch.complex64"),
        ("mask", InvalidTypeError, "foreground .*str"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(part, foreground, error, named):
    with pytest.raises(error, match=named):
        part(RELEVANCE, foreground)


def test_a_video_needs_a_video_mask():
    with pytest.raises(InvalidValueError, match=r"\(N, 1, T, H, W\) or \(N, T, H, W\) .*\(2, 4, 4\)"):
        background_loss(torch.ones(2, 1, 3, 5, 4, 4), torch.ones(2, 4, 4))
