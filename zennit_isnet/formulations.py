"""Formulations: the quantity to explain, as seeds of the signal computed from the logits."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from zennit_isnet.checks import Described, Drawing, as_integers, check_count, check_logits, check_number, check_state
from zennit_isnet.errors import InvalidValueError

__all__ = [
    "AllLogits",
    "Contrast",
    "Formulation",
    "Label",
    "LogProbabilities",
    "Original",
    "Predicted",
    "Selective",
    "SoftmaxGradient",
    "Stochastic",
    "Target",
]


class Formulation(Described, ABC):
    """Base class of the formulations. Index letters: N images, C classes, K heatmaps per image.

    A formulation is called with logits and returns the signal at the logits for each of K quantities per image: the
    gradient of the quantity with respect to the logits. Subclasses implement `seeds`, which gets checked logits.

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
    """Whether it also needs the labels of the images."""

    compares_classes: ClassVar[bool] = False
    """Whether it needs at least two classes; a single one is then an error."""

    def __call__(self, logits: Tensor) -> Tensor:
        """Return the seeds of the signal, one set for each heatmap.

        Parameters
        ----------
        logits : Tensor, shape (N, C)
            Floating point, before any softmax or sigmoid.

        Returns
        -------
        Tensor, shape (N, K, C)
            In the dtype of the logits, and differentiable with respect to them if the formula is.

        Raises
        ------
        InvalidTypeError
            If `logits` is not a floating tensor.
        InvalidValueError
            If `logits` has another shape, or a number of classes that the formulation cannot explain.
        """
        check_logits("logits", logits)
        if self.compares_classes and logits.shape[1] == 1:
            problem = f"{type(self).__name__} compares classes and needs at least two"
            came = f"got logits of shape {tuple(logits.shape)}"
            raise InvalidValueError(f"{problem}; {came}; use Stochastic() for models with one logit")
        return self.seeds(logits)

    @abstractmethod
    def seeds(self, logits: Tensor) -> Tensor:
        """Return the seeds of shape (N, K, C) for floating logits of shape (N, C)."""

    def state_dict(self) -> dict[str, Tensor]:
        """State that a resumed training needs; empty if there is none."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned.

        Parameters
        ----------
        state : mapping of str to Tensor
            From a formulation with the same arguments.

        Raises
        ------
        InvalidValueError
            If the keys of `state` differ from this formulation's own.
        """
        check_state(self, state)


def one_hot(classes: Tensor, like: Tensor) -> Tensor:
    """One-hot rows in the dtype, device and shape of `like` (N, C), for `classes` of shape (N, 1)."""
    # Unlike torch.nn.functional.one_hot, this never synchronises with the device.
    return torch.zeros_like(like).scatter(1, classes, 1.0)


class Original(Formulation):
    """Every logit separately; C heatmaps per image, so the cost grows with the number of classes.

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

    In the `LRPFlex` heatmap, evidence for one class can cancel evidence for another; in the `ZPlus` heatmap nothing
    cancels. Both together, ``ISNetRegularizer(model, composite=(LRPFlex(), ZPlus()), formulation=AllLogits())``, are
    Dual ISNet.

    References
    ----------
    .. [1] Bassi, P. R. A. S., Decherchi, S., Cavalli, A. "Faster ISNet for background bias mitigation on deep neural
       networks". IEEE Access 12, 155151 (2024). arXiv:2401.08409. Dual ISNet.

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
    """The logit of a given class; one heatmap per image. For explanations, not for training.

    In training it would leave the other classes free to use the background.

    Parameters
    ----------
    classes : int or Tensor of shape (N,)
        One class for all images, or one per image, counted from 0. A tensor is copied.

    Raises
    ------
    InvalidTypeError
        If `classes` is neither an int nor an integer tensor.
    InvalidValueError
        If `classes` has negative entries. When called: if it has another shape, or entries beyond the number of
        classes.

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
        if not isinstance(classes, Tensor):
            check_count("classes", classes, low=0)
        # on the CPU, so that checks in calls need not synchronise an accelerator
        self.classes = as_integers("classes", torch.as_tensor(classes), booleans=False).to("cpu", copy=True)

    def seeds(self, logits: Tensor) -> Tensor:
        """Return the seeds of shape (N, 1, C)."""
        images, count = logits.shape
        shape = (images,) if self.classes.dim() else ()
        chosen = as_integers("classes", self.classes, shape, self.classes.device, count)
        return one_hot(chosen.to(logits.device).expand(images).unsqueeze(1), logits).unsqueeze(1)


class Stochastic(Drawing, Formulation):
    """A random logit per image: the highest with probability 1/2, otherwise any other uniformly; one heatmap per image.

    Unlike `Selective` it needs no softmax, so it suits multi-label models and models with one logit (which is then
    always explained). Draws are made on the CPU, so they do not depend on the model's device.

    Parameters
    ----------
    generator : torch.Generator, optional
        Generator of the random draws, on the CPU. Pass a seeded one for reproducible runs. If None, PyTorch's
        global generator is used.

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


class Label(Formulation):
    """The logit of each image's label; one heatmap per image. The labels are passed with the call.

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
            Class of each image of the batch, an integer counted from 0. The values are read; pass labels on the CPU, as
            a loader yields them, to avoid synchronising an accelerator.

        Raises
        ------
        InvalidTypeError
            If `labels` is not an integer tensor.
        InvalidValueError
            If there are no labels, or their shape or values are not allowed.
        """
        if labels is None:
            remedy = "call the regularizer with labels=…, or explain the predicted class with Predicted()"
            raise InvalidValueError(f"Label explains the labels' logits but got no labels; {remedy}")
        return Target(labels)(logits)

    def seeds(self, logits: Tensor) -> Tensor:
        """Raise, because labels are missing."""
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

    With two classes it is ``|y_0 − y_1|``, the published form; this extends it to more classes.

    References
    ----------
    .. [1] Simpson, B., Dutil, F., Bengio, Y., Cohen, J. P. "GradMask: reduce overfitting by regularizing saliency".
       MIDL 2019. arXiv:1904.07478. Contrast variant.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.formulations import Contrast
    >>> Contrast()(torch.tensor([[1.0, 3.0, 2.0]]))
    tensor([[[ 0.,  1., -1.]]])
    """

    compares_classes = True

    def seeds(self, logits: Tensor) -> Tensor:
        """Return the seeds of shape (N, 1, C)."""
        highest, second = logits.topk(2, dim=1).indices.split(1, dim=1)
        return (one_hot(highest, logits) - one_hot(second, logits)).unsqueeze(1)


class Selective(Formulation):
    r"""The gradient of the softmax score :math:`\eta_c` of the lowest logit :math:`c`; one heatmap per image.

    .. math::
        \eta_c = \log(p_c + \delta) - \log(1 - p_c + \delta), \qquad
        \frac{\partial \eta_c}{\partial y_j} =
        \Bigl(\frac{1}{p_c + \delta} + \frac{1}{1 - p_c + \delta}\Bigr) p_c (\iota_{jc} - p_j),
        \qquad p = \mathrm{softmax}(y)

    With :math:`\delta = 0` the gradient is 1 at :math:`c` and :math:`-p_j / (1 - p_c)`, a softmax over the other
    classes, elsewhere. Its magnitude does not depend on the classifier's confidence.

    The softmax uses all logits, so one heatmap contains evidence for and against every class, and the cost does not
    grow with the number of classes. For multi-label models use `Stochastic`.

    Parameters
    ----------
    delta : float, default=0.0
        Makes the gradient vanish like :math:`p_c / \delta` for a class with negligible probability. The papers use
        1e-2, which requires a classifier that stays uncertain, for example through label smoothing.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If `delta` is not a finite number of at least 0.

    References
    ----------
    .. [1] Bassi, P. R. A. S., Decherchi, S., Cavalli, A. "Faster ISNet for background bias mitigation on deep neural
       networks". IEEE Access 12, 155151 (2024). arXiv:2401.08409.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.formulations import Selective
    >>> Selective()(torch.zeros(1, 2))
    tensor([[[ 1., -1.]]])
    >>> Selective()(torch.tensor([[100.0, 100.0, 0.0]]))  # certain that it is not the third
    tensor([[[-0.5000, -0.5000,  1.0000]]])
    """

    compares_classes = True

    def __init__(self, delta: float = 0.0) -> None:
        check_number("delta", delta, include_low=True)
        self.delta = delta

    def seeds(self, logits: Tensor) -> Tensor:
        """Return the seeds of shape (N, 1, C)."""
        lowest = logits.argmin(dim=1, keepdim=True)
        precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.delta == 0:
            # in closed form: p_j / (1 − p_c) is a softmax without c
            others = precise.scatter(1, lowest, -torch.inf).softmax(dim=1)
            return (one_hot(lowest, precise) - others).to(logits.dtype).unsqueeze(1)
        probability = precise.softmax(dim=1)
        p = probability.gather(1, lowest)
        slope = (1 / (p + self.delta) + 1 / (1 - p + self.delta)) * p
        return (slope * (one_hot(lowest, probability) - probability)).to(logits.dtype).unsqueeze(1)


class SoftmaxGradient(Formulation):
    """Gradient of the softmax score ``p_c`` of the highest class; one heatmap per image. An ablation.

    It vanishes if the classifier is confident.

    References
    ----------
    .. [1] Bassi, P. R. A. S., Dertkigil, S. S. J., Cavalli, A. "Improving deep neural network generalization and
       robustness to background bias via layer-wise relevance propagation optimization". Nat. Commun. 15, 291 (2024).
       ISNet Grad*Input.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.formulations import SoftmaxGradient
    >>> SoftmaxGradient()(torch.zeros(1, 2))
    tensor([[[ 0.2500, -0.2500]]])
    """

    def seeds(self, logits: Tensor) -> Tensor:
        """Return ``p_c (1_c − p)`` of shape (N, 1, C)."""
        probabilities = logits.softmax(1)
        highest = logits.argmax(1, keepdim=True)
        score = probabilities.gather(1, highest)
        return (score * (one_hot(highest, logits) - probabilities)).unsqueeze(1)


class LogProbabilities(Formulation):
    r"""The sum of the log-probabilities of all classes; one heatmap per image.

    .. math::
        \eta = \sum_c \log p_c, \qquad \frac{\partial \eta}{\partial y_j} = 1 - C p_j, \qquad p = \mathrm{softmax}(y)

    References
    ----------
    .. [1] Ross, A. S., Hughes, M. C., Doshi-Velez, F. "Right for the right reasons: training differentiable models by
       constraining their explanations". IJCAI 2017. arXiv:1703.03717. Section 2.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.formulations import LogProbabilities
    >>> LogProbabilities()(torch.tensor([[0.0, 0.0], [100.0, 0.0]]))
    tensor([[[ 0.,  0.]],
    <BLANKLINE>
            [[-1.,  1.]]])
    """

    compares_classes = True

    def seeds(self, logits: Tensor) -> Tensor:
        """Return the seeds of shape (N, 1, C)."""
        probability = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(dim=1)
        return (1 - logits.shape[1] * probability).to(logits.dtype).unsqueeze(1)
