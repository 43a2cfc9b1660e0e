"""The formulations that explain given logits: each class, or a target."""

from operator import index

import torch
from torch import Tensor

from zennit_isnet.errors import InvalidTypeError, InvalidValueError
from zennit_isnet.formulations.base import Formulation, one_hot


class Original(Formulation):
    """Every logit by itself; C heatmaps per image, so the cost grows with the number of classes.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.formulations import Original
    >>> Original()(torch.randn(1, 3))
    tensor([[[1., 0., 0.],
             [0., 1., 0.],
             [0., 0., 1.]]])
    """

    def seeds(self, logits: Tensor) -> Tensor:
        """Return the seeds of shape (N, C, C)."""
        images, classes = logits.shape
        return torch.eye(classes, dtype=logits.dtype, device=logits.device).expand(images, classes, classes)


class Target(Formulation):
    """The logit of a given class; one heatmap per image. For explaining, not for training.

    In training it would leave the other classes free to use the background.

    Parameters
    ----------
    classes : int or Tensor of shape (N,)
        One class for all images, or one for each; counted from 0. A tensor is copied.

    Raises
    ------
    InvalidTypeError
        If `classes` is neither an int nor an integer tensor.
    InvalidValueError
        If `classes` has another shape or negative entries.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.formulations import Target
    >>> Target(torch.tensor([2, 0]))(torch.randn(2, 3))
    tensor([[[0., 0., 1.]],
    <BLANKLINE>
            [[1., 0., 0.]]])
    """

    def __init__(self, classes: int | Tensor) -> None:
        self.classes = _as_classes(classes)
        # Read here, once, so that calls need not wait for the device.
        self._values: set[int] = set(self.classes.flatten().tolist())
        negative = sorted(value for value in self._values if value < 0)
        if negative:
            raise InvalidValueError(f"classes must be counted from 0; got the negative values {negative}")

    def seeds(self, logits: Tensor) -> Tensor:
        """Return the seeds of shape (N, 1, C)."""
        images, count = logits.shape
        if self.classes.dim() == 1 and len(self.classes) != images:
            raise InvalidValueError(
                f"classes must have one entry for each of the {images} images; got {len(self.classes)}"
            )
        beyond = sorted(value for value in self._values if value >= count)
        if beyond:
            raise InvalidValueError(f"classes must be less than {count}, the number of classes; got {beyond}")
        chosen = self.classes.to(logits.device).expand(images)
        return one_hot(chosen.unsqueeze(1), logits).unsqueeze(1)

    def __repr__(self) -> str:
        return f"Target({self.classes.tolist()})"


def _as_classes(classes: int | Tensor) -> Tensor:
    if isinstance(classes, Tensor):
        if classes.is_floating_point() or classes.is_complex() or classes.dtype == torch.bool:
            raise InvalidTypeError(f"classes must be an int or an integer tensor; got a tensor of {classes.dtype}")
        if classes.dim() > 1:
            raise InvalidValueError(f"classes must have shape () or (N,); got {tuple(classes.shape)}")
        return classes.detach().to(torch.int64, copy=True)
    try:
        number = None if isinstance(classes, bool) else index(classes)
    except TypeError:
        number = None
    if number is None:
        raise InvalidTypeError(f"classes must be an int or an integer tensor; got {classes!r}")
    return torch.tensor(number)
