"""BatchNorm folded into the layer before or after it, by the statistics of the forward pass and without writing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary
from zennit.core import Hook
from zennit.types import ConvolutionTranspose, Linear

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

    def folded_after(
        self, module: Any, parameters: Mapping[str, Tensor | None], input: Tensor
    ) -> dict[str, Tensor | None]:
        """Return the parameters of `module` followed by the BatchNorm, whose input is `input`."""
        scale, shift = self(input)
        weight, bias = parameters["weight"], parameters.get("bias")
        assert weight is not None
        if isinstance(module, ConvolutionTranspose):
            by_output = _of_groups(scale, weight, module.groups)
        else:
            by_output = scale.view(-1, *(1,) * (weight.ndim - 1))
        return {**parameters, "weight": weight * by_output, "bias": shift if bias is None else bias * scale + shift}

    def folded_before(
        self, module: Any, parameters: Mapping[str, Tensor | None], input: Tensor
    ) -> dict[str, Tensor | None]:
        """Return the parameters of `module` after the BatchNorm, whose input is `input`; see `exact_before`."""
        scale, shift = self(input)
        weight, bias = parameters["weight"], parameters.get("bias")
        assert weight is not None
        groups = getattr(module, "groups", 1)
        constant = (weight * _of_groups(shift, weight, groups)).flatten(1).sum(1)
        return {
            **parameters,
            "weight": weight * _of_groups(scale, weight, groups),
            "bias": constant if bias is None else bias + constant,
        }


def exact_before(module: Any, input: Tensor) -> bool:
    """Whether a shift of each of the input's channels is a shift of the output's.

    Zeros that a convolution pads with are not shifted, and a transposed one adds fewer terms at the border.
    """
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or input.ndim != weight.ndim or isinstance(module, ConvolutionTranspose):
        return False
    if isinstance(module, nn.Linear):
        return True
    if not isinstance(module, nn.modules.conv._ConvNd):
        return False
    # on both sides of each dimension, whatever `padding` was given as
    return module.padding_mode != "zeros" or not any(module._reversed_padding_repeated_twice)


def _of_groups(values: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Values of channels that a weight ``(rows, channels / groups, …)`` has in its second dimension."""
    rows = weight.shape[0] // groups
    spread = values.view(groups, 1, -1).expand(-1, rows, -1).reshape(weight.shape[:2])
    return spread.view(*weight.shape[:2], *(1,) * (weight.ndim - 2))


class LinearCall(NamedTuple):
    """A call of a convolution or linear layer whose output a BatchNorm may read; no rule is the ordinary gradient."""

    version: int
    switch: Switch | None
    rule: Hook | None
    module: nn.Module
    input: Tensor
    before: Affine | None

    def parameters(self) -> dict[str, Tensor | None]:
        """Return the layer's parameters, with a BatchNorm before it folded in."""
        own: dict[str, Tensor | None] = dict(self.module.named_parameters(recurse=False))
        return own if self.before is None else self.before.folded_before(self.module, own, self.input)


class Fusion:
    """Notes which call made a tensor, and folds BatchNorm into layers by the tensors that flow.

    Parameters
    ----------
    before : bool
        Whether a BatchNorm that follows no layer is folded into the layer that reads it.
    """

    def __init__(self, before: bool) -> None:
        self.before = before
        self._linear: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._norms: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def note_linear(self, output: Tensor, call: LinearCall) -> None:
        """Remember the layer that made `output`."""
        if isinstance(call.module, Linear):
            self._linear[output] = call

    def note_unruled(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        """Forward hook of a layer without a rule: a BatchNorm behind it acts on its gradient as a fused one would."""
        if torch.is_grad_enabled() and args and args[0].requires_grad:
            self.note_linear(output, LinearCall(output._version, None, None, module, args[0], None))

    def note_norm(self, output: Tensor, affine: Affine, input: Tensor) -> None:
        """Remember the BatchNorm that made `output` and was folded into no layer before it."""
        if self.before:
            self._norms[output] = (output._version, affine, input)

    def note_copy(self, output: Tensor, copy: Tensor) -> None:
        """Treat a copy of an output, which is watched, as the output itself."""
        call = self.call_of(output)
        if call is not None:
            self._linear[copy] = call._replace(version=copy._version)
        version, affine, norm_input = _found(self._norms, output) or (None, None, None)
        if version == output._version:
            self._norms[copy] = (copy._version, affine, norm_input)

    def norm_before(self, module: nn.Module, input: Tensor) -> tuple[Tensor, Affine | None]:
        """Return the input of the BatchNorm that made `input`, and what it did; `input` itself if there is none."""
        version, affine, norm_input = _found(self._norms, input) or (None, None, input)
        if version != input._version or not exact_before(module, input):
            return input, None
        return norm_input, affine

    def call_of(self, output: Tensor) -> LinearCall | None:
        """Return the call of a layer that made `output`, or None."""
        call = _found(self._linear, output)
        # an in-place operation in between makes it another tensor
        return None if call is None or call.version != output._version else call

    def fold_after(self, affine: Affine, switch: Switch, input: Tensor, output: Tensor) -> Tensor | None:
        """Return a BatchNorm's output with the fused layer's rule, or None if no layer made its input."""
        call = self.call_of(input)
        if call is None or input.ndim != call.module.weight.ndim:
            return None
        if call.rule is None or call.switch is None:

            def scale(relevance: Tensor, norm_input: Tensor) -> tuple[Tensor]:
                return (Scaled.apply(relevance, affine(norm_input)[0]),)

            return substitute(switch, scale, output, input)
        names = [name for name, _ in call.module.named_parameters(recurse=False)]
        # not the call itself, which holds tensors that autograd has to see
        rule, module, before = call.rule, call.module, call.before

        def propagate(relevance: Tensor, *operands: Tensor) -> tuple[Tensor | None, ...]:
            layer_input, norm_input, *values = operands
            parameters: Mapping[str, Tensor | None] = dict(zip(names, values, strict=True))
            if before is not None:
                parameters = before.folded_before(module, parameters, layer_input)
            parameters = affine.folded_after(module, parameters, norm_input)
            (result,) = apply_rule(rule, Call(module, parameters, (layer_input,)), relevance)
            return result, *(None for _ in operands[1:])

        values = [getattr(module, name) for name in names]
        return substitute(call.switch, propagate, output, call.input, input, *values)


def _found(notes: WeakTensorKeyDictionary, tensor: Tensor) -> Any:
    """Return what is noted of a tensor, or of the one that PyTorch's backward hooks of modules made it from."""
    found, node, index = notes.get(tensor), tensor.grad_fn, tensor.output_nr
    while found is None and node is not None and node.name() == "BackwardHookFunctionBackward":
        node, index = node.next_functions[index]
        found = next((note for other, note in notes.items() if (other.grad_fn, other.output_nr) == (node, index)), None)
    return found


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

    def hook_on(self, module: nn.Module) -> list[Any]:
        """Hook the BatchNorm."""
        return [module.register_forward_hook(self._after)]

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if not torch.is_grad_enabled() or not args or not args[0].requires_grad:
            return None
        affine = Affine(module)
        fused = self.fusion.fold_after(affine, self, args[0], output)
        if fused is not None:
            return fused
        if self.rule is not None:
            passed = substitute(self, None, output, args[0])
        elif affine.synchronized:
            passed = substitute(self, self._refuse, output, args[0])
        else:
            passed = output
        self.fusion.note_norm(passed, affine, args[0])
        return passed

    def _refuse(self, relevance: Tensor, input: Tensor) -> tuple[Tensor]:
        """Raise where relevance arrives."""
        raise UnsupportedModelError(
            f"{self.where}: PyTorch gives it no second derivative, and no layer could be fused with it; use LRPFlex, "
            "give it the rule Pass, put FuseBatchNorm() among the canonizers if it follows a layer, or put it in eval "
            "mode"
        )
