"""Every wrong argument of the heatmap loss is refused with what came and what is allowed."""

import pytest
import torch

from zennit_isnet.errors import InvalidTypeError, InvalidValueError, ISNetError
from zennit_isnet.functional import (
    background_loss,
    foreground_loss,
    heatmap_loss,
    normalized_background,
    total_relevance,
)
from zennit_isnet.losses import HeatmapLoss

RELEVANCE = torch.ones(2, 1, 3, 4, 4)
FOREGROUND = torch.ones(2, 1, 4, 4)

WRONG_OPTIONS = [
    ({"decay": 0.0}, InvalidValueError, r"decay must lie in \(0, 1\]; got 0.0"),
    ({"decay": 1.5}, InvalidValueError, r"decay must lie in \(0, 1\]; got 1.5"),
    ({"decay": "high"}, InvalidTypeError, r"decay must be a number in \(0, 1\]; got str: 'high'"),
    ({"background_weight": -1.0}, InvalidValueError, r"background_weight must lie in \[0, inf\); got -1.0"),
    ({"foreground_weight": float("nan")}, InvalidValueError, r"foreground_weight must lie in \[0, inf\); got nan"),
    ({"foreground_weight": float("inf")}, InvalidValueError, r"foreground_weight must lie in \[0, inf\); got inf"),
    ({"background_scale": 0.0}, InvalidValueError, r"background_scale must lie in \(0, inf\); got 0.0"),
    ({"stabilizer": -1e-9}, InvalidValueError, r"stabilizer must lie in \[0, inf\); got -1e-09"),
    (
        {"foreground_variant": "L2"},
        InvalidValueError,
        "foreground_variant must be one of 'hybrid', 'squared'; got 'L2'",
    ),
    (
        {"normalization": None},
        InvalidValueError,
        "normalization must be one of 'absolute_first', 'normalize_first'; got None",
    ),
]


@pytest.mark.parametrize(("options", "error", "message"), WRONG_OPTIONS)
def test_wrong_options_are_refused_by_function_and_module_alike(options, error, message):
    with pytest.raises(error, match=message) as caught:
        HeatmapLoss(**options)
    assert isinstance(caught.value, ISNetError)
    with pytest.raises(error, match=message):
        heatmap_loss(RELEVANCE, FOREGROUND, 1.0, 25.0, **options)


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (background_loss, {"decay": 2.0}),
        (background_loss, {"background_scale": -1.0}),
        (background_loss, {"normalization": "none"}),
        (background_loss, {"stabilizer": -1.0}),
        (normalized_background, {"normalization": "none"}),
        (normalized_background, {"ceiling": 0.0}),
        (lambda *args, **options: foreground_loss(*args, 1.0, 2.0, **options), {"variant": "cubic"}),
    ],
)
def test_the_parts_check_their_own_options(function, options):
    (name,) = options
    with pytest.raises(InvalidValueError, match=f"{name} must"):
        function(RELEVANCE, FOREGROUND, **options)


@pytest.mark.parametrize("loss", [heatmap_loss, foreground_loss, HeatmapLoss()])
@pytest.mark.parametrize(
    ("c1", "c2", "error", "message"),
    [
        (2.0, 1.0, InvalidValueError, r"c1 must be less than c2; got c1=2.0 and c2=1.0"),
        (1, 1, InvalidValueError, r"c1 must be less than c2; got c1=1 and c2=1"),
        (0.0, 1.0, InvalidValueError, r"c1 must lie in \(0, inf\); got 0.0"),
        (1.0, float("nan"), InvalidValueError, r"c2 must lie in \(0, inf\); got nan"),
        ("1", 2.0, InvalidTypeError, r"c1 must be a number in \(0, inf\); got str"),
        (None, 2.0, InvalidTypeError, r"c1 must be a number in \(0, inf\); got NoneType"),
        (torch.ones(1), 2.0, InvalidValueError, r"c1 must be a number or a tensor of shape \(\); got shape \(1,\)"),
    ],
)
def test_an_impossible_range_is_refused(loss, c1, c2, error, message):
    with pytest.raises(error, match=message):
        loss(RELEVANCE, FOREGROUND, c1, c2)


@pytest.mark.parametrize(
    "function",
    [
        lambda relevance: heatmap_loss(relevance, FOREGROUND, 1.0, 2.0),
        lambda relevance: background_loss(relevance, FOREGROUND),
        lambda relevance: foreground_loss(relevance, FOREGROUND, 1.0, 2.0),
        total_relevance,
    ],
)
def test_what_is_no_heatmap_is_refused(function):
    for shape in ((2, 3, 4, 4), (2, 1, 3, 1, 1, 4, 4), (2, 0, 3, 4, 4), (2, 1, 3, 4, 0)):
        with pytest.raises(InvalidValueError, match=r"relevance must have shape \(N, K, C, H, W\).*got \(2,"):
            function(torch.ones(shape))
    with pytest.raises(InvalidTypeError, match=r"relevance must be a floating tensor; got torch.int64"):
        function(RELEVANCE.long())
    with pytest.raises(InvalidTypeError, match="relevance must be a floating tensor; got list"):
        function([1.0])


@pytest.mark.parametrize(
    ("foreground", "error", "message"),
    [
        (torch.ones(3, 1, 4, 4), InvalidValueError, "one mask for each of the 2 images; got 3"),
        (torch.ones(1, 1, 4, 4), InvalidValueError, "one mask for each of the 2 images; got 1"),
        (torch.ones(2, 3, 4, 4), InvalidValueError, r"\(N, 1, H, W\) or \(N, H, W\) .*got \(2, 3, 4, 4\)"),
        (torch.ones(4, 4), InvalidValueError, r"\(N, 1, H, W\) or \(N, H, W\) .*got \(4, 4\)"),
        (
            torch.ones(2, 4, 4, dtype=torch.complex64),
            InvalidTypeError,
            "bool, integer or floating; got torch.complex64",
        ),
        ("mask", InvalidTypeError, "foreground must be a tensor; got str"),
    ],
)
@pytest.mark.parametrize(
    "loss",
    [background_loss, lambda *args: foreground_loss(*args, 1.0, 2.0), lambda *args: heatmap_loss(*args, 1.0, 2.0)],
)
def test_a_mask_that_does_not_fit_is_refused(loss, foreground, error, message):
    with pytest.raises(error, match=message):
        loss(RELEVANCE, foreground)


def test_a_video_needs_a_video_mask():
    with pytest.raises(InvalidValueError, match=r"\(N, 1, T, H, W\) or \(N, T, H, W\) .*got \(2, 4, 4\)"):
        background_loss(torch.ones(2, 1, 3, 5, 4, 4), torch.ones(2, 4, 4))
