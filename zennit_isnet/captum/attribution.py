"""Relevance of a composite with Captum's interface."""

from __future__ import annotations

from typing import Any

from captum._utils.common import _format_additional_forward_args
from captum.attr import GradientAttribution
from captum.log import log_usage
from torch import Tensor, nn

from zennit_isnet.captum.arguments import as_inputs
from zennit_isnet.captum.relevance import explain
from zennit_isnet.checks import check_model
from zennit_isnet.errors import InvalidValueError
from zennit_isnet.lrp.attribution import SignalOrRelevance, as_composite


class CompositeAttribution(GradientAttribution):
    """LRP by a composite of this package, used like `captum.attr.LRP`.

    Works for every model that the composite covers, without attributes on its modules, and leaves the model as it
    was: parameters, buffers, modes and hooks. In train mode BatchNorm uses the statistics of the batch.

    Parameters
    ----------
    model : Module
        Called as ``model(*inputs, *additional_forward_args)``. A named tuple of heads is explained by its first.
    composite : LRPFlex or DifferentiableComposite, optional
        The rules. Default ``LRPFlex()``. For Zennit's own composites use ``differentiable(composite)``.

    Raises
    ------
    InvalidTypeError
        If `model` is no module, or `composite` none of these.
    UnsupportedModelError
        If the model is compiled, scripted or a `DataParallel`.

    References
    ----------
    Bassi, Decherchi, Cavalli, IEEE Access 12 (2024) 155151, LRP-Flex.

    Examples
    --------
    >>> import torch
    >>> from torchvision.models import resnet18
    >>> from zennit_isnet.captum import CompositeAttribution
    >>> attribution = CompositeAttribution(resnet18(num_classes=3).eval())
    >>> relevance = attribution.attribute(torch.rand(2, 3, 32, 32), target=1)
    >>> relevance.shape
    torch.Size([2, 3, 32, 32])
    """

    def __init__(self, model: nn.Module, composite: SignalOrRelevance | None = None) -> None:
        check_model(model)
        super().__init__(model)
        self.model = model
        self.composite = as_composite(composite)

    @property
    def multiplies_by_inputs(self) -> bool:
        """True: relevance is input times signal."""
        return True

    @log_usage()  # Captum's NoiseTunnel calls what this wraps
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        *,
        create_graph: bool = False,
    ) -> Any:
        """Explain one output of each example.

        Parameters
        ----------
        inputs : Tensor or tuple of Tensor
            Floating, ``(N, …)``.
        target : int, Tensor, tuple, list of int or list of tuple, optional
            As in all of Captum: one index for all examples (int, tensor of one element; tuple for outputs of more
            dimensions), or one for each example (tensor ``(N,)``, list). None if an example has a single output.
        additional_forward_args : Any, optional
            Further arguments of the model, alone or in a tuple. Constants: no relevance, no gradient.
        return_convergence_delta : bool, default False
            Whether to return the conservation gap too; see `compute_convergence_delta`.
        create_graph : bool, default False
            Whether the relevance is a differentiable function of the parameters, and of inputs that require a
            gradient; for training.

        Returns
        -------
        relevance : Tensor or tuple of Tensor
            As `inputs`, in their shapes. Positive values speak for the explained output.
        delta : Tensor
            ``(N,)``, if asked for.

        Raises
        ------
        InvalidTypeError, InvalidValueError
            If an argument is not allowed, the target lies outside of the output, or an input leaves the box of z^B.
        UncoveredOperationError
            If the model runs operations that no rule covers.
        """
        explanation = explain(
            self.model,
            self.composite,
            as_inputs(inputs),
            target,
            _format_additional_forward_args(additional_forward_args) or (),
            create_graph=create_graph,
        )
        (parts,) = explanation.relevance
        relevance = parts if isinstance(inputs, tuple) else parts[0]
        if not return_convergence_delta:
            return relevance
        return relevance, self.compute_convergence_delta(relevance, explanation.start)

    def attribute_future(self) -> None:
        """Raise NotImplementedError, as `captum.attr.LRP` does."""
        raise NotImplementedError(f"attribute_future is not implemented for {type(self).__name__}")

    def has_convergence_delta(self) -> bool:
        """Return True."""
        return True

    def compute_convergence_delta(self, attributions: Tensor | tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Return what of each example's explained output does not arrive as relevance: ``y − ΣR``.

        The sign and the arguments are those of `captum.attr.LRP`. The gap is the share of the biases, ``Σ_b b·G_b``
        with their signals ``G_b``, plus what the stabilizer ε absorbs. A BatchNorm is an affine map with the bias
        ``β − γμ/σ``. So it is 0 for a network without biases as ε → 0, and no error where there are some.

        Parameters
        ----------
        attributions : Tensor or tuple of Tensor
            Relevance ``(N, …)``; several are summed.
        output : Tensor
            ``N`` elements: the explained outputs, or whatever relevance the composite starts with (`ZPlus`: ``z⁺``
            of the last layer, which `attribute` uses).

        Returns
        -------
        Tensor
            ``(N,)``.

        Raises
        ------
        InvalidValueError
            If the numbers of examples differ.
        """
        parts = attributions if isinstance(attributions, tuple) else (attributions,)
        sizes = [len(part) for part in parts]
        if any(size != output.numel() for size in sizes):
            raise InvalidValueError(f"attributions of {sizes} examples do not fit {output.numel()} outputs")
        return output.flatten() - sum(part.reshape(len(part), -1).sum(1) for part in parts)
