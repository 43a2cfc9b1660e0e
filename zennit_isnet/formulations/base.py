"""What all formulations have in common."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from zennit_isnet.errors import InvalidTypeError, InvalidValueError


class Formulation(ABC):
    """Base class of the formulations. Index letters: N images, C classes, K heatmaps per image.

    A formulation is called with logits and returns, for each of K quantities per image, the signal at the logits:
    the gradient of the quantity with respect to them. Subclasses write `seeds`; their logits have been checked.

    Examples
    --------
    One that explains by how much the first class leads the second:

    >>> import torch
    >>> from zennit_isnet.formulations import Formulation
    >>> class FirstAgainstSecond(Formulation):
    ...     def seeds(self, logits):
    ...         seed = torch.zeros_like(logits)
    ...         seed[:, 0], seed[:, 1] = 1, -1
    ...         return seed.unsqueeze(1)
    >>> FirstAgainstSecond()(torch.randn(1, 3))
    tensor([[[ 1., -1.,  0.]]])
    """

    needs_labels: ClassVar[bool] = False
    """Whether it is called with the labels of the images too."""

    def __call__(self, logits: Tensor) -> Tensor:
        """Seeds of the signal, one set for each heatmap.

        Parameters
        ----------
        logits : Tensor, shape (N, C)
            Floating, before any softmax or sigmoid.

        Returns
        -------
        Tensor, shape (N, K, C)
            In the dtype of the logits, and differentiable in them where the formula depends on them smoothly.

        Raises
        ------
        InvalidTypeError
            If `logits` is not a floating tensor.
        InvalidValueError
            If `logits` has another shape, or a number of classes that the formulation cannot explain.
        """
        if not isinstance(logits, Tensor) or not logits.is_floating_point():
            kind = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
            raise InvalidTypeError(f"logits must be a floating tensor; got {kind}")
        if logits.dim() != 2 or logits.shape[1] < 1:
            raise InvalidValueError(f"logits must have shape (N, C) with C >= 1; got {tuple(logits.shape)}")
        return self.seeds(logits)

    @abstractmethod
    def seeds(self, logits: Tensor) -> Tensor:
        """Return the seeds of shape (N, K, C) for floating logits of shape (N, C)."""

    def state_dict(self) -> dict[str, Tensor]:
        """State that a resumed training needs; empty where there is none."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned.

        Parameters
        ----------
        state : mapping of str to Tensor
            From a formulation that was built alike.

        Raises
        ------
        InvalidValueError
            If `state` has other keys than this formulation's own state.
        """
        expected = sorted(self.state_dict())
        if sorted(state) != expected:
            raise InvalidValueError(
                f"the state of {self!r} must have the keys {expected}; got {sorted(state)}; build the formulation with "
                "the arguments of the one that was saved"
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def one_hot(classes: Tensor, like: Tensor) -> Tensor:
    """One-hot rows in the dtype, device and shape of `like` (N, C), for `classes` of shape (N, 1)."""
    # Unlike torch.nn.functional.one_hot this never reads the classes back from the device.
    return torch.zeros_like(like).scatter(1, classes, 1.0)
