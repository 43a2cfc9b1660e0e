"""LRP with Captum's interface, and Captum's attributions as penalties."""

from zennit_isnet.captum.lrp import CompositeAttribution, LayerCompositeAttribution
from zennit_isnet.captum.penalty import CaptumAttribution

__all__ = ["CaptumAttribution", "CompositeAttribution", "LayerCompositeAttribution"]
