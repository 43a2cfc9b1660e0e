"""Relevance with Captum's interface, and Captum's attributions as penalties."""

from zennit_isnet.captum.adapter import CaptumAttribution
from zennit_isnet.captum.attribution import CompositeAttribution
from zennit_isnet.captum.layer_attribution import LayerCompositeAttribution

__all__ = ["CaptumAttribution", "CompositeAttribution", "LayerCompositeAttribution"]
