"""The places where relevance is read, and the recording of a forward pass there."""

from __future__ import annotations

import difflib
from collections import UserDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.lrp.pictures import Layout, Pictures, Reading, works_on_last_axis
from zennit_isnet.model import unwrapped

T = TypeVar("T")


class Place(NamedTuple):
    """A place where relevance is read.

    Parameters
    ----------
    layer : str, optional
        Name of the layer, as in ``model.named_modules()``. If None, the model's input, the images.
    composite : int, default=0
        Index of the composite, if there are several.
    part : int, default=0
        Index of the tensor, if the model takes or a layer returns several.

    Examples
    --------
    >>> from zennit_isnet.lrp import Place
    >>> print(Place(), Place("layer4"), Place("layer4", composite=1), sep="; ")
    input; layer 'layer4'; layer 'layer4' (composite 1)
    >>> f"{Place('layer4'):16}1.3 to 7.5"
    "layer 'layer4'  1.3 to 7.5"
    """

    layer: str | None = None
    composite: int = 0
    part: int = 0

    def __str__(self) -> str:
        name = "input" if self.layer is None else f"layer {self.layer!r}"
        part = f"[{self.part}]" if self.part else ""
        return f"{name}{part}" + (f" (composite {self.composite})" if self.composite else "")

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


INPUT = Place()
"""The images."""


class Places(UserDict[Place, T]):
    """Values by place.

    A string is short for a place of the first composite: ``"input"`` for the images, any other string for the layer
    with that name. A layer named ``input`` is ``Place("input")``.

    Parameters
    ----------
    values : mapping of Place or str, optional
        The values.

    Examples
    --------
    >>> from zennit_isnet.lrp import Place, Places
    >>> relevance = Places({"input": 1.0, "layer2": 2.0, Place("layer2", composite=1): 3.0})
    >>> relevance["input"], relevance[Place("layer2")], relevance[Place("layer2", 1)]
    (1.0, 2.0, 3.0)
    """

    def __init__(self, values: Mapping[Any, T] | None = None) -> None:
        super().__init__(values)

    if TYPE_CHECKING:  # lookup by place works as in any dictionary

        def __getitem__(self, place: Place | str) -> T: ...

    def __missing__(self, name: str) -> T:
        return self.data[_placed(name)]

    def __setitem__(self, place: Place | str, value: T) -> None:
        self.data[_placed(place)] = value

    def __contains__(self, place: object) -> bool:
        return _placed(place) in self.data


def _placed(name: Any) -> Any:
    """Return the place that a name abbreviates."""
    if not isinstance(name, str):
        return name
    return INPUT if name == "input" else Place(name)


def find_layers(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """Return modules by their names in ``named_modules()``.

    Raises
    ------
    InvalidTypeError
        If a name is not a string.
    InvalidValueError
        If a name does not exist; the message lists close matches.
    """
    modules = dict(unwrapped(model).named_modules())
    for name in names:
        if not isinstance(name, str):
            raise InvalidTypeError(f"layer names must be strings; got {name!r}")
        if not name or name not in modules:
            close = difflib.get_close_matches(name, [m for m in modules if m], n=5, cutoff=0.4)
            raise InvalidValueError(f"the model has no layer {name!r}; close matches: {', '.join(close) or 'none'}")
    return {name: modules[name] for name in names}


class Taps:
    """Context that keeps the outputs of layers, so that their relevance can be computed.

    Keeps floating tensors of any shape, alone or in a tuple; other values (None, numbers, indices) are ignored. The
    model gets a copy of each tensor, so that later in-place operations do not change the kept one.

    Parameters
    ----------
    model : Module
        The model.
    layers : sequence of str
        Names of layers.
    of_inputs : bool, default=False
        Whether to keep the layers' inputs instead of their outputs.

    Attributes
    ----------
    outputs : dict of Place to Tensor
        Filled by a forward pass.
    choices : list of list of Place
        Groups of places; from each group, the first place with relevance is used. Places outside groups are all used.
    optional : set of Place
        Places that may get no relevance; it is then 0.
    channels_last : set of Place
        Layers whose outputs are known to be ``(N, …, C)``; complete after `read`.
    on_copy : sequence of callable
        Called with each output and its copy.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str] = (), *, of_inputs: bool = False) -> None:
        self.layers = find_layers(model, layers) if layers else {}
        self.of_inputs = of_inputs
        self.on_copy: Sequence[Callable[[Tensor, Tensor], None]] = ()
        self.outputs: dict[Place, Tensor] = {}
        self.choices: list[list[Place]] = []
        self.optional: set[Place] = set()
        self.channels_last: set[Place] = set()
        self._ran: set[str] = set()
        self._over = False
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Taps:
        for name, module in self.layers.items():
            self._handles.append(self._watch(name, module))
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def read(self) -> dict[Place, Tensor]:
        """Return the complete `outputs`, after the forward pass; checkpoint recomputation is ignored.

        Raises
        ------
        InvalidValueError
            If a layer did not run.
        """
        self._over = True
        for name in self.layers:
            if name not in self._ran:
                raise InvalidValueError(f"layer {name!r} did not run in this forward pass; choose one that does")
        return self.outputs

    def channels_first(self, place: Place, maps: Tensor, axis: int = 1) -> Tensor:
        """Return a tensor with the axes of a layer's output, with the channels moved to `axis`."""
        return maps.movedim(-1, axis) if place in self.channels_last else maps

    def _watch(self, name: str, module: nn.Module) -> RemovableHandle:
        if not self.of_inputs:
            return module.register_forward_hook(lambda module, args, output: self._keep(name, output))

        def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            copies = self._keep(name, (*args, *kwargs.values()))
            return copies[: len(args)], dict(zip(kwargs, copies[len(args) :], strict=True))

        # before the composite's hooks, which attach a rule to their input
        return module.register_forward_pre_hook(keep, prepend=True, with_kwargs=True)

    def _keep(self, name: str, value: Any) -> Any:
        """Keep a layer's input or output, and return a copy."""
        if self._over:
            return value
        if name in self._ran:
            raise InvalidValueError(
                f"a layer with requested relevance must run only once in a forward pass; {name!r} runs again"
            )
        self._ran.add(name)
        parts = list(value) if isinstance(value, tuple) else [value]
        watched = [i for i, part in enumerate(parts) if isinstance(part, Tensor) and part.is_floating_point()]
        if not watched or any(isinstance(part, (list, tuple, dict)) for part in parts):
            verb, came = "takes" if self.of_inputs else "returns", ", ".join(type(part).__name__ for part in parts)
            raise InvalidValueError(
                "a layer with requested relevance must have floating tensors, alone or in one tuple; "
                f"{name!r} {verb} {came or 'nothing'}"
            )
        for part, i in enumerate(watched):
            place = Place(name, part=part)
            # one tensor in two places (queries and keys of self-attention) gets two shares of relevance
            self.outputs[place] = parts[i] if len(watched) == 1 else self._copy(parts[i])
            parts[i] = self._copy(self.outputs[place])
            if self.of_inputs and len(watched) > 1:
                # some of several arguments may get no relevance, such as queries of attention with constant weights
                self.optional.add(place)
        if not isinstance(value, tuple):
            return parts[0]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)

    def _copy(self, value: Tensor) -> Tensor:
        copy = value.clone()
        for noted in self.on_copy:
            noted(value, copy)
        return copy


class MapTaps(Taps):
    """Taps for layers that return maps of the images, ``(N, C, …)`` or ``(N, …, C)``.

    Parameters
    ----------
    model, layers
        See `Taps`.
    images : sequence of int
        Shape of the images.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str], images: Sequence[int]) -> None:
        super().__init__(model, layers)
        self.pictures = Pictures(images)
        self._readings: dict[str, Reading] = {}
        self._witnesses = [module for module in unwrapped(model).modules() if works_on_last_axis(module)]

    def __enter__(self) -> MapTaps:
        super().__enter__()
        self._handles += [module.register_forward_hook(self.pictures.see) for module in self._witnesses]
        return self

    def read(self) -> dict[Place, Tensor]:
        """Return the complete `outputs`.

        Raises
        ------
        InvalidValueError
            If a layer did not run, or its output is not a map of the images, or its layout is ambiguous.
        """
        outputs = super().read()
        for name, reading in self._readings.items():
            layout = self.pictures.settle(reading)
            if layout is Layout.EITHER:
                raise _no_map(name, f"{reading.shape}, whose channels may be first or last")
            if layout is Layout.NEITHER:
                images = " × ".join(str(size) for size in self.pictures.images[2:])
                raise _no_map(name, f"{reading.shape}, which is not a map of images of {images}")
            if layout is Layout.LAST:
                self.channels_last.add(Place(name))
        return outputs

    def _keep(self, name: str, value: Any) -> Any:
        reading = self.pictures.read(self.layers[name], value)
        if reading is None:
            came = str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
            tokens = isinstance(value, Tensor) and value.ndim == 3
            raise _no_map(name, f"tokens {came}, which have no position in the images" if tokens else came)
        self._readings[name] = reading
        return super()._keep(name, value)


def _no_map(name: str, came: str) -> InvalidValueError:
    return InvalidValueError(
        "a layer with requested relevance must have a spatial output (N, C, H, W) or (N, H, W, C), with the images' "
        f"batch; {name!r} returns {came}; choose a layer that returns maps of the images, or none"
    )
