"""BatchNorm folded into the layer before or after it, with the forward pass's statistics, parameters unchanged."""

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
    """``y ↦ scale · y + shift``, the effect of a BatchNorm in one forward pass.

    Parameters
    ----------
    norm : Module
        The BatchNorm. Its mode is read now; its parameters and batch statistics when they are needed, because they are
        functions of its parameters and its input.
    """

    def __init__(self, norm: nn.Module) -> None:
        self.norm: Any = norm
        # torchvision's FrozenBatchNorm2d ignores its mode
        follows_mode = isinstance(norm, nn.modules.batchnorm._BatchNorm)
        self.by_batch = follows_mode and (norm.training or norm.running_mean is None)
        self.synchronized = synchronizes(norm)

    def __call__(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``γ/σ`` and ``β − γμ/σ`` for the BatchNorm's input; running statistics are not changed."""
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
        """Return the call of the layer after the BatchNorm, on the BatchNorm's input; see `exact_before`."""
        scale, shift = self(call.args[0])
        weight, bias = call.parameters["weight"], call.parameters.get("bias")
        groups = getattr(call.module, "groups", 1)
        constant = (weight * _of_groups(shift, weight, groups)).flatten(1).sum(1)
        weight = weight * _of_groups(scale, weight, groups)
        return call.changed(weight=weight, bias=constant if bias is None else bias + constant)


def exact_before(module: Any, input: Tensor) -> bool:
    """Whether shifting the input channels only shifts the output channels.

    Zero padding is not shifted, and transposed convolutions add fewer terms at the border.
    """
    if not isinstance(module, (nn.Linear, ConvolutionStandard)) or input.ndim != module.weight.ndim:
        return False
    # padding on both sides of each dimension, in any form of `padding`
    is_padded = not isinstance(module, nn.Linear) and any(module._reversed_padding_repeated_twice)
    return not is_padded or module.padding_mode != "zeros"


def _of_groups(values: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Return channel values arranged for the second dimension of a weight ``(rows, channels / groups, …)``."""
    rows = weight.shape[0] // groups
    spread = values.view(groups, 1, -1).expand(-1, rows, -1).reshape(weight.shape[:2])
    return spread.view(*weight.shape[:2], *(1,) * (weight.ndim - 2))


class NormCall(NamedTuple):
    """A BatchNorm call that was not folded into a preceding layer."""

    affine: Affine
    input: Tensor


class LayerCall(NamedTuple):
    """A call of a convolution or linear layer that a BatchNorm may follow.

    Attributes
    ----------
    call : Call
        Its first input is the input of the BatchNorm before it.
    before : Affine, optional
        A preceding BatchNorm that is folded into it.
    rule : zennit.core.Hook, optional
        None is the ordinary gradient.
    """

    call: Call
    before: Affine | None = None
    rule: Hook | None = None


def with_rule(switch: Switch, layer: LayerCall, output: Tensor, after: NormCall | None = None) -> Tensor:
    """Return an output with the relevance rule of its layer, with a BatchNorm after it folded in."""
    # not the calls themselves: autograd must see their tensors, and whether one is overwritten
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
    """Records which call made a tensor, and folds BatchNorm into layers by following tensors.

    Parameters
    ----------
    before : bool
        Whether a BatchNorm without a preceding layer is folded into the following layer.
    """

    def __init__(self, before: bool) -> None:
        self.before = before
        self._notes: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def note(self, output: Tensor, call: LayerCall | NormCall) -> None:
        """Remember the call that made `output`."""
        self._notes[output] = (output._version, call)

    def note_unruled(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        """Forward hook of a layer without a rule: a following BatchNorm acts on its gradient like a fused one."""
        if torch.is_grad_enabled() and args and args[0].requires_grad:
            self.note(output, LayerCall(Call(module, {}, args)))

    def note_copy(self, output: Tensor, copy: Tensor) -> None:
        """Treat a copy of a recorded output like the output itself."""
        call = self.call_of(output)
        if call is not None:
            self.note(copy, call)

    def call_of(self, tensor: Tensor) -> LayerCall | NormCall | None:
        """Return the call that made a tensor, also through the identities of PyTorch's module backward hooks."""
        found, node, index = self._notes.get(tensor), tensor.grad_fn, tensor.output_nr
        while found is None and node is not None and node.name() == "BackwardHookFunctionBackward":
            node, index = node.next_functions[index]
            made = [note for other, note in self._notes.items() if (other.grad_fn, other.output_nr) == (node, index)]
            found = made[0] if made else None
        version, call = found or (None, None)
        # after an in-place operation it is a different tensor
        return call if version == tensor._version else None


class FusedBatchNorm(Switched):
    """Hook that folds a BatchNorm by `Fusion`, or keeps its own rule if that is impossible.

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
        If the rule is another one, which cannot apply to a BatchNorm that is folded away.
    """

    def __init__(self, where: str, fusion: Fusion, rule: Hook | None) -> None:
        super().__init__()
        if rule is not None and not is_pass(rule):
            raise UnsupportedModelError(
                f"{where}: a BatchNorm has the rule {type(rule).__name__} and a canonizer that merges "
                "it into another layer; use Pass or no rule, or leave out the canonizer"
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
        """Raise if relevance arrives."""
        raise UnsupportedModelError(
            f"{self.where}: it has no second derivative in PyTorch and could not be fused with a layer; use LRPFlex, "
            "the rule Pass, FuseBatchNorm() among the canonizers if it follows a layer, or eval mode"
        )
