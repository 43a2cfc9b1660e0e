"""Reads what layers take or return, of any shape and several tensors at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from zennit_isnet.errors import InvalidValueError
from zennit_isnet.lrp.taps import Taps


class LayerTaps(Taps):
    """Taps for floating tensors of any shape, alone or in a tuple; other values (None, numbers, indices) pass by.

    Parameters
    ----------
    model, layers, on_copy
        See `Taps`.
    of_inputs : bool, default False
        Whether the layers' arguments are kept in place of their outputs.

    Attributes
    ----------
    keys : dict of str to list of str
        For each layer, where `outputs` holds its tensors, in their order.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        on_copy: Sequence[Callable[[Tensor, Tensor], None]] = (),
        *,
        of_inputs: bool = False,
    ) -> None:
        super().__init__(model, layers, on_copy)
        self.of_inputs = of_inputs
        self.keys: dict[str, list[str]] = {}

    def _watch(self, name: str, module: nn.Module) -> RemovableHandle:
        if not self.of_inputs:
            return super()._watch(name, module)

        def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            copies = self._keep(name, (*args, *kwargs.values()))
            return copies[: len(args)], dict(zip(kwargs, copies[len(args) :], strict=True))

        # before the composite's hooks, which attach a rule to the input that they see
        return module.register_forward_pre_hook(keep, prepend=True, with_kwargs=True)

    def _keep(self, name: str, value: Any) -> Any:
        self._note_run(name)
        parts = list(value) if isinstance(value, tuple) else [value]
        watched = [i for i, part in enumerate(parts) if isinstance(part, Tensor) and part.is_floating_point()]
        if not watched or any(isinstance(part, (list, tuple, dict)) for part in parts):
            verb, came = "takes" if self.of_inputs else "returns", ", ".join(type(part).__name__ for part in parts)
            raise InvalidValueError(
                "a layer whose relevance is asked for must have floating tensors, alone or in one tuple; "
                f"{name!r} {verb} {came or 'nothing'}"
            )
        # the name itself stands in messages, where there is no need for a number
        self.keys[name] = [name] if len(watched) == 1 else [f"{name}[{i}]" for i in watched]
        for key, i in zip(self.keys[name], watched, strict=True):
            # one tensor in two places (queries and keys of self-attention) has two shares
            self.outputs[key] = parts[i] if len(watched) == 1 else self._copy(parts[i])
            parts[i] = self._copy(self.outputs[key])
        if not isinstance(value, tuple):
            return parts[0]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
