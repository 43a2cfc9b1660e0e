"""The authors' implementation: every heatmap and logit of the reference, and the losses end to end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from zennit_isnet import HeatmapLoss
from zennit_isnet.formulations import Original, Selective
from zennit_isnet.lrp.flex import LRPFlex
from zennit_isnet.lrp.propagation import LRPAttribution

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "reference.npz")
FORMULATIONS = {"selective": lambda: Selective(1e-2), "original": Original}
NETS = {"conv_bn": True, "conv": False, "conv_zbox": False}
FOREGROUND = {"L2": "squared", "hybrid": "hybrid"}
NORMALIZATION = {"absRoIMean": "absolute_first", "RoIMean": "normalize_first"}

inplace = pytest.mark.parametrize("inplace", [False, True], ids=["out of place", "in place"])


def reference_net(net, inplace):
    def norm(channels):
        return [nn.BatchNorm2d(channels)] if NETS[net] else []

    layers = [
        *(nn.Conv2d(3, 6, 3, padding=1, bias=not NETS[net]), *norm(6), nn.ReLU(inplace), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 8, 3, stride=2, padding=1), *norm(8), nn.ReLU(inplace), nn.Flatten(), nn.Linear(128, 5)),
    ]
    model, prefix = nn.Sequential(*layers), f"{net}/state/"
    state = {key.removeprefix(prefix): torch.from_numpy(GOLDEN[key]) for key in GOLDEN if key.startswith(prefix)}
    for name in model.state_dict():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(0)
    model.load_state_dict(state)
    return model.eval()


def explain(net, formulation, inplace):
    composite = LRPFlex(epsilon=1e-2, box=(0.0, 1.0) if net.endswith("zbox") else None)
    images = torch.from_numpy(GOLDEN["input"])
    logits, relevance = LRPAttribution(composite)(reference_net(net, inplace), images, FORMULATIONS[formulation]())
    return logits.detach(), relevance["input"].detach()


def relative_error(actual, expected):
    assert actual.shape == expected.shape
    return np.abs(actual.numpy() - expected).max() / np.abs(expected).max()


@inplace
@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize("net", NETS)
def test_heatmaps_and_logits(net, formulation, inplace):
    logits, heatmap = explain(net, formulation, inplace)
    assert relative_error(logits, GOLDEN[f"{net}/{formulation}/logits"]) <= 1e-5
    assert relative_error(heatmap, GOLDEN[f"{net}/{formulation}/heatmap"]) <= 1e-5


@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize("net", NETS)
def test_losses_from_images(net, formulation):
    _, heatmap = explain(net, formulation, inplace=False)
    mask, c1s = torch.from_numpy(GOLDEN["mask"]), GOLDEN[f"{net}/{formulation}/loss/c1"].tolist()
    keys = [key for key in GOLDEN if key.startswith(f"{net}/{formulation}/loss/d=")]
    assert len(keys) == 8
    for key in keys:
        settings = dict(setting.split("=") for setting in key.split("/loss/")[1].split(","))
        loss = HeatmapLoss(
            background_weight=1.0,
            foreground_weight=3.0,
            background_scale=1.0,
            decay=float(settings["d"]),
            foreground_variant=FOREGROUND[settings["foreground"]],
            normalization=NORMALIZATION[settings["norm"]],
            stabilizer=1e-10,  # the authors' constant; it shows where the signed mean of the foreground cancels
        )
        losses = torch.stack([loss(heatmap, mask, c1, 25 * c1) for c1 in c1s])
        np.testing.assert_allclose(losses.numpy(), GOLDEN[key], rtol=1e-5, err_msg=key)


def test_every_network_of_the_reference_is_here():
    assert {key.split("/")[0] for key in GOLDEN} - {"input", "mask"} == set(NETS)
    assert {key.split("/")[1] for key in GOLDEN if "/" in key} - {"state"} == set(FORMULATIONS)
