"""Gradients with respect to inputs that are cheap to differentiate again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from zennit_isnet.lrp.signal.convolution import Convolution, Geometry


class InputGradient(TorchFunctionMode):
    """Context in which modules are evaluated, and the gradient of those evaluations.

    Convolutions run by `Convolution`, whose gradient with respect to the input has first-order kernels as
    derivatives. The object is the switch of that gradient: it is on while `gradient` runs, and any other backward
    pass through the same graph is an ordinary one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.active = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (F.conv1d, F.conv2d, F.conv3d):
            return self._convolution(func, *args, **kwargs)
        return func(*args, **kwargs)

    def _convolution(
        self,
        func: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        geometry = Geometry.of_call(input, weight, stride, padding, dilation, groups)
        if geometry is None or torch.is_autocast_enabled(input.device.type):
            result: Tensor = func(input, weight, bias, stride, padding, dilation, groups)
        else:
            result = Convolution.apply(self, input, weight, bias, geometry, True)
        return result

    def gradient(
        self, outputs: Sequence[Tensor], inputs: Sequence[Tensor], upper: Any, create_graph: bool
    ) -> tuple[Tensor, ...]:
        """Return the gradient at the inputs."""
        self.active = True
        try:
            return torch.autograd.grad(outputs, inputs, upper, create_graph=create_graph)
        finally:
            self.active = False
