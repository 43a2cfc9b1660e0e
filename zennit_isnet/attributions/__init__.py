"""Attributions that `ISNetRegularizer` can penalise: LRP, and the plain gradients that other methods are made of.

Each is a callable ``attribution(model, images, formulation) -> output, {layer: relevance (N, K, C, …)}``, whose
relevance is a differentiable function of the parameters. Those without relevance rules need a second derivative of
every operation, which PyTorch lacks for a few (hardsigmoid, in MobileNetV3; some fused attention): ``backward()``
raises then, where `LRPAttribution` does not.
"""

from zennit_isnet.attribution import Attribution, LRPAttribution
from zennit_isnet.attributions.grad_cam import GradCAM
from zennit_isnet.attributions.input_gradient import GradientTimesInput, InputGradient
from zennit_isnet.attributions.integrated_gradients import IntegratedGradients

__all__ = ["Attribution", "GradCAM", "GradientTimesInput", "InputGradient", "IntegratedGradients", "LRPAttribution"]
