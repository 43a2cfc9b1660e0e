"""What must hold for the heatmap loss whatever the numbers: gradients, scale, continuity and degenerate heatmaps."""

import math
from itertools import product

import pytest
import torch
from loss_data import left_half

from zennit_isnet.functional import background_loss, foreground_loss, heatmap_loss, normalized_background

NORMALIZATIONS = ["absolute_first", "normalize_first"]
VARIANTS = ["hybrid", "squared"]
MOST = math.log(1e7)


def loss_and_gradient(relevance, foreground, c1=1.0, c2=25.0, **options):
    relevance = relevance.clone().requires_grad_()
    loss = heatmap_loss(relevance, foreground, c1, c2, **options)
    (gradient,) = torch.autograd.grad(loss.sum(), relevance)
    return loss.detach(), gradient


@pytest.fixture
def small(generator):
    return torch.randn(1, 2, 2, 4, 4, dtype=torch.float64, generator=generator, requires_grad=True)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("decay", [1.0, 0.9])
def test_gradients_of_the_background_agree_with_finite_differences(decay, normalization, small):
    options = {"decay": decay, "normalization": normalization}
    assert torch.autograd.gradcheck(lambda r: background_loss(r, left_half(), **options), (small,))


@pytest.mark.parametrize(
    ("c1", "c2"),
    [(1.0, 4.0), (8.0, 10.0), (10.0, 30.0), (100.0, 300.0)],
    ids=["far above", "above", "inside", "below"],
)
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_of_the_foreground_agree_with_finite_differences(variant, c1, c2, small):
    assert torch.autograd.gradcheck(lambda r: foreground_loss(r, left_half(), c1, c2, variant=variant), (small,))


@pytest.mark.parametrize("decay", [1.0, 0.9])
def test_first_and_second_derivatives_of_the_whole_agree_with_finite_differences(decay, small):
    def loss(relevance):
        return heatmap_loss(relevance, left_half(), 10.0, 12.0, decay=decay)

    assert torch.autograd.gradcheck(loss, (small,))
    assert torch.autograd.gradgradcheck(loss, (small,))


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("scale", [2.0**-100, 2.0**-10, -1.0, 2.0**60])
def test_the_background_loss_is_blind_to_the_scale(scale, normalization, generator):
    relevance = torch.randn(3, 2, 3, 8, 8, generator=generator)
    loss = background_loss(relevance, left_half(3, 8), normalization=normalization)
    scaled = background_loss(scale * relevance, left_half(3, 8), normalization=normalization)
    torch.testing.assert_close(scaled, loss, rtol=1e-6, atol=0)


@pytest.mark.parametrize("scale", [1e-35, 1e-30, 1e30])
def test_gradients_scale_inversely_and_neither_overflow_nor_vanish(scale, generator):
    relevance = torch.randn(1, 1, 1, 4, 4, generator=generator)
    options = {"foreground_weight": 0.0}
    _, gradient = loss_and_gradient(relevance, left_half(), **options)
    _, scaled = loss_and_gradient(relevance * scale, left_half(), **options)
    torch.testing.assert_close(scaled.double() * scale, gradient.double(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("decay", [1.0, 0.9, 0.1])
def test_the_heatmaps_background_is_measured_in_units_of_its_foreground(decay):
    relevance = torch.ones(1, 1, 1, 4, 4)
    few = normalized_background(relevance, left_half(), decay).item()
    weights = [decay**rank for rank in range(16)]
    assert few == pytest.approx(sum(weights[:8]) / sum(weights))
    relevance[..., 2:] = 3
    assert normalized_background(relevance, left_half(), decay).item() == pytest.approx(3 * few)


def test_a_small_background_keeps_its_precision():
    relevance = torch.ones(1, 1, 1, 4, 4)
    relevance[..., 2:] = 1e-12
    loss = background_loss(relevance, left_half(), decay=1.0, background_scale=1.0)
    torch.testing.assert_close(loss, torch.tensor([0.5e-12]), rtol=1e-5, atol=0)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_a_mask_without_background_has_no_background_loss(normalization, generator):
    relevance = torch.randn(2, 1, 3, 4, 4, generator=generator)
    loss, gradient = loss_and_gradient(
        relevance, torch.ones(2, 1, 4, 4), foreground_weight=0.0, normalization=normalization
    )
    assert loss.tolist() == [0.0, 0.0]
    assert not gradient.any()


@pytest.mark.parametrize(("normalization", "variant"), list(product(NORMALIZATIONS, VARIANTS)))
def test_a_heatmap_of_zeros_has_the_foreground_loss_only(normalization, variant):
    loss, gradient = loss_and_gradient(
        torch.zeros(1, 2, 3, 4, 4), left_half(), normalization=normalization, foreground_variant=variant
    )
    assert loss.tolist() == [1.0]
    assert gradient.isfinite().all()


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_relevance_on_the_background_alone_has_the_largest_loss(normalization):
    inside = torch.tensor([0.0, 1e-45, 1e-38, 1e-30, 1e-20, 1e-9]).view(-1, 1, 1, 1, 1)
    relevance = torch.where(left_half().bool().unsqueeze(1), inside, 1.0)
    loss, gradient = loss_and_gradient(relevance, left_half(6), foreground_weight=0.0, normalization=normalization)
    assert loss.tolist() == pytest.approx([MOST] * 6)
    assert not gradient.any()


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_a_finite_loss_has_finite_gradients(normalization):
    magnitudes = torch.tensor([0.0, 1e-45, 1e-40, 1e-37, 1e-32, 1e-20, 1.0, 1e20])
    # an image for each pair of magnitudes inside and outside
    inside, outside = torch.cartesian_prod(magnitudes, magnitudes).T.reshape(2, -1, 1, 1, 1, 1)
    relevance = torch.where(left_half().bool().unsqueeze(1), inside, outside)
    loss, gradient = loss_and_gradient(relevance, left_half(len(relevance)), normalization=normalization)
    assert loss.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_one_empty_heatmap_does_not_touch_the_others(normalization, generator):
    relevance = torch.randn(1, 2, 1, 4, 4, generator=generator)
    relevance[:, 1] = 0
    loss, gradient = loss_and_gradient(relevance, left_half(), foreground_weight=0.0, normalization=normalization)
    alone, alone_gradient = loss_and_gradient(
        relevance[:, :1], left_half(), foreground_weight=0.0, normalization=normalization
    )
    torch.testing.assert_close(2 * loss, alone)
    torch.testing.assert_close(2 * gradient[:, :1], alone_gradient)
    assert not gradient[:, 1].any()


def test_a_foreground_whose_signs_cancel_counts_as_none_in_the_normalize_first_order():
    relevance = torch.ones(1, 1, 1, 4, 4)
    relevance[..., 0] = -1
    options = {"foreground_weight": 0.0, "decay": 1.0, "background_scale": 1.0}
    cancelled, gradient = loss_and_gradient(relevance, left_half(), normalization="normalize_first", **options)
    assert cancelled.item() == pytest.approx(MOST)
    assert gradient.isfinite().all()
    stabilized, _ = loss_and_gradient(
        relevance, left_half(), normalization="normalize_first", stabilizer=0.5, **options
    )
    assert stabilized.item() == pytest.approx(math.log(2.0))


@pytest.mark.parametrize(("normalization", "variant"), list(product(NORMALIZATIONS, VARIANTS)))
def test_nan_and_infinity_are_never_hidden(normalization, variant):
    relevance = torch.ones(5, 2, 3, 4, 4)
    for image, (column, bad) in enumerate(product((0, 3), (torch.nan, torch.inf))):
        relevance[image, 1, 2, 1, column] = bad
    loss = heatmap_loss(relevance, left_half(5), 1.0, 25.0, normalization=normalization, foreground_variant=variant)
    assert loss.isfinite().tolist() == [False] * 4 + [True]


def test_a_mask_without_foreground_gives_nan_and_not_a_number_to_train_on():
    assert background_loss(torch.ones(1, 1, 1, 4, 4), torch.zeros(1, 4, 4)).isnan().all()


def test_a_larger_background_scale_is_more_lenient(generator):
    relevance = torch.randn(1, 1, 3, 8, 8, generator=generator)
    losses = [background_loss(relevance, left_half(1, 8), background_scale=scale).item() for scale in (0.1, 1.0, 10.0)]
    assert losses == sorted(losses, reverse=True)
    ratio = normalized_background(relevance, left_half(1, 8))
    assert losses[2] == pytest.approx((ratio / 10).log1p().mean().item())


def test_a_ceiling_saturates_without_gradient():
    relevance = torch.ones(1, 1, 1, 4, 4, requires_grad=True)
    pooled = normalized_background(relevance, left_half(), 1.0, ceiling=0.25)
    assert pooled.item() == 0.25
    assert not torch.autograd.grad(pooled.sum(), relevance)[0].any()


def foreground_loss_of(total, c1, c2, variant):
    relevance = torch.tensor(total, dtype=torch.float64).reshape(1, 1, 1, 1, 1)
    return foreground_loss(relevance, torch.ones(1, 1, 1), c1, c2, variant=variant).item()


@pytest.mark.parametrize("variant", VARIANTS)
def test_inside_of_the_range_there_is_no_foreground_loss(variant):
    for total in (2.0, 5.0, 50.0):
        assert foreground_loss_of(total, 2.0, 50.0, variant) == 0.0


@pytest.mark.parametrize("variant", VARIANTS)
def test_below_the_range_it_grows_with_the_square_to_one(variant):
    assert foreground_loss_of(1.0, 2.0, 50.0, variant) == pytest.approx(0.25)
    assert foreground_loss_of(0.0, 2.0, 50.0, variant) == 1.0


def test_above_the_range_hybrid_and_squared_part_at_the_sum_of_its_ends():
    assert foreground_loss_of(51.0, 2.0, 50.0, "hybrid") == pytest.approx(0.25)
    assert foreground_loss_of(51.0, 2.0, 50.0, "squared") == pytest.approx(0.25)
    assert foreground_loss_of(62.0, 2.0, 50.0, "hybrid") == pytest.approx(1 + 10)
    assert foreground_loss_of(62.0, 2.0, 50.0, "squared") == pytest.approx(6.0**2)


@pytest.mark.parametrize(("c1", "c2"), [(2.0, 50.0), (0.04, 1.0), (300.0, 7500.0)])
def test_hybrid_is_continuous_where_its_pieces_meet(c1, c2):
    for meeting, value in ((c1, 0.0), (c2, 0.0), (c1 + c2, 1.0)):
        for nudge in (1 - 1e-9, 1.0, 1 + 1e-9):
            assert foreground_loss_of(meeting * nudge, c1, c2, "hybrid") == pytest.approx(value, abs=1e-4)


def test_an_exploding_heatmap_keeps_a_finite_hybrid_gradient():
    relevance = torch.full((1, 1, 1, 1, 1), 1e30)
    loss, gradient = loss_and_gradient(relevance, torch.ones(1, 1, 1))
    assert loss.item() == pytest.approx(1e30)
    assert gradient.flatten().tolist() == [1.0]


@pytest.mark.parametrize(("normalization", "variant"), list(product(NORMALIZATIONS, VARIANTS)))
def test_no_value_is_read_back_from_the_device(normalization, variant):
    # The meta device has no values, so whatever reads one raises.
    relevance = torch.ones(2, 2, 3, 8, 8, device="meta", requires_grad=True)
    foreground = torch.ones(2, 1, 16, 16, device="meta")
    for c1, c2 in ((1.0, 25.0), (torch.ones((), device="meta"), torch.ones((), device="meta"))):
        loss = heatmap_loss(relevance, foreground, c1, c2, normalization=normalization, foreground_variant=variant)
        loss.sum().backward()
        assert loss.shape == (2,)
        assert relevance.grad.shape == relevance.shape
