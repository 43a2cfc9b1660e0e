"""LRP with relevance that is differentiable with respect to the parameters: Zennit composites and attributions."""

from zennit_isnet.lrp.coverage import Report, check
from zennit_isnet.lrp.flex import LRPFlex, box_from_normalization, checkpoint_contexts
from zennit_isnet.lrp.propagation import LRPAttribution
from zennit_isnet.lrp.relevance.composite import (
    DifferentiableComposite,
    FuseBatchNorm,
    MakeFunctionsVisible,
    differentiable,
)
from zennit_isnet.lrp.relevance.papers import EpsilonZBox, ZPlus
from zennit_isnet.lrp.taps import INPUT, Place, Places

__all__ = [
    "INPUT",
    "DifferentiableComposite",
    "EpsilonZBox",
    "FuseBatchNorm",
    "LRPAttribution",
    "LRPFlex",
    "MakeFunctionsVisible",
    "Place",
    "Places",
    "Report",
    "ZPlus",
    "box_from_normalization",
    "check",
    "checkpoint_contexts",
    "differentiable",
]
