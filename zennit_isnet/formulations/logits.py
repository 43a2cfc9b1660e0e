"""The formulations that explain logits: all of them, drawn ones, given ones, the highest."""

from __future__ import annotations

from collections.abc import Mapping
from operator import index

import torch
from torch import Tensor

from zennit_isnet.checks import check_generator
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


class AllLogits(Formulation):
    """The sum of all logits; one heatmap per image whatever the number of classes.

    In the heatmap of `LRPFlex` evidence for one class can cancel evidence for another, in that of `ZPlus` nothing
    cancels: both together, ``ISNetRegularizer(model, composite=(LRPFlex(), ZPlus()), formulation=AllLogits())``, are
    Dual ISNet.

    References
    ----------
    Bassi, Decherchi, Cavalli, IEEE Access 12 (2024) 155151, Dual ISNet.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet import AllLogits
    >>> AllLogits()(torch.randn(1, 3))
    tensor([[[1., 1., 1.]]])
    """

    def seeds(self, logits: Tensor) -> Tensor:
        """Return ones of shape (N, 1, C)."""
        return torch.ones_like(logits).unsqueeze(1)


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


class Stochastic(Formulation):
    """One logit, drawn for each image: the highest with probability 1/2, else any other alike; one heatmap per image.

    Unlike `Selective` it needs no softmax, so it suits multi-label models and models with one logit (which is then
    always the one explained). Draws are made on the CPU, so they do not depend on the device of the model.

    Parameters
    ----------
    generator : torch.Generator, optional
        Source of the draws, on the CPU. Pass a seeded one for runs that can be repeated; by default PyTorch's global
        generator is used.

    Raises
    ------
    InvalidTypeError
        If `generator` is not a `torch.Generator`.
    InvalidValueError
        If `generator` is not on the CPU.

    References
    ----------
    .. [1] Bassi, P. R. A. S., Decherchi, S., Cavalli, A. "Faster ISNet for background bias mitigation on deep neural
       networks". IEEE Access 12, 155151 (2024). arXiv:2401.08409.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.formulations import Stochastic
    >>> formulation = Stochastic(torch.Generator().manual_seed(0))
    >>> formulation(torch.randn(8, 10)).sum(dim=-1).flatten()
    tensor([1., 1., 1., 1., 1., 1., 1., 1.])
    """

    def __init__(self, generator: torch.Generator | None = None) -> None:
        check_generator(generator)
        self.generator = generator

    def seeds(self, logits: Tensor) -> Tensor:
        """Return the seeds of shape (N, 1, C)."""
        images, classes = logits.shape
        chosen = logits.argmax(dim=1)
        if classes > 1:
            # Steps from the highest class to the chosen one, around the circle of classes.
            others = torch.randint(1, classes, (images,), generator=self.generator)
            stay = torch.rand(images, generator=self.generator) < 0.5
            chosen = (chosen + others.masked_fill(stay, 0).to(logits.device)) % classes
        return one_hot(chosen.unsqueeze(1), logits).unsqueeze(1)

    def state_dict(self) -> dict[str, Tensor]:
        """State of the generator; empty for the global generator, which belongs to the user."""
        return {} if self.generator is None else {"generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the state of the generator, so that the draws go on as they would have.

        Parameters
        ----------
        state : mapping of str to Tensor
            From the `state_dict` of a formulation that had a generator if and only if this one has.

        Raises
        ------
        InvalidValueError
            If `state` has other keys than this formulation's own state.
        """
        super().load_state_dict(state)
        if self.generator is not None:
            self.generator.set_state(state["generator"].cpu())

    def __repr__(self) -> str:
        seed = None if self.generator is None else self.generator.initial_seed()
        return "Stochastic()" if seed is None else f"Stochastic(generator=<CPU generator, initial seed {seed}>)"


class Label(Formulation):
    """The logit of each image's label; one heatmap per image. The labels come with the call.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.formulations import Label
    >>> Label()(torch.randn(2, 3), torch.tensor([2, 0]))
    tensor([[[0., 0., 1.]],
    <BLANKLINE>
            [[1., 0., 0.]]])
    """

    needs_labels = True

    def __call__(self, logits: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the seeds ``(N, 1, C)`` of the labels' logits.

        Parameters
        ----------
        logits : Tensor, shape (N, C)
            Floating.
        labels : Tensor of shape (N,)
            Class of each image of the batch, an integer counted from 0. Their values are read: labels on the CPU, as
            a loader gives them, keep the call from waiting for an accelerator.

        Raises
        ------
        InvalidTypeError
            If `labels` is not an integer tensor.
        InvalidValueError
            If there are no labels, or they have another shape or values outside of the classes.
        """
        if labels is None:
            raise InvalidValueError(
                "Label explains the labels' logits and got no labels; call the regularizer with labels=…, or explain "
                "the predicted class with Predicted()"
            )
        return Target(labels)(logits)

    def seeds(self, logits: Tensor) -> Tensor:
        """Raise: there are no labels."""
        return self(logits)


class Predicted(Formulation):
    """The highest logit; one heatmap per image.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.formulations import Predicted
    >>> Predicted()(torch.tensor([[1.0, 3.0, 2.0]]))
    tensor([[[0., 1., 0.]]])
    """

    def seeds(self, logits: Tensor) -> Tensor:
        """Return the seeds of shape (N, 1, C)."""
        return one_hot(logits.argmax(dim=1, keepdim=True), logits).unsqueeze(1)


class Contrast(Formulation):
    """The highest logit minus the second highest; one heatmap per image.

    With two classes it is ``|y_0 − y_1|``, which is how it is published; this is its continuation to more classes.

    References
    ----------
    Simpson, Dutil, Bengio, Cohen, "GradMask: Reduce Overfitting by Regularizing Saliency", MIDL 2019,
    arXiv:1904.07478, the contrast variant.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.formulations import Contrast
    >>> Contrast()(torch.tensor([[1.0, 3.0, 2.0]]))
    tensor([[[ 0.,  1., -1.]]])
    """

    def seeds(self, logits: Tensor) -> Tensor:
        """Return the seeds of shape (N, 1, C)."""
        if logits.shape[1] == 1:
            raise InvalidValueError(
                f"Contrast compares classes and needs at least two; got logits of shape {tuple(logits.shape)}"
            )
        highest, second = logits.topk(2, dim=1).indices.split(1, dim=1)
        return (one_hot(highest, logits) - one_hot(second, logits)).unsqueeze(1)
