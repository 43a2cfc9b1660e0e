"""The losses of the peers: values, gradients, scale, degenerate heatmaps and bad input."""

import peers_oracle
import pytest
import torch
from loss_data import left_half

from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.peers import RangeFreeLoss, energy_loss, gradmask_loss, rrr_loss

LOSSES = [rrr_loss, gradmask_loss, energy_loss]
ORACLES = [
    (rrr_loss, peers_oracle.rrr),
    (gradmask_loss, peers_oracle.gradmask),
    (energy_loss, peers_oracle.energy),
]


@pytest.mark.parametrize(("loss", "oracle"), ORACLES)
def test_values_are_those_of_the_formula(loss, oracle, generator):
    attribution = torch.randn(3, 2, 3, 4, 5, dtype=torch.float64, generator=generator)
    foreground = (torch.rand(3, 1, 4, 5, generator=generator) < 0.4).double()
    expected = [
        sum(oracle(heatmap, mask) for heatmap in heatmaps) / len(heatmaps)
        for heatmaps, mask in zip(attribution, foreground, strict=True)
    ]
    torch.testing.assert_close(loss(attribution, foreground), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_agree_with_finite_differences(loss, generator):
    attribution = torch.randn(2, 2, 2, 4, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(lambda r: loss(r, left_half(2)), (attribution,))


@pytest.mark.parametrize(("loss", "power"), [(rrr_loss, 2), (gradmask_loss, 1), (energy_loss, 0)])
@pytest.mark.parametrize("scale", [2.0**-20, 2.0**20])
def test_each_loss_grows_with_its_own_power_of_the_scale(loss, power, scale, generator):
    attribution = torch.randn(3, 1, 3, 4, 4, generator=generator)
    scaled = loss(scale * attribution, left_half(3))
    torch.testing.assert_close(scaled, scale**power * loss(attribution, left_half(3)), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("loss", "value"), [(rrr_loss, 0.0), (gradmask_loss, 0.0), (energy_loss, -1.0)])
def test_a_mask_without_background_is_the_best_case_and_pulls_nowhere(loss, value, generator):
    attribution = torch.randn(2, 1, 3, 4, 4, generator=generator, requires_grad=True)
    found = loss(attribution, torch.ones(2, 1, 4, 4))
    found.sum().backward()
    torch.testing.assert_close(found, torch.full((2,), value))
    torch.testing.assert_close(attribution.grad, torch.zeros_like(attribution))


@pytest.mark.parametrize("loss", LOSSES)
def test_heatmaps_without_positive_attribution_have_finite_gradients(loss):
    attribution = torch.tensor([0.0, -1.0]).repeat_interleave(48).view(2, 1, 3, 4, 4).requires_grad_()
    found = loss(attribution, left_half(2))
    found.sum().backward()
    assert found.isfinite().all()
    assert attribution.grad.isfinite().all()


def test_energy_without_positive_attribution_is_the_worst_case():
    assert energy_loss(torch.zeros(1, 1, 3, 4, 4), left_half()).tolist() == [0.0]


def test_energy_lets_channels_cancel_before_it_looks_at_signs():
    attribution = torch.zeros(1, 1, 2, 4, 4)
    attribution[..., 0] = 1.0
    attribution[:, :, 0, :, 3], attribution[:, :, 1, :, 3] = 5.0, -5.0
    assert energy_loss(attribution, left_half()).tolist() == [-1.0]


@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_is_computed_in_float32(loss, generator):
    attribution = torch.randn(2, 1, 3, 4, 4, generator=generator).half()
    found = loss(attribution, left_half(2).bool())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss(attribution.float(), left_half(2)))


@pytest.mark.parametrize("loss", [rrr_loss, gradmask_loss])
def test_coarse_maps_call_no_foreground_background(loss, generator):
    attribution = torch.rand(2, 1, 1, 2, 2, generator=generator)
    thin = torch.zeros(2, 1, 8, 8)
    thin[..., 0] = 1
    torch.testing.assert_close(loss(attribution, thin), loss(attribution, left_half(2, 2)))


def test_energy_enlarges_coarse_maps_so_that_small_objects_stay_small(generator):
    attribution = torch.rand(2, 1, 1, 2, 2, generator=generator, requires_grad=True)
    centre = torch.zeros(2, 1, 8, 8)
    centre[..., 2:6, 2:6] = 1
    found = energy_loss(attribution, centre)
    enlarged = torch.nn.functional.interpolate(attribution[:, 0], (8, 8), mode="bilinear")
    torch.testing.assert_close(found, energy_loss(enlarged.unsqueeze(1), centre))
    found.sum().backward()
    assert attribution.grad.any()


def test_energy_enlarges_coarse_maps_of_videos():
    attribution, left = torch.ones(1, 1, 2, 2, 2, 2), torch.zeros(1, 1, 4, 8, 8)
    left[..., :4] = 1
    torch.testing.assert_close(energy_loss(attribution, left), torch.tensor([-0.5]))


def test_energy_takes_masks_that_are_smaller_than_the_maps(generator):
    attribution = torch.rand(2, 1, 3, 8, 8, generator=generator)
    torch.testing.assert_close(energy_loss(attribution, left_half(2, 4)), energy_loss(attribution, left_half(2, 8)))


@pytest.mark.parametrize("loss", LOSSES)
def test_bad_input_is_refused(loss):
    with pytest.raises(InvalidTypeError, match=r"relevance .*torch.int64"):
        loss(torch.ones(1, 1, 3, 4, 4).long(), left_half())
    with pytest.raises(InvalidValueError, match=r"relevance .*\(N, K, C, H, W\).*\(1, 3, 4, 4\)"):
        loss(torch.ones(1, 3, 4, 4), left_half())
    with pytest.raises(InvalidValueError, match=r"foreground .*1 images.*2"):
        loss(torch.ones(1, 1, 3, 4, 4), left_half(2))
    with pytest.raises(InvalidTypeError, match=r"foreground .*str"):
        loss(torch.ones(1, 1, 3, 4, 4), "mask")


def test_the_shell_ignores_the_range(generator):
    attribution = torch.randn(2, 1, 3, 4, 4, generator=generator)
    loss = RangeFreeLoss(rrr_loss)
    assert torch.equal(loss(attribution, left_half(2), 1.0, 25.0), rrr_loss(attribution, left_half(2)))
    assert not loss.needs_range
