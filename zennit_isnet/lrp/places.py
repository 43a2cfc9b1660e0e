"""Where relevance is: at the images, or at a layer of the model."""

from __future__ import annotations

from collections import UserDict
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class Place(NamedTuple):
    """A place where relevance is read.

    Attributes
    ----------
    layer : str or None
        Name of the layer, as in ``model.named_modules()``; None for what the model is called with, the images.
    composite : int
        Which of several composites the relevance is of.
    part : int
        Which tensor, where the model is called with several or a layer returns several.
    """

    layer: str | None = None
    composite: int = 0
    part: int = 0

    def __str__(self) -> str:
        name = "input" if self.layer is None else f"layer {self.layer!r}"
        part = f"[{self.part}]" if self.part else ""
        return f"{name}{part}" + (f" (composite {self.composite})" if self.composite else "")


INPUT = Place()
"""The images."""


class Places(UserDict[Place, T]):
    """Values by place.

    A string is short for a place of the first composite: ``"input"`` for the images, any other for the layer of that
    name. A layer that is called ``input`` is ``Place("input")``.

    Examples
    --------
    >>> from zennit_isnet.lrp import Place, Places
    >>> relevance = Places({"input": 1.0, "layer2": 2.0, Place("layer2", composite=1): 3.0})
    >>> relevance["input"], relevance[Place("layer2")], relevance[Place("layer2", 1)]
    (1.0, 2.0, 3.0)
    """

    def __getitem__(self, place: Place | str) -> T:
        return self.data[_placed(place)]

    def __setitem__(self, place: Place | str, value: T) -> None:
        self.data[_placed(place)] = value

    def __delitem__(self, place: Place | str) -> None:
        del self.data[_placed(place)]

    def __contains__(self, place: object) -> bool:
        return _placed(place) in self.data


def _placed(name: Any) -> Any:
    """Return the place that a name is short for."""
    if not isinstance(name, str):
        return name
    return INPUT if name == "input" else Place(name)
