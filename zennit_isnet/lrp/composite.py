"""A composite that belongs to one model at a time and says so."""

from __future__ import annotations

import weakref

from torch import nn
from zennit.core import Composite

from zennit_isnet.checks import check_model
from zennit_isnet.errors import InvalidValueError
from zennit_isnet.model import unwrapped


class ExclusiveComposite(Composite):
    """Base of this package's composites: registers with one model, by `register_with`.

    Zennit's composites leave a model silently when they are registered with another one, and the first model's
    relevance is then its plain gradient.
    """

    _model: weakref.ref[nn.Module] | None = None

    def register(self, module: nn.Module) -> None:
        """Register with a model; again with the same one starts afresh. After an error the model is as it was.

        Parameters
        ----------
        module : Module
            The model, possibly in `DistributedDataParallel`.

        Raises
        ------
        InvalidTypeError
            If `module` is no module.
        UnsupportedModelError
            If it is compiled, scripted or a `DataParallel`.
        InvalidValueError
            If the composite is registered with another model.
        """
        check_model(module)
        module = unwrapped(module)
        other = None if self._model is None else self._model()
        if other is not None and other is not module:
            raise InvalidValueError(
                f"this {type(self).__name__} is registered with another model ({type(other).__name__}); leave its "
                "context or call remove() first, or use one composite for each model"
            )
        self.remove()
        try:
            self.register_with(module)
            self._model = weakref.ref(module)
        except BaseException:
            self.remove()
            raise

    def register_with(self, module: nn.Module) -> None:
        """Put hooks on a model, whatever else is checked."""
        super().register(module)

    def remove(self) -> None:
        """Take all hooks and canonizers off the model."""
        super().remove()
        self._model = None
