"""Zennit's own composites, with every stabilizer as small as the comparison needs."""

from __future__ import annotations

from importlib.metadata import version

from zennit.composites import LayerMapComposite, SpecialFirstLayerMapComposite
from zennit.layer import Sum
from zennit.rules import Epsilon, Norm, Pass, ZBox
from zennit.types import Activation, AvgPool, Convolution, Linear

MAJOR = int(version("zennit").split(".")[0])


def layer_map(epsilon, norm_stabilizer):
    return [
        (Activation, Pass()),
        (Sum, Norm(norm_stabilizer)),
        (AvgPool, Norm(norm_stabilizer)),
        (Convolution, Epsilon(epsilon)),
        (Linear, Epsilon(epsilon)),
    ]


def epsilon_composite(epsilon, canonizers=(), norm_stabilizer=1e-30):
    return LayerMapComposite(layer_map(epsilon, norm_stabilizer), canonizers=list(canonizers))


def zbox_composite(epsilon, low, high, canonizers=(), norm_stabilizer=1e-30):
    first = [(Convolution, ZBox(low[None], high[None], stabilizer=epsilon))]
    return SpecialFirstLayerMapComposite(layer_map(epsilon, norm_stabilizer), first, canonizers=list(canonizers))
