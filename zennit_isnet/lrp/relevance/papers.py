"""The ISNet papers' relevance composites: LRP-ε and LRP-z⁺, with z^B at the first layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from zennit.composites import SpecialFirstLayerMapComposite, register_composite
from zennit.core import BasicHook, Hook
from zennit.layer import Sum
from zennit.rules import Epsilon, Norm, Pass, ZBox
from zennit.types import Activation, AvgPool, BatchNorm, Linear

from zennit_isnet.checks import check_epsilon
from zennit_isnet.lrp.composite import Bound, as_box
from zennit_isnet.lrp.relevance.composite import DifferentiableComposite, FuseBatchNorm, MakeFunctionsVisible
from zennit_isnet.lrp.relevance.evaluation import modified
from zennit_isnet.lrp.relevance.fusion import LayerCall


class PositiveParts(BasicHook):
    """z⁺ rule of Dual ISNet: ``R_i = a⁺_i Σ_k w⁺_ik R_k / (Σ_i a⁺_i w⁺_ik + b⁺_k + ε)``.

    After a ReLU ``a⁺ = a``; after a linear bottleneck negative values get no relevance, as in sums of branches,
    ``R_a = a⁺/(a⁺ + b⁺ + ε) R``.

    Parameters
    ----------
    stabilizer : float, default=1e-6
        ``ε``; the denominator is never negative.
    """

    def __init__(self, stabilizer: float = 1e-6) -> None:
        super().__init__(
            input_modifiers=[torch.relu],
            param_modifiers=[lambda parameter, name: torch.relu(parameter)],
            gradient_mapper=lambda upper, outputs: upper / (outputs[0] + stabilizer),
            reducer=lambda inputs, gradients: inputs[0] * gradients[0],
        )


class _Ready(DifferentiableComposite):
    """Layer map with z^B at the first layer if there is a box; every operation is checked."""

    strict = True

    def __init__(self, epsilon: float, box: tuple[Bound, Bound] | None, sums: Hook, weights: Hook) -> None:
        check_epsilon("epsilon", epsilon)
        self.epsilon = float(epsilon)
        self.box = None if box is None else as_box(box)
        layer_map = [
            (Activation, Pass()),
            ((Sum, AvgPool), sums),
            ((BatchNorm, nn.SyncBatchNorm), Pass()),
            (Linear, weights),
        ]
        first_map: list[Any] = []
        if self.box is not None:
            low, high = (bound.unsqueeze(0) if bound.ndim else bound for bound in self.box)
            first_map = [(Linear, ZBox(low=low, high=high, stabilizer=epsilon))]
        composite = SpecialFirstLayerMapComposite(layer_map=layer_map, first_map=first_map)
        super().__init__(composite, [FuseBatchNorm(), MakeFunctionsVisible()])

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Rebuild it from its arguments, because Zennit's rules cannot be pickled."""
        return type(self), (self.box, self.epsilon)


@register_composite("isnet_epsilon_zbox")
class EpsilonZBox(_Ready):
    """LRP-ε for all layers, with z^B at the first one if there is a box: the rules of the original ISNet.

    For convolutional networks of ReLU-like activations. Each BatchNorm is folded into the layer before it with the
    forward pass's statistics, sums and means have rules, and operations without a rule are errors. A constant that the
    model adds absorbs relevance like a layer's bias.

    Parameters
    ----------
    box : tuple of (float, sequence or Tensor), optional
        Lowest and highest value of the images; if None, LRP-ε at the first layer too.
    epsilon : float, default=1e-2
        Stabilizer of all rules, the authors' value.

    Attributes
    ----------
    propagates : str
        ``"relevance"``.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If `epsilon` is not a positive number or the box is empty.

    References
    ----------
    .. [1] Bassi, P. R. A. S., Dertkigil, S. S. J., Cavalli, A. "Improving deep neural network generalization and
       robustness to background bias via layer-wise relevance propagation optimization". Nat. Commun. 15, 291 (2024).
       LRP Block.

    Examples
    --------
    >>> import torch
    >>> from torchvision.models import resnet18
    >>> from zennit_isnet import EpsilonZBox, LRPAttribution, Selective
    >>> logits, relevance = LRPAttribution(EpsilonZBox(box=(0.0, 1.0)))(
    ...     resnet18(num_classes=3).eval(), torch.rand(2, 3, 32, 32), Selective()
    ... )
    >>> relevance["input"].shape
    torch.Size([2, 1, 3, 32, 32])
    """

    def __init__(self, box: tuple[Bound, Bound] | None = None, epsilon: float = 1e-2) -> None:
        super().__init__(epsilon, box, Norm(stabilizer=epsilon), Epsilon(epsilon=epsilon))


@register_composite("isnet_zplus")
class ZPlus(_Ready):
    """LRP-z⁺ for all layers, with z^B at the first one if there is a box: the second pass of Dual ISNet.

    Uses positive weights and biases with the BatchNorm folded in, also in the last layer; sums are split by positive
    parts. All relevance is nonnegative. Without a box, pixels below 0 get no relevance.

    Parameters
    ----------
    box : tuple of (float, sequence or Tensor), optional
        Lowest and highest value of the images.
    epsilon : float, default=1e-2
        Stabilizer of all rules.

    Attributes
    ----------
    propagates : str
        ``"relevance"``. A signal seed ``s`` means the relevance ``z⁺ ⊙ s`` with ``z⁺ = W⁺a + b⁺`` of the last layer, or
        ``y ⊙ s`` if the logits do not come from a layer with weights.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If `epsilon` is not a positive number or the box is empty.

    References
    ----------
    .. [1] Bassi, P. R. A. S., Decherchi, S., Cavalli, A. "Faster ISNet for background bias mitigation on deep neural
       networks". IEEE Access 12, 155151 (2024). arXiv:2401.08409. Dual ISNet.

    Examples
    --------
    >>> import torch
    >>> from torchvision.models import resnet18
    >>> from zennit_isnet import AllLogits, LRPAttribution, LRPFlex, ZPlus
    >>> dual = LRPAttribution(composite=(LRPFlex(), ZPlus()))
    >>> logits, relevance = dual(resnet18(num_classes=3).eval(), torch.rand(2, 3, 32, 32), AllLogits())
    >>> list(relevance)
    [Place(layer=None, composite=0, part=0), Place(layer=None, composite=1, part=0)]
    """

    signed = False

    def __init__(self, box: tuple[Bound, Bound] | None = None, epsilon: float = 1e-2) -> None:
        super().__init__(epsilon, box, PositiveParts(epsilon), PositiveParts(epsilon))

    def start(self, logits: Tensor, seed: Tensor) -> Tensor:
        """Return ``z⁺ ⊙ seed``."""
        layer = None if self.fusion is None else self.fusion.call_of(logits)
        if not isinstance(layer, LayerCall) or layer.rule is None:
            return super().start(logits, seed)
        with torch.enable_grad():
            call = layer.call if layer.before is None else layer.before.folded_before(layer.call)
            positive = modified(layer.rule.param_modifiers[0], call)
            return positive._replace(args=(layer.rule.input_modifiers[0](call.args[0]),)).output() * seed
