"""Zennit's rules as plain matrix algebra: ``R_i = f(x_i, W_ik, b_k, R_k)`` with the layer as one dense matrix.

Index letters: i input, k output. Gradients of these formulas are autograd's.
"""

from __future__ import annotations

import torch
from torch.func import functional_call


def dense(layer, weight, input_shape):
    """Matrix ``(I, K)`` of a layer: its response to each unit vector."""
    count = torch.Size(input_shape).numel()
    units = torch.eye(count, dtype=weight.dtype).view(count, *input_shape)
    state = {"weight": weight}
    if layer.bias is not None:
        state["bias"] = torch.zeros_like(layer.bias)
    return functional_call(layer, state, units).flatten(1)


def spread_bias(layer, output_shape):
    """Bias of each output ``(K,)``."""
    channels, *sizes = output_shape
    bias = torch.zeros(channels, dtype=layer.weight.dtype) if layer.bias is None else layer.bias
    return bias.view(-1, *(1,) * len(sizes)).expand(output_shape).flatten()


def stab(z, epsilon):
    return torch.where(z >= 0, z + epsilon, z - epsilon)


def plus(values):
    return values.clamp(min=0)


def minus(values):
    return values.clamp(max=0)


def epsilon_rule(x, w, b, relevance, e):
    return x * (relevance / stab(x @ w + b, e) @ w.T)


def gamma_rule(x, w, b, relevance, e, gamma=0.25):
    z = x @ w + b
    w_plus, w_minus = w + gamma * plus(w), w + gamma * minus(w)
    s_plus = relevance / stab(plus(x) @ w_plus + minus(x) @ w_minus + b + gamma * plus(b), e) * (z > 0)
    s_minus = relevance / stab(plus(x) @ w_minus + minus(x) @ w_plus + b + gamma * minus(b), e) * (z < 0)
    through_positive = s_plus @ w_plus.T + s_minus @ w_minus.T
    through_negative = s_plus @ w_minus.T + s_minus @ w_plus.T
    return plus(x) * through_positive + minus(x) * through_negative


def alpha_beta_rule(x, w, b, relevance, e, alpha, beta):
    s = relevance / stab(plus(x) @ plus(w) + minus(x) @ minus(w) + plus(b), e)
    t = relevance / stab(plus(x) @ minus(w) + minus(x) @ plus(w) + minus(b), e)
    excitation = plus(x) * (s @ plus(w).T) + minus(x) * (s @ minus(w).T)
    inhibition = plus(x) * (t @ minus(w).T) + minus(x) * (t @ plus(w).T)
    return alpha * excitation - beta * inhibition


def z_plus_rule(x, w, b, relevance, e):
    return alpha_beta_rule(x, w, b, relevance, e, 1, 0)


def z_box_rule(x, w, b, relevance, e, low, high):
    low, high = torch.full_like(x, low), torch.full_like(x, high)
    s = relevance / stab(x @ w - low @ plus(w) - high @ minus(w), e)
    return x * (s @ w.T) - low * (s @ plus(w).T) - high * (s @ minus(w).T)


def w_square_rule(x, w, b, relevance, e):
    return relevance / stab(w.square().sum(0) + b.square(), e) @ w.square().T


def flat_rule(x, connections, b, relevance, e):
    return relevance / stab(connections.sum(0), e) @ connections.T
