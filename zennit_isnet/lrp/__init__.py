"""LRP whose relevance is a differentiable function of the parameters: Zennit composites and what explains by them."""

from zennit_isnet.lrp.attribution import LRPAttribution
from zennit_isnet.lrp.coverage import Report, check
from zennit_isnet.lrp.flex import LRPFlex, box_from_normalization
from zennit_isnet.lrp.places import INPUT, Place, Places
from zennit_isnet.lrp.relevance.composite import (
    DifferentiableComposite,
    FuseBatchNorm,
    MakeFunctionsVisible,
    differentiable,
)
from zennit_isnet.lrp.relevance.papers import EpsilonZBox, ZPlus
from zennit_isnet.lrp.signal.hook import checkpoint_contexts

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
