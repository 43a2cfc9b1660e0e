"""BatchNorm folded into the layer before or after it, by the statistics of the forward pass and without writing."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary
from zennit.core import Hook, RemovableHandle, RemovableHandleList
from zennit.types import ConvolutionStandard, ConvolutionTranspose

from zennit_isnet.errors import UnsupportedModelError
from zennit_isnet.lrp.composite import Switched
from zennit_isnet.lrp.relevance.evaluation import Call, apply_rule, is_pass
from zennit_isnet.lrp.signal.normalization import BatchStatistics, Scaled, synchronizes
from zennit_isnet.lrp.signal.substitute import Switch, substitute


class Affine:
    """``y ↦ scale · y + shift``, what a BatchNorm did in one forward pass.

    Parameters
    ----------
    norm : Module
        The BatchNorm. Its mode is read now, its parameters and the statistics of the batch when they are needed:
        they are functions of its parameters and of its input.
    """

    def __init__(self, norm: nn.Module) -> None:
        self.norm: Any = norm
        # torchvision's FrozenBatchNorm2d has a mode, and no use for it
        follows_mode = isinstance(norm, nn.modules.batchnorm._BatchNorm)
        self.by_batch = follows_mode and (norm.training or norm.running_mean is None)
        self.synchronized = synchronizes(norm)

    def __call__(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``γ/σ`` and ``β − γμ/σ`` for the BatchNorm's input; running statistics are not touched."""
        norm = self.norm
        if self.by_batch:
            mean, inverse_std = BatchStatistics.apply(input, norm.eps, norm if self.synchronized else None)
        else:
            mean, inverse_std = norm.running_mean, torch.rsqrt(norm.running_var + norm.eps)
        scale = inverse_std if norm.weight is None else norm.weight * inverse_std
        return scale, -mean * scale if norm.bias is None else norm.bias - mean * scale

    def folded_after(self, call: Call, input: Tensor) -> Call:
        """Return the call of a layer followed by the BatchNorm, whose input is `input`."""
        scale, shift = self(input)
        weight, bias = call.parameters["weight"], call.parameters.get("bias")
        if isinstance(call.module, ConvolutionTranspose):
            by_output = _of_groups(scale, weight, call.module.groups)
        else:
            by_output = scale.view(-1, *(1,) * (weight.ndim - 1))
        return call.changed(weight=weight * by_output, bias=shift if bias is None else bias * scale + shift)

    def folded_before(self, call: Call) -> Call:
        """Return the call of a layer after the BatchNorm, whose input it has; see `exact_before`."""
        scale, shift = self(call.args[0])
        weight, bias = call.parameters["weight"], call.parameters.get("bias")
        groups = getattr(call.module, "groups", 1)
        constant = (weight * _of_groups(shift, weight, groups)).flatten(1).sum(1)
        weight = weight * _of_groups(scale, weight, groups)
        return call.changed(weight=weight, bias=constant if bias is None else bias + constant)


def exact_before(module: Any, input: Tensor) -> bool:
    """Whether a shift of each of the input's channels is a shift of the output's.

    Zeros that a convolution pads with are not shifted, and a transposed one adds fewer terms at the border.
    """
    if not isinstance(module, (nn.Linear, ConvolutionStandard)) or input.ndim != module.weight.ndim:
        return False
    # zeros on both sides of each dimension, whatever `padding` was given as
    is_padded = not isinstance(module, nn.Linear) and any(module._reversed_padding_repeated_twice)
    return not is_padded or module.padding_mode != "zeros"


def _of_groups(values: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Values of channels that a weight ``(rows, channels / groups, …)`` has in its second dimension."""
    rows = weight.shape[0] // groups
    spread = values.view(groups, 1, -1).expand(-1, rows, -1).reshape(weight.shape[:2])
    return spread.view(*weight.shape[:2], *(1,) * (weight.ndim - 2))


class NormCall(NamedTuple):
    """A call of a BatchNorm that was folded into no layer before it."""

    affine: Affine
    input: Tensor


class LayerCall(NamedTuple):
    """A call of a convolution or linear layer whose output a BatchNorm may read.

    Attributes
    ----------
    call : Call
        Its first input is that of the BatchNorm before it.
    before : Affine, optional
        A BatchNorm before it that is folded into it.
    rule : zennit.core.Hook, optional
        None is the ordinary gradient.
    """

    call: Call
    before: Affine | None = None
    rule: Hook | None = None


def with_rule(switch: Switch, layer: LayerCall, output: Tensor, after: NormCall | None = None) -> Tensor:
    """Return an output with the relevance rule of the layer that made it, and of a BatchNorm after it, folded in."""
    # not the calls themselves: autograd has to see their tensors, and whether one is overwritten
    (module, parameters, args, kwargs), before, rule = layer
    affine, norm_input = (None, None) if after is None else after
    constants = [None if isinstance(a, Tensor) else (a,) for a in args]
    names = tuple(parameters)

    def propagate(relevance: Tensor, norm_input: Tensor, *operands: Tensor) -> tuple[Tensor | None, ...]:
        tensors = iter(operands)
        inputs = tuple(next(tensors) if constant is None else constant[0] for constant in constants)
        call = Call(module, dict(zip(names, tensors, strict=True)), inputs, kwargs)
        call = call if before is None else before.folded_before(call)
        call = call if affine is None else affine.folded_after(call, norm_input)
        return None, *apply_rule(rule, call, relevance), *(None for _ in names)

    return substitute(switch, propagate, output, norm_input, *layer.call.tensors, *parameters.values())


class Fusion:
    """Notes which call made a tensor, and folds BatchNorm into layers by the tensors that flow.

    Parameters
    ----------
    before : bool
        Whether a BatchNorm that follows no layer is folded into the layer that reads it.
    """

    def __init__(self, before: bool) -> None:
        self.before = before
        self._notes: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def note(self, output: Tensor, call: LayerCall | NormCall) -> None:
        """Remember the call that made `output`."""
        self._notes[output] = (output._version, call)

    def note_unruled(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        """Forward hook of a layer without a rule: a BatchNorm behind it acts on its gradient as a fused one would."""
        if torch.is_grad_enabled() and args and args[0].requires_grad:
            self.note(output, LayerCall(Call(module, {}, args)))

    def note_copy(self, output: Tensor, copy: Tensor) -> None:
        """Treat a copy of an output, which is watched, as the output itself."""
        call = self.call_of(output)
        if call is not None:
            self.note(copy, call)

    def call_of(self, tensor: Tensor) -> LayerCall | NormCall | None:
        """Return the call that made a tensor, or the one that PyTorch's backward hooks of modules made it from."""
        found, node, index = self._notes.get(tensor), tensor.grad_fn, tensor.output_nr
        while found is None and node is not None and node.name() == "BackwardHookFunctionBackward":
            node, index = node.next_functions[index]
            made = [note for other, note in self._notes.items() if (other.grad_fn, other.output_nr) == (node, index)]
            found = made[0] if made else None
        version, call = found or (None, None)
        # an in-place operation in between makes it another tensor
        return call if version == tensor._version else None


class FusedBatchNorm(Switched):
    """Hook of a BatchNorm module that folds it by `Fusion`, and keeps its own rule where that cannot be.

    Parameters
    ----------
    where : str
        Name and type of the module in the model, for messages.
    fusion : Fusion
        Shared by the registration.
    rule : zennit.core.Hook, optional
        Pass, or None for the ordinary gradient.

    Raises
    ------
    UnsupportedModelError
        If the rule is another one, which would have to hold for a layer that is no longer there.
    """

    def __init__(self, where: str, fusion: Fusion, rule: Hook | None) -> None:
        super().__init__()
        if rule is not None and not is_pass(rule):
            raise UnsupportedModelError(
                f"{where}: a BatchNorm has the rule {type(rule).__name__} and a canonizer that merges "
                "it into another layer; give it Pass or no rule, or leave out the canonizer"
            )
        self.where, self.fusion, self.rule = where, fusion, rule

    def register(self, module: nn.Module) -> RemovableHandleList:
        """Hook the BatchNorm."""
        return RemovableHandleList([RemovableHandle(self), module.register_forward_hook(self._after)])

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if not torch.is_grad_enabled() or not args or not args[0].requires_grad:
            return None
        input, affine, layer = args[0], Affine(module), self.fusion.call_of(args[0])
        if isinstance(layer, LayerCall) and input.ndim == layer.call.module.weight.ndim:
            if layer.rule is not None:
                return with_rule(self, layer, output, NormCall(affine, input))
            return substitute(self, lambda relevance, x: (Scaled.apply(relevance, affine(x)[0]),), output, input)
        if self.rule is not None or affine.synchronized:
            output = substitute(self, self._refuse if self.rule is None else None, output, input)
        if self.fusion.before:
            self.fusion.note(output, NormCall(affine, input))
        return output

    def _refuse(self, relevance: Tensor, input: Tensor) -> tuple[Tensor]:
        """Raise where relevance arrives."""
        raise UnsupportedModelError(
            f"{self.where}: PyTorch gives it no second derivative, and no layer could be fused with it; use LRPFlex, "
            "give it the rule Pass, put FuseBatchNorm() among the canonizers if it follows a layer, or put it in eval "
            "mode"
        )
