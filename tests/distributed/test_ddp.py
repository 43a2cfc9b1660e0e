"""`DistributedDataParallel`: two processes with a shard each against one process with all images."""

from __future__ import annotations

import ddp_steps
import pytest
import torch
from ddp_steps import alone, model_and_data
from processes import WORLD, join, load
from regularizer_models import on_images

pytestmark = pytest.mark.filterwarnings("ignore::zennit_isnet.errors.RelevanceRangeWarning")


def mean_of_shards(step, shards=WORLD):
    of_shards = [alone(step, shards, shard) for shard in range(shards)]
    return [torch.stack(gradients).mean(0) for gradients in zip(*of_shards, strict=True)]


def assert_gradients(found, expected):
    assert any(grad.any() for grad in expected)
    for result in found:
        torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-12)


def test_one_process(tmp_path):
    join(0, ddp_steps.in_ddp(ddp_steps.step), 1, str(tmp_path))
    assert_gradients(load(tmp_path, 1), alone(ddp_steps.step, 1))


@pytest.mark.slow
def test_what_would_give_wrong_gradients_is_refused(found):
    for said in found["refused models"]:
        assert "with static_graph=True gradients are not averaged" in said["static graph"]
        assert said["FSDP2 in a part"].startswith("3 (FSDPConv2d): FSDP frees parameters")
        assert all("use DistributedDataParallel" in said[name] for name in ("FSDP2", "FSDP2 in a part", "FSDP1"))


@pytest.mark.slow
def test_processes_may_share_the_state_of_the_optimizer(found):
    model, data = model_and_data(WORLD)
    ddp_steps.frozen_step(model, data)
    torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9).step()
    expected = [parameter.detach() for parameter in model.parameters()]
    for parameters in found["shared optimizer"]:
        torch.testing.assert_close(parameters, expected, rtol=1e-6, atol=1e-12)


@pytest.mark.slow
def test_gradients_are_the_mean_of_those_of_the_shards(found):
    expected = mean_of_shards(ddp_steps.step)
    assert_gradients(found["step"], expected)
    large = alone(ddp_steps.step, WORLD)
    assert not torch.allclose(expected[0], large[0], rtol=1e-3), "statistics are those of each shard"


@pytest.mark.slow
def test_with_frozen_batchnorm_they_are_those_of_the_large_batch(found):
    assert_gradients(found["frozen_step"], alone(ddp_steps.frozen_step, WORLD))


@pytest.mark.slow
def test_micro_batches_accumulate_to_the_large_batch(found):
    assert_gradients(found["accumulated_step"], alone(ddp_steps.frozen_step, WORLD))


@pytest.mark.slow
def test_layers_that_take_no_part_are_found(found):
    assert_gradients(found["unused layer"], mean_of_shards(ddp_steps.step))


@pytest.mark.slow
def test_the_weight_makes_it_the_mean_over_all_images_with_a_mask(found):
    expected = alone(ddp_steps.unweighted_masked_step, WORLD)
    assert_gradients(found["masked_step"], expected)
    unweighted = found["unweighted_masked_step"][0]
    assert not torch.allclose(unweighted[0], expected[0], rtol=1e-3)


@pytest.mark.slow
def test_losses_are_balanced_by_the_gradients_of_all_processes(found):
    norms, factor, expected = ddp_steps.balanced_by_hand(WORLD)
    assert factor < 1
    for found_norms, found_factor, gradients in (*found["balanced"], *found["balanced, bare model"]):
        assert found_norms == pytest.approx(norms, rel=1e-5)
        assert found_factor == pytest.approx(factor, rel=1e-5)
        if gradients is not None:
            torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-8)


@pytest.mark.slow
def test_one_process_explains_without_the_others(found):
    model, (images, *_) = model_and_data(WORLD)
    torch.testing.assert_close(found["heatmap in one process"][0], on_images(model).heatmap(images))


@pytest.mark.slow
def test_all_processes_get_the_range_of_all_images(found):
    model, (images, *_) = model_and_data(WORLD)
    expected = on_images(model).calibrate([images], progress=False)["input"]
    for ranges, _ in found["calibration"]:
        measured = ranges["input"]
        assert measured.count == len(images)
        assert (measured.c1, measured.c2) == pytest.approx((expected.c1, expected.c2), rel=1e-12)


@pytest.mark.slow
def test_no_process_waits_for_one_that_fails_to_measure(found):
    (_, (own, kept)), (_, (others, kept_too)) = found["calibration"]
    assert own.startswith("InvalidValueError: images must be finite")
    assert others == "CalibrationError: measuring failed in process 0; see the error there"
    assert kept == kept_too == "True"
