"""What holds for LRP-Flex on every classifier; each function returns the numbers that a test bounds."""

from __future__ import annotations

import torch
import zoo
from torch import Tensor, nn

from zennit_isnet.formulations import Selective, Target
from zennit_isnet.lrp.flex import LRPFlex
from zennit_isnet.lrp.propagation import LRPAttribution
from zennit_isnet.regularizer import ISNetRegularizer

EPSILON = 1e-30
BIASED = (nn.modules.conv._ConvNd, nn.Linear, *zoo.NORMS)


def conservation_error(model: nn.Module, images: Tensor) -> tuple[float, float]:
    """|ΣR − logit| / |logit| of the largest logit of each image, for a model without biases.

    And the largest difference of its logits from the plain model's, relative to the largest logit.
    """
    with torch.no_grad():
        plain = model(images)
    classes = plain.abs().argmax(1)
    logits, relevance = LRPAttribution(LRPFlex(EPSILON))(model, images, Target(classes), create_graph=False)
    logits = logits.detach()
    explained = logits.gather(1, classes[:, None])[:, 0]
    assert explained.abs().min() > 0
    total = relevance["input"].flatten(1).sum(1)
    error = ((total - explained) / explained).abs().max().item()
    return error, ((logits - plain).abs().max() / plain.abs().max()).item()


def conservation_error_with_biases(model: nn.Module, images: Tensor) -> tuple[float, float]:
    """|ΣR + Σ b·G_b − logit| / |logit|, and the share of the logit that the biases take.

    ``G_b`` is the signal at a zero that is added to the output of each module with a bias; for biases of functional
    calls (attention), class tokens and position embeddings it is the gradient of the parameter in the signal pass.
    """
    images = images.clone().requires_grad_()
    offsets, biases, seen = [], [], set()

    def add_offset(module, args, output):
        offset = torch.zeros_like(output, requires_grad=True)
        offsets.append(offset)
        biases.append(bias_of(module))
        seen.add(id(module))
        return output + offset

    hooks = [m.register_forward_hook(add_offset) for m in model.modules() if isinstance(m, BIASED)]
    with LRPFlex(EPSILON).context(model):
        logits = model(images)
        direct = [p for m in model.modules() if id(m) not in seen for p in biases_of_calls(m)]
        index = logits.detach().abs().sum(0).argmax()
        explained = logits[:, index].sum()
        relevance, *signals = torch.autograd.grad(
            explained, [images, *offsets, *direct], materialize_grads=True, allow_unused=True
        )
    for hook in hooks:
        hook.remove()
    values = (*biases, *(p.detach() for p in direct))
    through_biases = sum((b * g).sum() for b, g in zip(values, signals, strict=True))
    error = ((relevance.sum() + through_biases - explained) / explained).abs().item()
    return error, (through_biases / explained).abs().item()


def biases_of_calls(module: nn.Module) -> list[Tensor]:
    """Parameters that functional calls add to the signal, of a module that is not called itself."""
    named = module.named_parameters(recurse=False)
    return [p for name, p in named if name in zoo.TOKENS or name in ("bias", "in_proj_bias", "bias_v")]


@torch.no_grad()
def bias_of(module: nn.Module) -> Tensor:
    """Bias of a layer, or of a BatchNorm in eval mode: β − γμ/σ; broadcastable to its output."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        bias = module.bias - module.weight * module.running_mean / (module.running_var + module.eps).sqrt()
    else:
        bias = torch.zeros(1, dtype=torch.float64) if module.bias is None else module.bias.clone()
    channels_last = isinstance(module, (nn.Linear, nn.LayerNorm)) and type(module).__name__ != "LayerNorm2d"
    dims = len(module.kernel_size) if isinstance(module, nn.modules.conv._ConvNd) else 2
    dims = 3 if isinstance(module, nn.BatchNorm3d) else dims
    return bias if channels_last else bias.view(-1, *(1,) * dims)


def tempered_selective(logits: Tensor) -> Tensor:
    """`Selective` of logits of order 1: those of random deep networks saturate the softmax."""
    return Selective()(logits / logits.detach().abs().amax(1, keepdim=True))


def parameters_without_gradient(model: nn.Module, images: Tensor) -> list[str]:
    """Names of the parameters that influence the logits and get no finite, non-zero gradient from the penalty."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    plain = torch.autograd.grad(model(images).square().sum(), parameters, allow_unused=True)
    scale = max(g.abs().max() for g in plain if g is not None)
    influential = [g is not None and g.abs().max() > 1e-12 * scale for g in plain]
    masks = torch.zeros(images.shape[0], 1, *images.shape[2:])
    masks[..., : images.shape[-1] // 2] = 1
    _, penalty = ISNetRegularizer(model, composite=LRPFlex(1e-2), formulation=tempered_selective)(images, masks)
    gradients = torch.autograd.grad(penalty, parameters, allow_unused=True)

    def fine(gradient: Tensor | None) -> bool:
        return gradient is not None and bool(gradient.isfinite().all()) and bool(gradient.any())

    return [n for n, g, matters in zip(names, gradients, influential, strict=True) if matters and not fine(g)]
