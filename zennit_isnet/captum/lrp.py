"""LRP with this package's composites and Captum's interface."""

from collections.abc import Sequence
from typing import Any

import torch
from captum._utils.common import _format_additional_forward_args, _select_targets
from captum.attr import GradientAttribution, LayerAttribution
from captum.log import log_usage
from torch import Tensor, nn

from zennit_isnet.checks import as_integers, check_differentiable, check_in_box, check_model, kind_of
from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.lrp.composite import LRPComposite, as_composites
from zennit_isnet.lrp.flex import LRPFlex
from zennit_isnet.lrp.propagation import propagate
from zennit_isnet.lrp.taps import Taps
from zennit_isnet.model import buffers_restored, main_head, unwrapped


class CompositeAttribution(GradientAttribution):
    """LRP with a composite of this package, used like `captum.attr.LRP`.

    Works for every model that the composite covers, without setting attributes on its modules. The model's parameters,
    buffers, modes and hooks are unchanged afterwards. In train mode BatchNorm uses the statistics of the batch.

    Parameters
    ----------
    model : Module
        Called as ``model(*inputs, *additional_forward_args)``. If it returns a named tuple of heads, the first is
        explained.
    composite : LRPFlex or DifferentiableComposite, optional
        The rules. If None, ``LRPFlex()``. For Zennit's own composites use ``differentiable(composite)``.

    Raises
    ------
    InvalidTypeError
        If `model` is not a module, or `composite` is not a composite of this package.
    UnsupportedModelError
        If the model is compiled, scripted or a `DataParallel`.

    References
    ----------
    .. [1] Bassi, P. R. A. S., Decherchi, S., Cavalli, A. "Faster ISNet for background bias mitigation on deep neural
       networks". IEEE Access 12, 155151 (2024). arXiv:2401.08409. LRP-Flex.

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

    multiplies_by_inputs = True
    """Relevance is input times signal."""

    _names: Sequence[str] = ()

    def __init__(self, model: nn.Module, composite: LRPComposite | None = None) -> None:
        check_model(model)
        super().__init__(model)
        self.model = model
        (self.composite,) = as_composites(LRPFlex() if composite is None else composite)

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
            Floating point, ``(N, …)``.
        target : int, Tensor, tuple, list of int or list of tuple, optional
            As elsewhere in Captum: one index for all examples (an int or one-element tensor; a tuple for outputs with
            more dimensions), or one per example (a tensor ``(N,)`` or a list). None if each example has a single
            output.
        additional_forward_args : Any, optional
            Further arguments of the model, alone or in a tuple. They are constants, without relevance or gradient.
        return_convergence_delta : bool, default=False
            Whether to return the conservation gap too; see `compute_convergence_delta`.
        create_graph : bool, default=False
            Whether the relevance is a differentiable function of the parameters, and of inputs that require a
            gradient; for training.

        Returns
        -------
        relevance : Tensor or tuple of Tensor
            Same structure and shapes as `inputs`. Positive values support the explained output.
        delta : Tensor
            ``(N,)``, if requested.

        Raises
        ------
        InvalidTypeError, InvalidValueError
            If an argument is not allowed, the target lies outside the output, or an input leaves the box of z^B.
        UncoveredOperationError
            If the model runs operations that no rule covers.
        """
        (parts,), start = self._explain(inputs, target, additional_forward_args, create_graph)
        relevance = parts if isinstance(inputs, tuple) else parts[0]
        if not return_convergence_delta:
            return relevance
        return relevance, self.compute_convergence_delta(relevance, start)

    def _explain(
        self, inputs: Any, target: Any, additional_forward_args: Any, create_graph: bool, of_inputs: bool = False
    ) -> tuple[list[tuple[Tensor, ...]], Tensor]:
        """Explain one output of each example; buffers that the forward pass changes are restored.

        Returns
        -------
        relevance : list of tuple of Tensor
            Relevance of all tensors of each layer, or of the inputs if no layer is named.
        start : Tensor
            ``(N,)``, the relevance at the output.
        """
        model, given = unwrapped(self.model), as_inputs(inputs)
        if self.composite.box is not None:
            if len(given) > 1:
                raise InvalidValueError(f"z^B needs one image batch as input; got {len(given)} tensors")
            check_in_box(given[0], self.composite.box)
        arguments = _format_additional_forward_args(additional_forward_args) or ()
        constants = [value.detach() if isinstance(value, Tensor) else value for value in arguments]

        def seeds(output: Any) -> tuple[Tensor, Tensor]:
            main = _main_output(output)
            explained = explained_output(main, target, len(given[0]))
            if not explained.requires_grad:
                raise InvalidValueError("the model's output does not depend on the inputs, or the model cuts the graph")
            # one at the explained element of each example, zero elsewhere
            (seed,) = torch.autograd.grad(explained, main, torch.ones_like(explained), retain_graph=True)
            return main, seed.unsqueeze(1)

        taps = Taps(model, self._names, of_inputs=of_inputs)
        options: dict[str, Any] = {"arguments": constants, "at_inputs": not self._names, "create_graph": create_graph}
        with buffers_restored(model):
            output, relevance, starts = propagate(model, given, [self.composite], taps, seeds, **options)
            start = starts[0].squeeze(1)
            if self.composite.propagates == "signal":
                start = start * _main_output(output)
        start = start.reshape(len(start), -1).sum(1)
        layers = self._names or (None,)
        found = [tuple(maps.squeeze(1) for at, maps in relevance.items() if at.layer == layer) for layer in layers]
        return found, start if create_graph else start.detach()

    def has_convergence_delta(self) -> bool:
        """Return True."""
        return True

    def compute_convergence_delta(self, attributions: Tensor | tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Return the part of each example's explained output that is missing from its relevance: ``y − ΣR``.

        The sign and the arguments follow `captum.attr.LRP`. The gap is the contribution of the biases, ``Σ_b b·G_b``
        with their signals ``G_b``, plus what the stabilizer ε absorbs. A BatchNorm is an affine map with the bias ``β −
        γμ/σ``. Without biases the gap goes to 0 as ε → 0; with biases a nonzero gap is expected.

        Parameters
        ----------
        attributions : Tensor or tuple of Tensor
            Relevance ``(N, …)``; several are summed.
        output : Tensor
            ``N`` elements: the explained outputs, or the relevance that the composite starts from (`ZPlus`: ``z⁺``
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
            raise InvalidValueError(f"attributions of {sizes} examples do not match {output.numel()} outputs")
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
        The rules. If None, ``LRPFlex()``.

    Raises
    ------
    InvalidTypeError
        If `layer` is neither a module nor a list of them.
    InvalidValueError
        If a layer is not part of the model.

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
        layers = [layer] if isinstance(layer, nn.Module) else layer
        if not isinstance(layers, (list, tuple)) or not all(isinstance(part, nn.Module) for part in layers):
            raise InvalidTypeError(f"layer must be a module of the model, or a list of modules; got {layers!r}")
        names = {id(module): name for name, module in unwrapped(model).named_modules() if name}
        strangers = [type(part).__name__ for part in layers if id(part) not in names]
        if strangers or not layers:
            raise InvalidValueError(f"layer must be part of the model; got {', '.join(strangers) or 'an empty list'}")
        self._names = [names[id(part)] for part in layers]

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
            See `CompositeAttribution.attribute`. Biases before the layer do not contribute to the gap.
        attribute_to_layer_input : bool, default=False
            Whether to explain the input of each layer instead of its output.

        Returns
        -------
        relevance : Tensor, tuple of Tensor, or list of these
            In the shape of the layer's output (or input). A tuple if it has several floating tensors, whose relevances
            add up; a list for a list of layers.
        delta : Tensor or list of Tensor
            ``(N,)``, if requested.

        Raises
        ------
        InvalidTypeError, InvalidValueError
            If an argument is not allowed, or a layer does not run exactly once, has no floating tensors, or lies inside
            a group of layers that one rule covers.
        UncoveredOperationError
            If the model runs operations that no rule covers.
        """
        parts, start = self._explain(inputs, target, additional_forward_args, create_graph, attribute_to_layer_input)
        relevance: list[Any] = [several if len(several) > 1 else several[0] for several in parts]
        single = isinstance(self.layer, nn.Module)
        found = relevance[0] if single else relevance
        if not return_convergence_delta:
            return found
        delta = [self.compute_convergence_delta(several, start) for several in parts]
        return found, delta[0] if single else delta


def _main_output(output: Any) -> Tensor:
    """Return the main head of a named tuple with auxiliary heads; other outputs unchanged."""
    main = main_head(output)
    if not isinstance(main, Tensor) or not main.is_floating_point():
        raise InvalidTypeError(f"a model must return a floating tensor, or a named tuple of heads; got {kind_of(main)}")
    return main


def as_inputs(inputs: Any) -> tuple[Tensor, ...]:
    """Return one tensor, or a tuple of them, as a tuple.

    Raises
    ------
    InvalidTypeError
        If one is not a floating tensor.
    InvalidValueError
        If one has no batch dimension or no elements, or their batch sizes differ.
    """
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    if not given:
        raise InvalidValueError("inputs must be a Tensor or a tuple of them; got an empty tuple")
    for value in given:
        check_differentiable("inputs", value, " (N, …) or a tuple of them")
        if value.ndim == 0 or value.numel() == 0:
            raise InvalidValueError(
                f"inputs must have shape (N, …), without empty dimensions; got {tuple(value.shape)}"
            )
    sizes = [len(value) for value in given]
    if len(set(sizes)) > 1:
        raise InvalidValueError(f"inputs must have the same batch size; got {sizes}")
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
        If `target` is a tensor of floats.
    InvalidValueError
        If it is of another type, lies outside the output or selects more than one element, or if the output does not
        have N rows.
    """
    shape = tuple(output.shape)
    if output.ndim == 0 or len(output) != count:
        raise InvalidValueError(f"the model must return one row for each of {count} examples; got shape {shape}")
    if isinstance(target, Tensor):
        if target.is_floating_point() or target.is_complex():
            raise InvalidTypeError(f"target must be a tensor of integers; got {kind_of(target)}")
        target = target.to(output.device)
    classes = isinstance(target, list) and {*map(type, target)} == {int}
    if output.ndim == 2 and (classes or (isinstance(target, Tensor) and target.numel() > 1)):
        # an accelerator's `torch.gather` would read outside the output
        as_integers("target", torch.as_tensor(target), count=output.shape[1])
    try:
        selected: Tensor = _select_targets(output, target)
    except (AssertionError, IndexError, RuntimeError, TypeError) as error:
        raise InvalidValueError(f"target {target!r} does not fit an output of shape {shape}: {error}") from error
    if selected.numel() != count:
        raise InvalidValueError(f"target must select one element of each example's output; got {target!r} for {shape}")
    return selected.reshape(count)
