"""Relevance by any composite, on models of any kind, and what the tests ask of it."""

from __future__ import annotations

import torch
from finite_differences import TOLERANCE, backward_gradients, worst_relative_error
from torch.nn import functional as F

LABELS = torch.tensor([0, 1, 2, 0])
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def relevance_of(composite, model, images, seed, create_graph=True):
    """Relevance at the images; ``seed`` is the relevance at the output, or a function of the output."""
    source = images if images.requires_grad else images.detach().clone().requires_grad_()
    with composite.context(model):
        output = model(source)
        upper = seed(output) if callable(seed) else seed
        return torch.autograd.grad(output, source, upper, create_graph=create_graph)[0]


def itself(output):
    """Seed that explains all outputs."""
    return output


def assert_same(actual, expected, tolerance=1e-10):
    """Equality up to a share of the largest expected value."""
    scale = expected.abs().max().item()
    assert scale > 0, "a comparison with zeros says nothing"
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * scale)


def assert_exact_gradients(value, groups, generator):
    """The gradient of ``value()`` with respect to each group of leaves is that of finite differences.

    Buffers and random draws are the caller's business: ``value`` has to be a function of the leaves.
    """
    for name, leaves in groups.items():
        gradients = backward_gradients(value(), leaves)
        error = worst_relative_error(lambda: value().item(), leaves, gradients, generator)
        assert error <= TOLERANCE, f"{name}: {error}"


def weighted_square(relevance):
    """A scalar whose derivative has another weight for each entry."""
    weights = torch.linspace(0.5, 1.5, relevance.numel(), dtype=relevance.dtype).view_as(relevance)
    return (weights * relevance.square()).sum()


def state_of(model):
    """All that a user may call the model's own: identities, values, modes, hooks, attributes."""
    return {
        "parameters": [(name, id(p), p.requires_grad) for name, p in model.named_parameters()],
        "modes": [module.training for module in model.modules()],
        "hooks": [(name, kind, list(getattr(m, kind).items())) for name, m in model.named_modules() for kind in HOOKS],
        "attributes": [(name, id(m), sorted(vars(m)), sorted(m._modules)) for name, m in model.named_modules()],
        "keys": list(model.state_dict()),
    }


def values_of(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def changed_values(model, before):
    return [key for key, value in model.state_dict().items() if not torch.equal(value, before[key])]


def loss_gradients(logits, model, images):
    loss = F.cross_entropy(logits, LABELS)
    return torch.autograd.grad(loss, [images, *model.parameters()], retain_graph=True, materialize_grads=True)


def plain_gradients(model, images):
    torch.manual_seed(0)
    images = images.detach().clone().requires_grad_()
    return loss_gradients(model(images), model, images)


def assert_same_gradients(actual, expected):
    assert max(gradient.abs().max() for gradient in expected) > 0
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
