"""Zennit's built-in composites as the tests use them."""

from __future__ import annotations

import pytest
import torch
from zennit.composites import (
    DeconvNet,
    EpsilonAlpha2Beta1,
    EpsilonAlpha2Beta1Flat,
    EpsilonGammaBox,
    EpsilonPlus,
    EpsilonPlusFlat,
    ExcitationBackprop,
    GuidedBackprop,
)

from zennit_isnet.lrp.relevance.composite import FuseBatchNorm, MakeFunctionsVisible, differentiable

LOW, HIGH = torch.tensor(-3.0), torch.tensor(3.0)
"""A box of one value for all pixels, around all images of the tests."""

MAKERS = {
    "EpsilonGammaBox": lambda **options: EpsilonGammaBox(LOW, HIGH, **options),
    "EpsilonPlus": EpsilonPlus,
    "EpsilonAlpha2Beta1": EpsilonAlpha2Beta1,
    "EpsilonPlusFlat": EpsilonPlusFlat,
    "EpsilonAlpha2Beta1Flat": EpsilonAlpha2Beta1Flat,
    "ExcitationBackprop": ExcitationBackprop,
    "DeconvNet": DeconvNet,
    "GuidedBackprop": GuidedBackprop,
}
STABILIZED = {name for name in MAKERS if name not in ("DeconvNet", "GuidedBackprop")}


def stabilizers(name, epsilon):
    """Options that give all rules of a composite the same stabilizer."""
    options = {"stabilizer": epsilon} if name in STABILIZED else {}
    return {**options, "epsilon": epsilon} if name.startswith("Epsilon") else options


def ours(name, epsilon=1e-6):
    """A built-in composite, differentiable, with this package's canonizers."""
    composite = MAKERS[name](**stabilizers(name, epsilon))
    return differentiable(composite, canonizers=[FuseBatchNorm(), MakeFunctionsVisible()])


def every_composite(*nets):
    """Parametrize with each built-in composite in both modes, on two nets by turns.

    Nets and modes are independent of each other: each composite meets both nets, and each net both modes.
    """
    cases = [(nets[(i + t) % 2], t == 1, composite) for i, composite in enumerate(MAKERS) for t in (0, 1)]
    ids = [f"{net}-{'train' if training else 'eval'}-{composite}" for net, training, composite in cases]
    return pytest.mark.parametrize(("net", "training", "composite"), cases, ids=ids)


every_composite_in_one_mode = pytest.mark.parametrize(
    ("training", "composite"), [(i % 2 == 1, composite) for i, composite in enumerate(MAKERS)]
)
"""Half of the built-in composites in train mode, the other half in eval mode."""
