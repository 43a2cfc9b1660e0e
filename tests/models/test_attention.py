"""Attention equals PyTorch's in every option; its weights are held constant, the signal goes through the values."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from zennit_isnet.errors import UncoveredOperationError
from zennit_isnet.formulations import Target
from zennit_isnet.lrp.flex import LRPFlex
from zennit_isnet.lrp.propagation import LRPAttribution

N, LENGTH, WIDTH, HEADS = 2, 5, 8, 2
CAUSAL = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
PADDING = torch.tensor([[False] * 5, [False, False, True, True, True]])
PER_HEAD = torch.arange(N * HEADS * LENGTH * LENGTH, dtype=torch.float64).view(N * HEADS, LENGTH, LENGTH).sin()


class Attending(nn.Module):
    """Tokens ``(N, 1, 1, LENGTH·WIDTH)`` to three logits, by a callable of tokens ``(N, LENGTH, WIDTH)``."""

    def __init__(self, attend, generator) -> None:
        super().__init__()
        self.attend = attend
        self.head = nn.Linear(WIDTH, 3, bias=False)
        self.double()
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(0, WIDTH**-0.5, generator=generator)

    def forward(self, images):
        return self.head(self.attend(images.view(-1, LENGTH, WIDTH)).mean(1))


class Multihead(nn.Module):
    def __init__(self, call, **options) -> None:
        super().__init__()
        options = {"batch_first": True, "bias": False, **options}
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, **options)
        self.call = call

    def forward(self, tokens):
        if not self.attention.batch_first:
            tokens = tokens.transpose(0, 1)
        output, weights = self.attention(tokens, tokens, tokens, **self.call)
        if weights is not None:
            self.shown = weights.detach().clone()
        return output if self.attention.batch_first else output.transpose(0, 1)


MODULES = {
    "plain": ({}, {}),
    "without weights": ({"need_weights": False}, {}),
    "weights of each head": ({"average_attn_weights": False}, {}),
    "causal": ({"attn_mask": CAUSAL, "is_causal": True, "need_weights": False}, {}),
    "mask": ({"attn_mask": CAUSAL}, {}),
    "mask of numbers": ({"attn_mask": PER_HEAD}, {}),
    "padding": ({"key_padding_mask": PADDING}, {}),
    "padding and mask": ({"key_padding_mask": PADDING, "attn_mask": CAUSAL}, {}),
    "separate projections": ({}, {"kdim": WIDTH, "vdim": WIDTH}),
    "zero position": ({"key_padding_mask": PADDING}, {"add_zero_attn": True}),
    "learned position": ({"attn_mask": CAUSAL}, {"add_bias_kv": True}),
    "sequence first": ({}, {"batch_first": False}),
}


def heads(tokens):
    return tokens.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def sdpa(**options):
    def attend(tokens):
        mixed = F.scaled_dot_product_attention(heads(tokens), heads(tokens.cos()), heads(tokens), **options)
        return mixed.transpose(1, 2).flatten(2)

    return attend


def grouped(tokens):
    query = torch.cat([heads(tokens), heads(tokens)], 1)
    mixed = F.scaled_dot_product_attention(query, heads(tokens), heads(tokens), enable_gqa=True)
    return mixed.sum(1).repeat(1, 1, 2)


FUNCTIONS = {
    "plain": sdpa(),
    "scale": sdpa(scale=0.3),
    "causal": sdpa(is_causal=True),
    "mask that keeps": sdpa(attn_mask=~CAUSAL),
    "mask of numbers": sdpa(attn_mask=PER_HEAD[:1]),
    "rows without keys": sdpa(attn_mask=CAUSAL),
    "grouped queries": grouped,
}


@pytest.mark.parametrize("name", MODULES)
def test_multi_head_attention(name, generator):
    call, options = MODULES[name]
    model = Attending(Multihead(call, **options), generator).eval()
    if name == "learned position":
        with torch.no_grad():
            model.attend.attention.bias_v.zero_()
    images = torch.randn(N, 1, 1, LENGTH * WIDTH, generator=generator, dtype=torch.float64)
    expected = model(images)
    shown = getattr(model.attend, "shown", None)
    logits, relevance = LRPAttribution(LRPFlex(1e-30))(model, images, Target(1))
    torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(relevance["input"].sum((1, 2, 3, 4)), logits[:, 1], rtol=1e-10, atol=1e-12)
    if shown is not None:
        torch.testing.assert_close(model.attend.shown, shown, rtol=1e-12, atol=1e-13)


NO_KEYS = torch.zeros(LENGTH, LENGTH, dtype=torch.bool)
NO_KEYS[0] = True

ODD_CALLS = {
    "a row without keys": {"attn_mask": NO_KEYS},
    "a row without keys, in numbers": {
        "attn_mask": torch.zeros(LENGTH, LENGTH).double().masked_fill(NO_KEYS, -torch.inf)
    },
    "one head's row without keys": {"attn_mask": PER_HEAD.masked_fill(NO_KEYS, -torch.inf)},
    "an image of padding": {"key_padding_mask": torch.ones(N, LENGTH, dtype=torch.bool)},
    "a mask of each head and padding": {"attn_mask": PER_HEAD, "key_padding_mask": PADDING},
    "another mask than the hint says": {"attn_mask": ~CAUSAL.T, "is_causal": True},
    "a hint and padding": {"attn_mask": CAUSAL, "key_padding_mask": PADDING, "is_causal": True},
    "a hint and no mask": {"is_causal": True},
    "a mask of integers": {"attn_mask": CAUSAL.long()},
    "a mask of one row": {"attn_mask": CAUSAL[:1]},
    "a mask of too few heads": {"attn_mask": PER_HEAD[:HEADS]},
    "padding of one image": {"key_padding_mask": PADDING[:1]},
}


@pytest.mark.filterwarnings("ignore:Support for mismatched")
@pytest.mark.parametrize("options", [{}, {"add_zero_attn": True}, {"dropout": 0.4}], ids=str)
@pytest.mark.parametrize("needs", [{}, {"need_weights": False}, {"average_attn_weights": False}], ids=str)
@pytest.mark.parametrize("name", ODD_CALLS)
def test_values_and_errors_are_those_of_pytorch(name, needs, options, generator, seed):
    """NaN included; in train mode, with the same random numbers."""
    model = Attending(Multihead(ODD_CALLS[name] | needs, **options), generator)
    images = torch.randn(N, 1, 1, LENGTH * WIDTH, generator=generator, dtype=torch.float64)

    def outcome(call):
        torch.manual_seed(seed)
        try:
            return call().detach(), getattr(model.attend, "shown", None)
        except (RuntimeError, AssertionError) as error:
            return type(error), str(error)

    expected = outcome(lambda: model(images))
    found = outcome(lambda: LRPAttribution(LRPFlex(1e-30))(model, images, Target(1))[0])
    if isinstance(expected[0], type):
        assert found == expected
    else:
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("options", [{"attn_mask": CAUSAL, "is_causal": True}, {"attn_mask": CAUSAL.long()}])
def test_masks_that_pytorch_refuses_are_refused(options, generator):
    images = torch.randn(N, 1, 1, LENGTH * WIDTH, generator=generator, dtype=torch.float64)
    # some versions of PyTorch take them
    with pytest.raises((RuntimeError, UncoveredOperationError), match="mask"):
        LRPAttribution()(Attending(sdpa(**options), generator), images, Target(1))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_scaled_dot_product_attention(name, generator):
    model = Attending(FUNCTIONS[name], generator)
    images = torch.randn(N, 1, 1, LENGTH * WIDTH, generator=generator, dtype=torch.float64)
    logits, relevance = LRPAttribution(LRPFlex(1e-30))(model, images, Target(1))
    torch.testing.assert_close(logits, model(images), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(relevance["input"].sum((1, 2, 3, 4)), logits[:, 1], rtol=1e-10, atol=1e-12)
    gradients = torch.autograd.grad(relevance["input"].square().sum(), list(model.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_the_signal_is_that_of_constant_weights(generator):
    """By hand: R = x ⊙ Wᵀ(A G), with A alive for the parameters."""
    attention = Multihead({"need_weights": False})
    model = Attending(attention, generator)
    images = torch.randn(N, 1, 1, LENGTH * WIDTH, generator=generator, dtype=torch.float64)
    parameters = list(model.parameters())
    _, relevance = LRPAttribution(LRPFlex(1e-30))(model, images, Target(1))

    tokens = images.view(N, LENGTH, WIDTH)
    query, key, value = attention.attention.in_proj_weight.chunk(3)
    weights = (heads(tokens @ query.T) @ heads(tokens @ key.T).mT / (WIDTH // HEADS) ** 0.5).softmax(-1)
    signal = (model.head.weight[1] / LENGTH).expand(N, LENGTH, WIDTH) @ attention.attention.out_proj.weight
    expected = tokens * ((weights.mT @ heads(signal)).transpose(1, 2).flatten(2) @ value)
    torch.testing.assert_close(relevance["input"].view(N, LENGTH, WIDTH), expected, rtol=1e-10, atol=1e-12)
    actual = torch.autograd.grad(relevance["input"].pow(3).sum(), parameters)
    torch.testing.assert_close(actual, torch.autograd.grad(expected.pow(3).sum(), parameters), rtol=1e-9, atol=1e-11)


def test_what_only_queries_and_keys_read_needs_no_rule(generator):
    def attend(tokens):
        query = F.normalize(heads(tokens).exp(), dim=-1)
        return F.scaled_dot_product_attention(query, query, heads(tokens)).transpose(1, 2).flatten(2)

    images = torch.randn(N, 1, 1, LENGTH * WIDTH, generator=generator, dtype=torch.float64)
    logits, relevance = LRPAttribution(LRPFlex(1e-30))(Attending(attend, generator), images, Target(1))
    torch.testing.assert_close(relevance["input"].sum((1, 2, 3, 4)), logits[:, 1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("attend", ["module", "function"])
def test_dropout_of_the_weights_is_drawn(attend, seed, generator):
    model = Attending(Multihead({}, dropout=0.5) if attend == "module" else sdpa(dropout_p=0.5), generator).train()
    images = torch.randn(N, 1, 1, LENGTH * WIDTH, generator=generator, dtype=torch.float64)

    def explain(seed):
        torch.manual_seed(seed)
        logits, relevance = LRPAttribution(LRPFlex(1e-30))(model, images, Target(1))
        torch.testing.assert_close(relevance["input"].sum((1, 2, 3, 4)), logits[:, 1], rtol=1e-10, atol=1e-12)
        return logits

    assert torch.equal(explain(seed), explain(seed))
    assert not torch.equal(explain(seed), explain(seed + 1))
