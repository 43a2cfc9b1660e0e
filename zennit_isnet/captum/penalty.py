"""Captum's attributions instead of LRP."""

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import captum.attr
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from zennit_isnet.checks import Described, check_differentiable
from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.lrp.pictures import Layout, Pictures, works_on_last_axis
from zennit_isnet.lrp.propagation import seeds_of
from zennit_isnet.lrp.taps import Place, Places, find_layers
from zennit_isnet.model import attributes_restored, buffers_restored, main_logits, unwrapped

MADE_HERE = ("inputs", "target", "additional_forward_args")
"""Arguments of Captum's ``attribute`` that the regularizer's images and formulation replace."""


class CaptumAttribution(Described):
    """Adapts a gradient-based Captum attribution so that `ISNetRegularizer` can penalise it.

    Captum's classes take gradients that cannot be differentiated again; inside this adapter they can. Tensors that an
    attribution detaches still stay constant, and a penalty on them would silently train on a wrong gradient
    (`LayerIntegratedGradients` is an example). So the first differentiable call compares the gradient with finite
    differences and raises if they disagree.

    It costs one more forward pass than the package's own attributions; prefer those where they exist:
    `InputGradient`, `GradientTimesInput`, `IntegratedGradients`, `GradCAM`, `LRPAttribution`.

    Parameters
    ----------
    method : callable
        A class of Captum, or any ``method(forward)`` that returns an object with Captum's ``attribute``. `forward`
        is a module ``forward(images, seed) -> (N,)``, the explained quantity. With `layer`, ``method(forward, layer)``.
        The formulation chooses the explained quantity, so no target is passed.
    layer : str, optional
        Name of the layer to attribute to, as in ``model.named_modules()``, with a spatial output ``(N, C, H, W)`` or
        ``(N, H, W, C)``.
    verify : bool, default=True
        Whether the first call with ``create_graph=True`` checks the gradient: on a float64 copy of the model, with
        two images, along two directions in parameter space; this takes 5 to 21 extra attributions.
    **arguments
        Passed to each call of ``attribute``, such as ``n_steps=8``.

    Raises
    ------
    InvalidTypeError
        If `method` cannot be called; if `layer` is not a string, is missing or is not used; if `arguments` contain a
        target. At the first call, if `method` makes Captum's LRP, whose rules cut the graph (use `LRPAttribution`).

    Examples
    --------
    >>> import torch
    >>> from captum.attr import LayerGradientXActivation, Saliency
    >>> from zennit_isnet import Target
    >>> from zennit_isnet.captum import CaptumAttribution
    >>> model = torch.nn.Sequential(
    ...     torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 3)
    ... )
    >>> images = torch.rand(2, 3, 8, 8)
    >>> logits, relevance = CaptumAttribution(Saliency, abs=False)(model, images, Target(1))
    >>> relevance["input"].square().sum().backward()
    >>> logits, relevance = CaptumAttribution(LayerGradientXActivation, layer="1")(model, images, Target(1))
    >>> relevance["1"].shape
    torch.Size([2, 1, 4, 6, 6])
    """

    def __init__(
        self, method: Callable[..., Any], *, layer: str | None = None, verify: bool = True, **arguments: Any
    ) -> None:
        if not callable(method):
            raise InvalidTypeError(
                "method must be a class of captum.attr, or a function from a forward function to an attribution; "
                f"got {type(method).__name__}"
            )
        if not (layer is None or isinstance(layer, str)):
            raise InvalidTypeError(f"layer must be a name as in model.named_modules(); got {type(layer).__name__}")
        self.method, self.layer, self.arguments = method, layer, arguments
        self._name = getattr(method, "__name__", type(method).__name__)
        given = [name for name in MADE_HERE if name in self.arguments]
        if given:
            raise InvalidTypeError(
                f"{', '.join(given)}: leave it out; the regularizer supplies the images, and its formulation the target"
            )
        try:
            inspect.signature(self.method).bind(*("forward",) if self.layer is None else ("forward", "layer"))
        except TypeError as error:
            remedy = "pass the layer's name, layer=…" if self.layer is None else "leave layer out"
            raise InvalidTypeError(f"{self._name}: {error}; {remedy}") from error
        self._unverified = verify

    def __call__(
        self, model: nn.Module, images: Tensor, formulation: Callable[[Tensor], Tensor], *, create_graph: bool = True
    ) -> tuple[Any, Places[Tensor]]:
        """Run the model once, and Captum's method once for each explained quantity.

        Parameters
        ----------
        model : Module
            A classifier.
        images : Tensor
            ``(N, C, H, W)`` or ``(N, C, T, H, W)``.
        formulation : callable
            ``formulation(logits) -> seeds (N, K, C)``, the explained quantities.
        create_graph : bool, default=True
            Whether the result can be differentiated.

        Returns
        -------
        output
            What the model returned.
        relevance : Places of Tensor
            ``{"input": R}``, or ``{layer: R}``, with ``R`` of shape ``(N, K, C, …)``.

        Raises
        ------
        InvalidTypeError
            If the method does not make an attribution, or its attribution does not return a tensor.
        InvalidValueError
            If its maps have another size or an ambiguous layout, or are not a differentiable function of the
            parameters.
        """
        check_differentiable("images", images, " (N, C, H, W)")
        wants = images.requires_grad and torch.is_grad_enabled()
        source = images if wants else images.detach().requires_grad_()
        with torch.enable_grad():
            with self._reading(unwrapped(model), source) as read:
                output = model(source.clone())
            seeds = seeds_of(formulation, len(source))(output)[1].unbind(1)
            maps = torch.stack([self._attribute(unwrapped(model), source, seed, create_graph) for seed in seeds], dim=1)
            if shape := read():
                if maps[:, 0].shape != shape:
                    raise InvalidValueError(
                        f"{self._name} must return a map of the same shape as layer {self.layer!r}, whose channels are "
                        f"last: {shape}; got {tuple(maps[:, 0].shape)}; use zennit_isnet.gradients.GradCAM"
                    )
                maps = maps.movedim(-1, 2)
            if create_graph and self._unverified:
                few = slice(None if self._has_rows(source) else 2)
                self._unverified = not check_parameter_gradient(
                    self._attribute, unwrapped(model), source[few], seeds[0][few]
                )
        return output, Places({Place(self.layer): maps})

    @contextmanager
    def _reading(self, model: nn.Module, images: Tensor) -> Iterator[Callable[[], tuple[int, ...] | None]]:
        """Watch the layer during a forward pass.

        Yields
        ------
        callable
            After the pass, returns the shape ``(N, …, C)`` of its output, or of its input if that is explained; None if
            the channels are not last.
        """
        pictures, readings = Pictures(images.shape), []
        of_inputs = bool(self.arguments.get("attribute_to_layer_input"))

        def see(module: nn.Module, args: Any, output: Any) -> None:
            values = args if of_inputs else output if isinstance(output, tuple) else (output,)
            tensors = [value for value in values if isinstance(value, Tensor)]
            readings.append(pictures.read(module, tensors[0]) if tensors else None)

        def read() -> tuple[int, ...] | None:
            reading = readings[-1] if readings else None  # Captum explains the last run
            layout = None if reading is None else pictures.settle(reading)
            if layout is Layout.EITHER:
                raise InvalidValueError(
                    f"the channels of layer {self.layer!r} may be first or last; choose another layer"
                )
            return reading.shape if reading is not None and layout is Layout.LAST else None

        with ExitStack() as hooks:
            if self.layer is not None:
                layer = find_layers(model, [self.layer])[self.layer]
                hooks.callback(layer.register_forward_hook(see).remove)
                for module in filter(works_on_last_axis, model.modules()):
                    hooks.callback(module.register_forward_hook(pictures.see).remove)
            yield read

    def _attribute(self, model: nn.Module, images: Tensor, seed: Tensor, create_graph: bool = True) -> Tensor:
        """Heatmap ``(N, C, …)`` of one explained quantity."""
        explained = ExplainedQuantity(model)
        place = () if self.layer is None else (find_layers(model, [self.layer])[self.layer],)
        # an alias: the seed depends on the images too, but is constant in Captum's gradient
        images = images.view_as(images)
        # Captum repeats `additional_forward_args` for its copies of the images, so each copy finds its seed
        graph = DifferentiableGradients() if create_graph else nullcontext()
        with buffers_restored(model), attributes_restored(model), graph:
            attribution = self.method(explained, *place)
            if isinstance(attribution, captum.attr.LRP):
                raise InvalidTypeError(
                    f"the rules of captum.attr.{type(attribution).__name__} cut the graph to the parameters and write "
                    "to the model; use LRPAttribution"
                )
            if not callable(getattr(attribution, "attribute", None)):
                raise InvalidTypeError(
                    f"{self._name} must make an object with Captum's attribute(); got {type(attribution).__name__}"
                )
            heatmap: Tensor = attribution.attribute(images, additional_forward_args=seed, **self.arguments)
        if not isinstance(heatmap, Tensor):
            raise InvalidTypeError(f"{self._name} must return one tensor; got {type(heatmap).__name__}")
        fits = heatmap.ndim == images.ndim and len(heatmap) == len(images)
        if not fits or (self.layer is None and heatmap.shape[2:] != images.shape[2:]):
            raise InvalidValueError(
                f"{self._name} must return maps of shape (N, C, …) for images of shape {tuple(images.shape)}, with the "
                f"images' size unless a layer is given; got {tuple(heatmap.shape)}"
            )
        return heatmap if create_graph else heatmap.detach()

    def _has_rows(self, images: Tensor) -> bool:
        """Whether an argument has one row per image, as baselines may."""
        values = (value if isinstance(value, tuple) else (value,) for value in self.arguments.values())
        tensors = [part for parts in values for part in parts if isinstance(part, Tensor)]
        return any(tensor.ndim == images.ndim and len(tensor) == len(images) for tensor in tensors)


class ExplainedQuantity(nn.Module):
    """``q = Σ_c s_c y_c`` of each image, as a forward function for Captum.

    Parameters
    ----------
    model : Module
        Returns the logits ``y``.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, seed: Tensor) -> Tensor:
        """Return ``(N,)``."""
        return (main_logits(self.model(images.clone()), len(images)) * seed).sum(1)


class DifferentiableGradients(TorchFunctionMode):
    """Context in which every `torch.autograd.grad` of this thread creates a graph."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.autograd.grad:
            kwargs = {**kwargs, "create_graph": True, "retain_graph": True}
        return func(*args, **kwargs)


STEPS = (1e-5, 1e-6, 1e-7, 1e-8, 1e-4)
"""Step sizes, one of which must agree: large ones can cross a ReLU kink, small ones are lost in rounding."""


class _Squared(nn.Module):
    """``Σ R²`` of an attribution's heatmap, whose parameters are the model's."""

    def __init__(self, heatmap_of: Callable[..., Tensor], model: nn.Module) -> None:
        super().__init__()
        self.heatmap_of, self.model = heatmap_of, model

    def forward(self, images: Tensor, seed: Tensor) -> Tensor:
        return self.heatmap_of(self.model, images.clone().requires_grad_(), seed).square().sum()


def check_parameter_gradient(
    heatmap_of: Callable[[nn.Module, Tensor, Tensor], Tensor], model: nn.Module, images: Tensor, seed: Tensor
) -> bool:
    """Raise unless the gradient of ``Σ R²`` agrees with finite differences.

    Works on a float64 copy of the model; the random states of PyTorch and NumPy are not changed.

    Parameters
    ----------
    heatmap_of : callable
        ``heatmap_of(model, images, seed) -> R``.
    model : Module
        Not changed.
    images, seed : Tensor
        ``(N, C, …)`` and ``(N, C)``.

    Returns
    -------
    bool
        Whether there was something to compare: a nonzero heatmap and trainable parameters.

    Raises
    ------
    InvalidValueError
        If there is no gradient, it disagrees, or the model does not run in float64.
    """
    # MPS has no double precision
    device = torch.device("cpu") if images.device.type == "mps" else images.device
    # tensors that the model keeps of its last pass cannot be copied with their graph
    kept = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    memo = {id(value): value.detach().clone() for value in kept if not value.is_leaf}
    images, seed = (value.detach().to(device, torch.float64) for value in (images, seed))
    try:
        squared = _Squared(heatmap_of, copy.deepcopy(model, memo).to(device, torch.float64))
        leaves = {name: parameter for name, parameter in squared.named_parameters() if parameter.requires_grad}
        if not leaves:
            return False
        with same_random_numbers(device):
            result = squared(images, seed)
    except RuntimeError as error:
        problem = f"the gradient cannot be checked, because a float64 copy of the model fails ({error})"
        raise InvalidValueError(f"{problem}; verify=False skips this check") from error
    gradients = _gradients(result, list(leaves.values()))
    if result == 0:
        return False
    with same_random_numbers(device):
        # along the gradient, and along a direction that also covers parameters missing from it
        directions = [
            [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, leaves.values(), strict=True)],
            [functional.normalize(torch.randn_like(p).flatten(), dim=0).view_as(p) for p in leaves.values()],
        ]
    length = torch.stack([part.norm() for part in directions[0]]).norm().clamp(min=1e-30)
    directions[0] = [part / length for part in directions[0]]

    def along(steps: Tensor) -> Tensor:
        moved = {
            name: leaf.detach() + sum(step * part for step, part in zip(steps, parts, strict=True))
            for (name, leaf), *parts in zip(leaves.items(), *directions, strict=True)
        }
        with same_random_numbers(device):
            value: Tensor = torch.func.functional_call(squared, moved, (images, seed))
        return value

    origin = torch.zeros(2, dtype=torch.float64, device=device, requires_grad=True)
    # hooks of attributions need not expect undefined gradients
    options = {"check_undefined_grad": False, "raise_exception": False}
    tolerance = {"rtol": 1e-4, "atol": 1e-4 * (1e-6 * length.item())}
    if not any(torch.autograd.gradcheck(along, origin, eps=eps, **tolerance, **options) for eps in STEPS):
        (found,) = torch.autograd.grad(along(origin), origin)
        raise InvalidValueError(
            f"the attribution's gradient with respect to the parameters is wrong: along two directions it gives "
            f"{found.tolist()}, and finite differences disagree. The attribution detaches something that depends on "
            "the parameters (as Captum's LayerIntegratedGradients does), or draws its own random numbers; "
            "verify=False skips this check"
        )
    return True


def _gradients(result: Tensor, leaves: Sequence[Tensor]) -> Sequence[Tensor | None]:
    cause: Exception | None = None
    try:
        found = torch.autograd.grad(result, leaves, allow_unused=True) if result.requires_grad else ()
    except (AttributeError, RuntimeError, TypeError) as error:
        # the attribution's hooks do not expect a second backward pass
        found, cause = (), error
    if all(gradient is None for gradient in found):
        raise InvalidValueError(
            "the attribution is not a differentiable function of the model's parameters, so it cannot be penalised; "
            "use a gradient-based one, or one from zennit_isnet.gradients"
        ) from cause
    return found


@contextmanager
def same_random_numbers(device: torch.device) -> Iterator[None]:
    """Give each block the same random numbers, and restore the generators afterwards."""
    accelerators = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(accelerators), ExitStack() as restoring:
        restoring.callback(np.random.set_state, np.random.get_state())
        # not torch.manual_seed, which seeds all devices
        for generator in (torch.default_generator, *(torch.cuda.default_generators[d.index] for d in accelerators)):
            generator.manual_seed(0)
        np.random.seed(0)
        yield
