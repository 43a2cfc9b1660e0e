"""LRP by a composite of this package, with Captum's interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from captum._utils.common import _format_additional_forward_args, _select_targets
from captum.attr import GradientAttribution, LayerAttribution
from captum.log import log_usage
from torch import Tensor, nn

from zennit_isnet.checks import check_differentiable, check_in_box, check_model
from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.lrp.composite import LRPComposite, as_composites
from zennit_isnet.lrp.flex import LRPFlex
from zennit_isnet.lrp.propagation import propagate
from zennit_isnet.lrp.taps import Places, Taps
from zennit_isnet.model import buffers_restored, unwrapped


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

    def __init__(self, model: nn.Module, composite: LRPComposite | None = None) -> None:
        check_model(model)
        super().__init__(model)
        self.model = model
        (self.composite,) = as_composites(LRPFlex() if composite is None else composite)

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
            additional_forward_args,
            create_graph=create_graph,
        )
        parts = explanation.at()
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


class LayerCompositeAttribution(CompositeAttribution, LayerAttribution):
    """Relevance ``R = a ⊙ G`` at inner layers, used like `captum.attr.LayerLRP`.

    Parameters
    ----------
    model : Module
        See `CompositeAttribution`.
    layer : Module or list of Module
        Parts of the model that run once in a forward pass.
    composite : LRPFlex or DifferentiableComposite, optional
        The rules. Default ``LRPFlex()``.

    Raises
    ------
    InvalidTypeError
        If `layer` is neither a module nor a list of them.
    InvalidValueError
        If a layer is no part of the model.

    Examples
    --------
    >>> import torch
    >>> from torchvision.models import resnet18
    >>> from zennit_isnet.captum import LayerCompositeAttribution
    >>> model = resnet18(num_classes=3).eval()
    >>> attribution = LayerCompositeAttribution(model, model.layer3)
    >>> relevance = attribution.attribute(torch.rand(2, 3, 64, 64), target=1)
    >>> relevance.shape
    torch.Size([2, 256, 4, 4])
    >>> attribution.interpolate(relevance.sum(1, keepdim=True), (64, 64)).shape
    torch.Size([2, 1, 64, 64])
    """

    def __init__(
        self, model: nn.Module, layer: nn.Module | Sequence[nn.Module], composite: LRPComposite | None = None
    ) -> None:
        CompositeAttribution.__init__(self, model, composite)
        LayerAttribution.__init__(self, model, layer)
        self._names = _names_in(model, [layer] if isinstance(layer, nn.Module) else layer)

    @log_usage()  # Captum's NoiseTunnel calls what this wraps
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        *,
        create_graph: bool = False,
    ) -> Any:
        """Explain one output of each example by the activations of the layers.

        Parameters
        ----------
        inputs, target, additional_forward_args, return_convergence_delta, create_graph
            See `CompositeAttribution.attribute`. Biases before the layer have no share in the gap.
        attribute_to_layer_input : bool, default False
            Whether the input of each layer is explained in place of its output.

        Returns
        -------
        relevance : Tensor, tuple of Tensor, or list of these
            In the shape of the layer's output (input); a tuple if it has several floating tensors, whose relevance is
            to be added up; a list if there is a list of layers.
        delta : Tensor or list of Tensor
            ``(N,)``, if asked for.

        Raises
        ------
        InvalidTypeError, InvalidValueError
            If an argument is not allowed, or a layer does not run exactly once, has no floating tensors, or lies
            inside of layers that one rule covers together.
        UncoveredOperationError
            If the model runs operations that no rule covers.
        """
        explanation = explain(
            self.model,
            self.composite,
            as_inputs(inputs),
            target,
            additional_forward_args,
            layers=self._names,
            of_layer_inputs=attribute_to_layer_input,
            create_graph=create_graph,
        )
        parts = [explanation.at(name) for name in self._names]
        relevance: list[Any] = [several if len(several) > 1 else several[0] for several in parts]
        single = isinstance(self.layer, nn.Module)
        found = relevance[0] if single else relevance
        if not return_convergence_delta:
            return found
        delta = [self.compute_convergence_delta(several, explanation.start) for several in parts]
        return found, delta[0] if single else delta


def _names_in(model: nn.Module, layers: Sequence[nn.Module]) -> list[str]:
    """Names of modules in a model."""
    names = {id(module): name for name, module in unwrapped(model).named_modules() if name}
    if not isinstance(layers, (list, tuple)) or not all(isinstance(layer, nn.Module) for layer in layers):
        raise InvalidTypeError(
            f"layer must be a module or a list of modules, as model.get_submodule(name) gives them; got {layers!r}"
        )
    strangers = [type(layer).__name__ for layer in layers if id(layer) not in names]
    if strangers or not layers:
        raise InvalidValueError(f"layer must be part of the model, got {', '.join(strangers) or 'an empty list'}")
    return [names[id(layer)] for layer in layers]


class Explanation(NamedTuple):
    """Relevance of one explained output for each example.

    Attributes
    ----------
    relevance : Places of Tensor
        At the inputs and at the layers, in the shapes of their tensors.
    start : Tensor
        ``(N,)``, the relevance at the output.
    """

    relevance: Places[Tensor]
    start: Tensor

    def at(self, layer: str | None = None) -> tuple[Tensor, ...]:
        """Return the relevance of all tensors of a layer, or of the inputs."""
        return tuple(maps for place, maps in self.relevance.items() if place.layer == layer)


def explain(
    model: nn.Module,
    composite: LRPComposite,
    inputs: tuple[Tensor, ...],
    target: Any,
    additional_forward_args: Any,
    *,
    layers: Sequence[str] = (),
    of_layer_inputs: bool = False,
    create_graph: bool = False,
) -> Explanation:
    """Explain one output of a model; buffers that the forward pass moves get their values back.

    Parameters
    ----------
    model : Module
        Called as ``model(*inputs, *additional_forward_args)``.
    composite : LRPComposite
        The rules.
    inputs : tuple of Tensor
        Checked; see `as_inputs`.
    target : Any
        See `explained_output`.
    additional_forward_args : Any
        Constants of the explanation.
    layers : sequence of str
        Names of layers to explain in place of the inputs.
    of_layer_inputs : bool
        Whether the layers' inputs are explained, not their outputs.
    create_graph : bool
        Whether the relevance can be differentiated.
    """
    model = unwrapped(model)
    if composite.box is not None:
        check_in_box(inputs[0], composite.box)
    arguments = _format_additional_forward_args(additional_forward_args) or ()
    constants = [value.detach() if isinstance(value, Tensor) else value for value in arguments]

    def seeds(output: Any) -> tuple[Tensor, Tensor]:
        main = _main_output(output)
        return main, _seed(explained_output(main, target, len(inputs[0])), main).unsqueeze(1)

    taps = Taps(model, layers, of_inputs=of_layer_inputs)
    with buffers_restored(model):
        found = propagate(
            model,
            inputs,
            [composite],
            taps,
            seeds,
            arguments=constants,
            at_inputs=not layers,
            create_graph=create_graph,
        )
        start = found.starts[0]
        if composite.propagates == "signal":
            start = start * _main_output(found.output).unsqueeze(1)
    relevance = Places({place: maps.squeeze(1) for place, maps in found.relevance.items()})
    start = start.flatten(1).sum(1)
    return Explanation(relevance, start if create_graph else start.detach())


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


def as_inputs(inputs: Any) -> tuple[Tensor, ...]:
    """Return one tensor, or a tuple of them, as a tuple.

    Raises
    ------
    InvalidTypeError
        If one is no floating tensor.
    InvalidValueError
        If one has no batch dimension or no elements, or their batch sizes differ.
    """
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    if not given:
        raise InvalidValueError("inputs must be a Tensor or a tuple of them, got an empty tuple")
    for value in given:
        check_differentiable("inputs", value, " (N, …) or a tuple of them")
        if value.ndim == 0 or value.numel() == 0:
            raise InvalidValueError(f"inputs must have shape (N, …), no dimension 0, got {tuple(value.shape)}")
    sizes = [len(value) for value in given]
    if len(set(sizes)) > 1:
        raise InvalidValueError(f"inputs must have one batch size, got {sizes}")
    return given


def explained_output(output: Tensor, target: Any, count: int) -> Tensor:
    """Return the explained output of each of `count` examples, selected by Captum's rules.

    Parameters
    ----------
    output : Tensor
        ``(N,)``, ``(N, C)`` or ``(N, C, …)``.
    target : None, int, Tensor, tuple of int, list of int or list of tuple
        Which element; None where there is only one.
    count : int
        N.

    Returns
    -------
    Tensor
        ``(N,)``, part of the graph of `output`.

    Raises
    ------
    InvalidTypeError
        If `target` is none of these types.
    InvalidValueError
        If it lies outside of the output or selects more than one element, or the output has not N rows.
    """
    shape = tuple(output.shape)
    if not (target is None or (isinstance(target, (int, tuple, list, Tensor)) and not isinstance(target, bool))):
        raise InvalidTypeError(
            f"target must be None, an int, a tensor, a tuple, or a list of ints or tuples, got {type(target).__name__}"
        )
    if output.ndim == 0 or len(output) != count:
        raise InvalidValueError(f"the model must return one row for each of {count} examples, got shape {shape}")
    if isinstance(target, Tensor):
        target = target.to(output.device)
    _check_in_range(target, output)
    try:
        selected: Tensor = _select_targets(output, target)
    except (AssertionError, IndexError, RuntimeError, TypeError) as error:
        raise InvalidValueError(f"target {target!r} does not fit an output of shape {shape}: {error}") from error
    if selected.numel() != count:
        raise InvalidValueError(
            f"target must select one element of each example's output, got {target!r} for an output of shape {shape}"
        )
    return selected.reshape(count)


def _check_in_range(target: Any, output: Tensor) -> None:
    """Raise for classes of examples that `torch.gather` would look for outside of the output."""
    is_list = isinstance(target, list) and target != [] and all(isinstance(entry, int) for entry in target)
    if output.ndim != 2 or not (is_list or (isinstance(target, Tensor) and target.numel() > 1)):
        return
    classes = torch.as_tensor(target)
    if classes.is_floating_point() or bool(((classes < 0) | (classes >= output.shape[1])).any()):
        raise InvalidValueError(f"target must hold classes from 0 to {output.shape[1] - 1}, got {classes.tolist()}")
