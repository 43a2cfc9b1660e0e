"""
Use it with Captum
==================

If your code is written for Captum, you can keep it. :mod:`zennit_isnet.captum` has LRP with Captum's interface, for
every model that :class:`~zennit_isnet.LRPFlex` covers, and lets you penalise Captum's own attributions.
"""

# %%
# How do I compute LRP through Captum's interface?
# ------------------------------------------------
# ``captum.attr.LRP`` needs a rule for every module, refuses modules that are used twice, and does not know GELU or
# attention. ``CompositeAttribution`` has the same ``attribute`` method without these limits. For a transformer:

import torch
from captum.attr import LayerGradientXActivation, Saliency
from captum.metrics import infidelity
from torchvision.models import resnet18, swin_t

from zennit_isnet import ISNetRegularizer
from zennit_isnet.captum import (
    CaptumAttribution,
    CompositeAttribution,
    LayerCompositeAttribution,
)

torch.manual_seed(0)
transformer = swin_t(num_classes=3).eval()
images = torch.rand(2, 3, 64, 64)

attribution = CompositeAttribution(transformer)
relevance, delta = attribution.attribute(
    images, target=1, return_convergence_delta=True
)
print(relevance.shape, "convergence delta:", delta)

# %%
# The convergence delta is the relevance absorbed by the biases: the difference between the logit and the sum over the
# pixels.
#
# How do I explain an inner layer?
# --------------------------------

model = resnet18(num_classes=3).eval()
images = torch.rand(4, 3, 64, 64)
layers = LayerCompositeAttribution(model, model.layer3)
inner = layers.attribute(images, target=torch.tensor([0, 1, 2, 0]))
print(
    inner.shape,
    "up to the size of the images:",
    layers.interpolate(inner.sum(1, keepdim=True), (64, 64)).shape,
)

# %%
# Do Captum's metrics work?
# -------------------------
# Yes, as with any other attribution. So do ``NoiseTunnel`` and ``captum.attr.visualization``.


def perturb(inputs):
    noise = 0.01 * torch.randn_like(inputs)
    return noise, inputs - noise


relevance = CompositeAttribution(model).attribute(images, target=1)
print("infidelity:", infidelity(model, perturb, images, relevance, target=1).tolist())

# %%
# Can I penalise one of Captum's attributions?
# --------------------------------------------
# Yes. The regularizer accepts other attributions than LRP (:doc:`/how-to/other-attributions`). Most of Captum's are not
# differentiable by themselves; :class:`~zennit_isnet.captum.CaptumAttribution` makes them so. The first call compares
# the gradient with finite differences and refuses a method that detaches part of its graph.

masks = torch.zeros(4, 1, 64, 64)
masks[..., 16:48, 16:48] = 1
for method, layer in ((Saliency, None), (LayerGradientXActivation, "layer2")):
    attribution = CaptumAttribution(method, layer=layer)
    regularizer = ISNetRegularizer(model, attribution=attribution)
    regularizer.calibrate([images], progress=False)
    logits, penalty = regularizer(images, masks)
    model.zero_grad()
    penalty.backward()
    print(
        f"{method.__name__:25} penalty {penalty.item():.3f}, gradient {model.conv1.weight.grad.norm():.3f}"
    )
