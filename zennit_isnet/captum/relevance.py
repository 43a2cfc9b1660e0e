"""One explanation: a forward pass inside of a composite, and one backward pass from the explained output."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zennit_isnet.captum.arguments import explained_output
from zennit_isnet.captum.layer_taps import LayerTaps
from zennit_isnet.checks import check_in_box
from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.lrp.attribution import SignalOrRelevance, relevance_at
from zennit_isnet.lrp.flex import LRPFlex
from zennit_isnet.model import buffers_restored, unwrapped


class Explanation(NamedTuple):
    """Relevance of one explained output for each example.

    Attributes
    ----------
    relevance : list of tuple of Tensor
        Of the inputs, in their shapes; if there are layers, of the tensors of each of them.
    start : Tensor
        ``(N,)``, the relevance at the output.
    """

    relevance: list[tuple[Tensor, ...]]
    start: Tensor


def explain(
    model: nn.Module,
    composite: SignalOrRelevance,
    inputs: tuple[Tensor, ...],
    target: Any,
    arguments: tuple[Any, ...],
    *,
    layers: Sequence[str] = (),
    of_layer_inputs: bool = False,
    create_graph: bool = False,
) -> Explanation:
    """Explain one output of a model; buffers that the forward pass moves get their values back.

    Parameters
    ----------
    model : Module
        Called as ``model(*inputs, *arguments)``.
    composite : LRPFlex or DifferentiableComposite
        The rules.
    inputs : tuple of Tensor
        Checked; see `as_inputs`.
    target : Any
        See `explained_output`.
    arguments : tuple
        Constants of the explanation.
    layers : sequence of str
        Names of layers to explain in place of the inputs.
    of_layer_inputs : bool
        Whether the layers' inputs are explained, not their outputs.
    create_graph : bool
        Whether the relevance can be differentiated.
    """
    model = unwrapped(model)
    box = getattr(composite, "box", None)
    if box is not None:
        check_in_box(inputs[0], box)
    live = create_graph and torch.is_grad_enabled()
    # aliases, so that a tensor which the user hands in twice is two inputs
    sources = [x.view_as(x) if live and x.requires_grad else x.detach().requires_grad_() for x in inputs]
    constants = [value.detach() if isinstance(value, Tensor) else value for value in arguments]
    with torch.enable_grad(), buffers_restored(model), ExitStack() as contexts:
        contexts.enter_context(composite.context(model))
        fusion = getattr(composite, "fusion", None)
        on_copy = [] if fusion is None else [fusion.note_copy]
        contexts.enter_context(taps := LayerTaps(model, layers, on_copy, of_inputs=of_layer_inputs))
        # copies, because a model may begin with an in-place operation
        output = _main_output(model(*(source.clone() for source in sources), *constants))
        explained = explained_output(output, target, len(inputs[0]))
        seed = _seed(explained, output)
        is_signal = isinstance(composite, LRPFlex)
        start = seed if is_signal else composite.relevance_seed(output, seed)
        entries = {f"input {index}": source for index, source in enumerate(sources)}
        places = taps.read() if layers else entries
        keys = [taps.keys[name] for name in layers] if layers else [list(entries)]
        # of several arguments some may not count, such as the queries of an attention whose weights are constant
        unreached = [key for group in keys if of_layer_inputs and len(group) > 1 for key in group]
        found = relevance_at(places, composite, output, start, create_graph, inputs=entries.keys(), unreached=unreached)
        relevance = [tuple(found[key] for key in group) for group in keys]
        total = explained if is_signal else start.reshape(len(start), -1).sum(1)
    if not create_graph:
        return Explanation([tuple(part.detach() for part in parts) for parts in relevance], total.detach())
    return Explanation(relevance, total)


def _seed(explained: Tensor, output: Tensor) -> Tensor:
    """One at the explained element of each example, zero elsewhere; in the shape of the output."""
    if not explained.requires_grad:
        raise InvalidValueError("the model's output does not depend on the inputs, or the model cuts the graph")
    (seed,) = torch.autograd.grad(explained, output, torch.ones_like(explained), retain_graph=True)
    return seed


def _main_output(output: Any) -> Tensor:
    """Return the main head where a named tuple holds auxiliary ones too."""
    main = output[0] if isinstance(output, tuple) and hasattr(output, "_fields") and output else output
    if not isinstance(main, Tensor) or not main.is_floating_point():
        came = main.dtype if isinstance(main, Tensor) else type(output).__name__
        raise InvalidTypeError(f"the model must return a floating tensor, or a named tuple of heads, got {came}")
    return main
