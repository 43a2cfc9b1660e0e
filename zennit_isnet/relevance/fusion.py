"""BatchNorm folded into the layer before it, by the statistics of this forward pass and without writing anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary
from zennit.core import BasicHook, Hook, RemovableHandle, RemovableHandleList
from zennit.rules import Pass
from zennit.types import ConvolutionTranspose

from zennit_isnet.errors import UnsupportedModelError
from zennit_isnet.relevance.evaluation import Arguments, basic_relevance
from zennit_isnet.signal.substitute import Substitute


def affine_of(norm: Any, input: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``γ/σ`` and ``β − γμ/σ`` of a BatchNorm, with the statistics that its forward pass used on `input`.

    In train mode they are functions of the input; `running_mean` and `running_var` are not touched.
    """
    by_batch = norm.running_mean is None or (norm.training and not _frozen(norm))
    dims = [d for d in range(input.ndim) if d != 1]
    mean = input.mean(dims) if by_batch else norm.running_mean
    var = input.var(dims, unbiased=False) if by_batch else norm.running_var
    scale = torch.rsqrt(var + norm.eps)
    weight, bias = norm.weight, norm.bias
    scale = scale if weight is None else weight * scale
    return scale, -mean * scale if bias is None else bias - mean * scale


def _frozen(norm: Any) -> bool:
    """Whether the type never uses the batch's statistics (torchvision's FrozenBatchNorm2d)."""
    return not isinstance(norm, nn.modules.batchnorm._BatchNorm)


def folded(module: nn.Module, parameters: Mapping[str, Tensor | None], scale: Tensor, shift: Tensor) -> dict[str, Any]:
    """Return weight and bias of a convolution or linear layer followed by ``scale · y + shift``."""
    weight, bias = parameters["weight"], parameters.get("bias")
    assert weight is not None
    transposed = isinstance(module, ConvolutionTranspose)
    shape = (1, -1) if transposed else (-1,)
    trailing = (1,) * (weight.ndim - len(shape))
    if transposed and module.groups != 1:
        raise UnsupportedModelError("a grouped transposed convolution before a BatchNorm cannot be fused")
    return {
        **parameters,
        "weight": weight * scale.view(*shape, *trailing),
        "bias": shift if bias is None else bias * scale + shift,
    }


class Fusion:
    """Notes layers with a rule, and folds a BatchNorm that reads their output into the rule."""

    def __init__(self) -> None:
        self._calls: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def note(
        self, output: Tensor, switch: Hook, rule: BasicHook, module: nn.Module, input: Tensor, arguments: Arguments
    ) -> None:
        """Remember which call made `output`."""
        self._calls[output] = (switch, rule, module, input, arguments)

    def clear(self) -> None:
        """Forget the calls of the last forward pass."""
        self._calls = WeakTensorKeyDictionary()

    def fold(self, norm: nn.Module, input: Tensor, output: Tensor) -> Tensor | None:
        """Return a BatchNorm's output with the fused layer's rule, or None if no layer with a rule made its input."""
        call = self._calls.get(input)
        if call is None or "weight" not in dict(call[2].named_parameters(recurse=False)):
            return None
        switch, rule, module, layer_input, arguments = call
        names = [name for name, _ in module.named_parameters(recurse=False)]

        def propagate(relevance: Tensor, *operands: Tensor) -> tuple[Tensor | None, ...]:
            layer_input, norm_input, *values = operands
            scale, shift = affine_of(norm, norm_input)
            parameters = folded(module, dict(zip(names, values, strict=True)), scale, shift)
            return (
                basic_relevance(rule, module, parameters, layer_input, arguments, relevance),
                *(None for _ in operands[1:]),
            )

        parameters = [getattr(module, name) for name in names]
        fused: Tensor = Substitute.apply(switch, propagate, output, layer_input, input, *parameters)
        return fused


class FusedBatchNorm(Hook):
    """Hook of a BatchNorm module that hands it to `Fusion`, and keeps its own rule where there is nothing to fuse.

    Parameters
    ----------
    fusion : Fusion
        Shared by the registration.
    inner : LiveRule, optional
        The rule of the BatchNorm where it follows no layer with a rule.
    """

    def __init__(self, fusion: Fusion, rule: Hook | None) -> None:
        super().__init__()
        if rule is not None and type(rule).backward is not Pass.backward:
            raise UnsupportedModelError(
                f"a BatchNorm has the rule {type(rule).__name__} and a canonizer that merges it into the layer "
                "before; give it Pass or no rule, or leave out the canonizer"
            )
        self.fusion, self.rule = fusion, rule
        self.active = False

    def copy(self) -> FusedBatchNorm:
        """Return an unregistered hook."""
        return FusedBatchNorm(self.fusion, self.rule)

    def register(self, module: nn.Module) -> RemovableHandleList:
        """Hook the BatchNorm."""
        self.active = True
        return RemovableHandleList([RemovableHandle(self), module.register_forward_hook(self._after)])

    def remove(self) -> None:
        """Switch off."""
        self.active = False
        super().remove()

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if output.grad_fn is None:
            return None
        fused = self.fusion.fold(module, args[0], output)
        if fused is None and self.rule is not None:
            fused = Substitute.apply(self, lambda relevance, _: (relevance,), output, args[0])
        return fused
