"""SyncBatchNorm in two processes is BatchNorm of all images in one: heatmaps and parameter gradients."""

from __future__ import annotations

import pytest
import torch
from processes import WORLD, run_in_processes
from synchronized_nets import CASES, model_and_images, relevance_and_gradients
from synchronized_steps import step_on_cuda, whole_batch

pytestmark = pytest.mark.slow


def in_one_process(case, dtype, training=True):
    model, images = model_and_images(case, dtype)
    return relevance_and_gradients(model.train(training), case, images, len(images))


def check(found, expected, **tolerance):
    assert found[0].keys() == found[1].keys() == expected.keys()
    for name, value in expected.items():
        shards = [value] * WORLD if name.startswith("gradient") else value.chunk(WORLD)
        for result, shard in zip(found, shards, strict=True):
            torch.testing.assert_close(result[name], shard, **tolerance)


@pytest.mark.parametrize("case", CASES)
def test_it_is_batchnorm_of_the_whole_batch(found, case):
    expected = in_one_process(case, torch.float64)
    assert all(value.any() for name, value in expected.items() if name.startswith("relevance"))
    check(found[case], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch's own SyncBatchNorm needs a CUDA device")
def test_pytorchs_own_is_batchnorm_of_the_whole_batch(tmp_path):
    check(run_in_processes(step_on_cuda, tmp_path), in_one_process("LRPFlex", torch.float64), rtol=1e-8, atol=1e-10)


def test_in_float32_too(found):
    check(found["float32"], in_one_process("LRPFlex", torch.float32), rtol=1e-4, atol=1e-6)


def test_statistics_of_the_batch_matter(found):
    """The comparison can fail: each shard by its own statistics gives something else."""
    model, images = model_and_images("LRPFlex", torch.float64)
    alone = relevance_and_gradients(model, "LRPFlex", images.chunk(WORLD)[0], len(images))
    assert not torch.allclose(alone["relevance input"], found["LRPFlex"][0]["relevance input"], rtol=0.01)


def test_statistics_of_unequal_shards_are_those_of_all_values(found):
    values, weights = whole_batch()
    values.requires_grad_()
    variance, mean = torch.var_mean(values, (0, 2, 3), correction=0)
    statistics = torch.stack([mean, torch.rsqrt(variance + 1e-5)])
    ((1 + 2) * weights * statistics).sum().backward()
    shards = (values.grad[:1], values.grad[1:])
    for result, grad in zip(found["unequal shards"], shards, strict=True):
        torch.testing.assert_close(result, [statistics.detach(), grad], rtol=1e-12, atol=1e-14)


def test_in_eval_mode_nothing_is_synchronized(found):
    expected = in_one_process("LRPFlex", torch.float64, training=False)
    torch.testing.assert_close(found["eval mode"][0], expected)


def test_what_needs_a_second_derivative_is_refused_with_the_remedy(found):
    for unfused, behind_activation, with_rule, report in found["refusals"]:
        assert "1 (CPUSyncBatchNorm)" in unfused or "4 (CPUSyncBatchNorm)" in unfused
        assert "FuseBatchNorm() among the canonizers" in unfused
        assert "2 (CPUSyncBatchNorm)" in behind_activation
        assert "(CPUSyncBatchNorm): Epsilon needs a second derivative" in with_rule
        assert "every operation has a rule" in report
