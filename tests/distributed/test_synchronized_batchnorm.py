"""SyncBatchNorm in two processes is BatchNorm of all images in one: heatmaps and parameter gradients."""

from __future__ import annotations

import pytest
import torch
from processes import WORLD
from synchronized_nets import CASES, model_and_images, relevance_and_gradients

pytestmark = pytest.mark.slow


def whole_batch(case, dtype):
    model, images = model_and_images(case, dtype)
    return relevance_and_gradients(model, case, images, len(images))


def check(found, expected, **tolerance):
    assert found[0].keys() == found[1].keys() == expected.keys()
    for name, value in expected.items():
        shards = value.chunk(WORLD) if not name.startswith("gradient") else [value] * WORLD
        for rank, shard in enumerate(shards):
            torch.testing.assert_close(
                found[rank][name], shard, **tolerance, msg=lambda text, name=name: f"{name}: {text}"
            )


@pytest.mark.parametrize("case", CASES)
def test_it_is_batchnorm_of_the_whole_batch(found, case):
    check(found[case], whole_batch(case, torch.float64), rtol=1e-10, atol=1e-12)
