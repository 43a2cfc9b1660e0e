"""Other methods of explanation-guided training with the regularizer's interface, for comparison.

Each function returns an `ISNetRegularizer` with the attribution, explained quantity and loss of one paper. These losses
have no natural range, so there is nothing to calibrate.

Index letters: N images, K heatmaps per image, C channels, then the spatial axes. ``R`` is the attribution and ``M`` the
foreground mask, at the resolution of ``R``. All losses compute at least in float32 and are differentiable with respect
to the attribution.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zennit_isnet.formulations import Contrast, Label, LogProbabilities
from zennit_isnet.functional.heatmap import align, as_heatmaps, check_real
from zennit_isnet.gradients import GradCAM, GradientTimesInput, InputGradient
from zennit_isnet.lrp.propagation import Attribution
from zennit_isnet.lrp.taps import find_layers
from zennit_isnet.regularizer import EveryNth, ISNetRegularizer

__all__ = ["RangeFreeLoss", "energy", "energy_loss", "gradcam_guided", "gradmask", "gradmask_loss", "rrr", "rrr_loss"]

Seeds = Callable[..., Tensor]
"""A formulation: makes seeds from logits, or from logits and labels."""


def rrr_loss(attribution: Tensor, foreground: Tensor) -> Tensor:
    r"""Squared attribution on the background: "right for the right reasons".

    .. math::
        L_n = \frac1K \sum_{kchw} \bigl((1 - M_{nhw}) R_{nkchw}\bigr)^2

    It grows with the square of the attribution's scale, so a suitable weight depends on the model.

    Parameters
    ----------
    attribution : Tensor, shape (N, K, C, *spatial)
        In the paper the gradient of the summed log-probabilities with respect to the image: `InputGradient` with
        `LogProbabilities`.
    foreground : Tensor, shape (N, 1, *spatial) or (N, *spatial)
        1 on the object, 0 elsewhere; of any spatial size. The paper's mask ``A`` is its complement.

    Returns
    -------
    Tensor, shape (N,)
        At least 0; 0 for a mask without background.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If an argument has a wrong type or shape.

    References
    ----------
    .. [1] Ross, A. S., Hughes, M. C., Doshi-Velez, F. "Right for the right reasons: training differentiable models by
       constraining their explanations". IJCAI 2017. arXiv:1703.03717. Second term of the loss in section 2.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.peers import rrr_loss
    >>> foreground = torch.tensor([[[1, 0], [1, 0]]])
    >>> rrr_loss(torch.full((1, 1, 3, 2, 2), 0.5), foreground)
    tensor([1.5000])
    """
    attribution, foreground = align(attribution, foreground)
    return ((1 - foreground) * attribution).square().flatten(2).sum(dim=2).mean(dim=1)


def gradmask_loss(attribution: Tensor, foreground: Tensor) -> Tensor:
    r"""Euclidean norm of the attribution on the background.

    .. math::
        L_n = \frac1K \sum_k \sqrt{\sum_{chw} \bigl((1 - M_{nhw}) R_{nkchw}\bigr)^2}

    It grows with the attribution's scale. If there is no attribution on the background, its gradient is defined as 0.
    The authors' code also offers the sum of squares, which is `rrr_loss`, and the sum of absolute values.

    Parameters
    ----------
    attribution : Tensor, shape (N, K, C, *spatial)
        In the paper the gradient of a contrast of logits with respect to the image: `InputGradient` with `Contrast`.
    foreground : Tensor, shape (N, 1, *spatial) or (N, *spatial)
        1 on the object, 0 elsewhere; of any spatial size.

    Returns
    -------
    Tensor, shape (N,)
        At least 0; 0 for a mask without background.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If an argument has a wrong type or shape.

    References
    ----------
    .. [1] Simpson, B., Dutil, F., Bengio, Y., Cohen, J. P. "GradMask: reduce overfitting by regularizing saliency".
       MIDL 2019. arXiv:1904.07478.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.peers import gradmask_loss
    >>> foreground = torch.tensor([[[1, 0], [1, 0]]])
    >>> gradmask_loss(torch.full((1, 1, 2, 2, 2), 3.0), foreground)
    tensor([6.])
    """
    attribution, foreground = align(attribution, foreground)
    background = ((1 - foreground) * attribution).flatten(2)
    norm: Tensor = torch.linalg.vector_norm(background, dim=2)
    return norm.mean(dim=1)


def energy_loss(attribution: Tensor, foreground: Tensor) -> Tensor:
    r"""Negative share of the positive attribution on the foreground.

    .. math::
        L_n = -\frac1K \sum_k \frac{\sum_{hw} M_{nhw} A^+_{nkhw}}{\sum_{hw} A^+_{nkhw}}, \qquad
        A^+_{nkhw} = \max\Bigl(0, \sum_c R_{nkchw}\Bigr)

    It does not depend on the attribution's scale. It is the negative of the energy-based pointing game.

    Maps smaller than the masks, from inner layers, are enlarged by linear interpolation. On a coarse map, the mask
    could be foreground everywhere, which would leave nothing to learn.

    Parameters
    ----------
    attribution : Tensor, shape (N, K, C, *spatial)
        In the paper, for the label's logit: `GradientTimesInput`, or `GradCAM` at a layer.
    foreground : Tensor, shape (N, 1, *spatial) or (N, *spatial)
        1 on the object, or in its bounding box, 0 elsewhere; of any spatial size.

    Returns
    -------
    Tensor, shape (N,)
        From −1 (all on the foreground) to 0. A heatmap without positive attribution counts as 0, with zero gradient.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If an argument has a wrong type or shape.

    References
    ----------
    .. [1] Rao, S., Böhle, M., Parchami-Araghi, A., Schiele, B. "Studying how to efficiently and effectively guide
       models with explanations". ICCV 2023. arXiv:2303.11932. Energy loss.
    .. [2] Wang, H. et al. "Score-CAM: score-weighted visual explanations for convolutional neural networks". CVPR
       Workshops 2020. arXiv:1910.01279. The measure.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.peers import energy_loss
    >>> foreground = torch.tensor([[[1, 0], [1, 0]]])
    >>> energy_loss(torch.tensor([[3.0, 1.0], [-5.0, 0.0]]).reshape(1, 1, 1, 2, 2), foreground)
    tensor([-0.7500])
    """
    evidence = as_heatmaps(attribution).sum(dim=2)
    check_real(foreground)
    coarse = evidence.shape[2:]
    fine = foreground.shape[-len(coarse) :]
    if len(fine) == len(coarse) and all(f >= c for f, c in zip(fine, coarse, strict=True)):
        evidence = F.interpolate(evidence, fine, mode="bilinear" if len(fine) == 2 else "trilinear")
    evidence, foreground = align(evidence.unsqueeze(2), foreground)
    positive = evidence.clamp(min=0)
    inside, total = (foreground * positive).flatten(2).sum(dim=2), positive.flatten(2).sum(dim=2)
    return -(inside / total.masked_fill(total == 0, 1)).mean(dim=1)


@dataclass(frozen=True)
class RangeFreeLoss:
    """A loss of attribution and foreground with the interface that `ISNetRegularizer` expects; the range is ignored.

    Parameters
    ----------
    function : callable
        ``function(attribution (N, K, C, H, W), foreground (N, 1, H, W)) -> (N,)``.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.peers import RangeFreeLoss, rrr_loss
    >>> RangeFreeLoss(rrr_loss)(torch.ones(2, 1, 3, 4, 4), torch.ones(2, 1, 4, 4), c1=1.0, c2=25.0)
    tensor([0., 0.])
    """

    function: Callable[[Tensor, Tensor], Tensor]

    needs_range: ClassVar[bool] = False
    """Tells `ISNetRegularizer` that there is no range to calibrate or warn about."""

    def __call__(self, attribution: Tensor, foreground: Tensor, c1: Any = None, c2: Any = None) -> Tensor:
        """Return the loss of each image, shape (N,)."""
        return self.function(attribution, foreground)


def rrr(model: nn.Module, *, every: int | EveryNth = 1, validate: bool = False) -> ISNetRegularizer:
    """Right for the right reasons: the squared input gradient of the summed log-probabilities on the background.

    The paper sums both loss terms over the batch and this package averages them, so their ratio is the paper's.

    Parameters
    ----------
    model : Module
        A classifier with at least two classes.
    every, validate
        See `ISNetRegularizer`.

    Returns
    -------
    ISNetRegularizer
        Without anything to calibrate.

    References
    ----------
    .. [1] Ross, A. S., Hughes, M. C., Doshi-Velez, F. "Right for the right reasons: training differentiable models by
       constraining their explanations". IJCAI 2017. arXiv:1703.03717.

    Examples
    --------
    >>> import torch, torchvision
    >>> from zennit_isnet import peers
    >>> regularizer = peers.rrr(torchvision.models.resnet18(num_classes=3))
    >>> images, masks = torch.rand(2, 3, 32, 32), torch.ones(2, 1, 32, 32)
    >>> logits, penalty = regularizer(images, masks)
    >>> penalty.item()
    0.0
    """
    return _peer(InputGradient(), LogProbabilities(), rrr_loss, model=model, every=every, validate=validate)


def gradmask(model: nn.Module, *, every: int | EveryNth = 1, validate: bool = False) -> ISNetRegularizer:
    """GradMask: the norm of the input gradient on the background, for the difference of the two highest logits.

    Parameters
    ----------
    model : Module
        A classifier with at least two classes.
    every, validate
        See `ISNetRegularizer`.

    Returns
    -------
    ISNetRegularizer
        Without anything to calibrate.

    References
    ----------
    .. [1] Simpson, B., Dutil, F., Bengio, Y., Cohen, J. P. "GradMask: reduce overfitting by regularizing saliency".
       MIDL 2019. arXiv:1904.07478.

    Examples
    --------
    >>> import torch, torchvision
    >>> from zennit_isnet import peers
    >>> regularizer = peers.gradmask(torchvision.models.resnet18(num_classes=3))
    >>> images, masks = torch.rand(2, 3, 32, 32), torch.ones(2, 1, 32, 32)
    >>> logits, penalty = regularizer(images, masks)
    >>> penalty.item()
    0.0
    """
    return _peer(InputGradient(), Contrast(), gradmask_loss, model=model, every=every, validate=validate)


def energy(
    model: nn.Module, formulation: Seeds | None = None, *, every: int | EveryNth = 1, validate: bool = False
) -> ISNetRegularizer:
    """Energy loss on input × gradient: the share of positive attribution on the foreground.

    Parameters
    ----------
    model : Module
        A classifier.
    formulation : callable, optional
        The explained quantity. If None, `Label` as in the paper: pass the labels with each call, as below. `Predicted`
        does not need labels.
    every, validate
        See `ISNetRegularizer`.

    Returns
    -------
    ISNetRegularizer
        Without anything to calibrate. Its penalty lies between −1 and 0.

    References
    ----------
    .. [1] Rao, S., Böhle, M., Parchami-Araghi, A., Schiele, B. "Studying how to efficiently and effectively guide
       models with explanations". ICCV 2023. arXiv:2303.11932.

    Examples
    --------
    >>> import torch, torchvision
    >>> from zennit_isnet import peers
    >>> regularizer = peers.energy(torchvision.models.resnet18(num_classes=3))
    >>> images, masks, labels = torch.rand(2, 3, 32, 32), torch.ones(2, 1, 32, 32), torch.tensor([2, 0])
    >>> logits, penalty = regularizer(images, masks, labels=labels)
    >>> penalty.item()
    -1.0
    """
    return _peer(GradientTimesInput(), formulation, energy_loss, model=model, every=every, validate=validate)


def gradcam_guided(
    model: nn.Module, layer: str, formulation: Seeds | None = None, *, every: int | EveryNth = 1, validate: bool = False
) -> ISNetRegularizer:
    """Energy loss on Grad-CAM maps: the share of the map on the foreground.

    The map is enlarged to the mask. Cells are coarse after many strides: choose a layer with cells smaller than the
    objects.

    Parameters
    ----------
    model : Module
        A classifier.
    layer : str
        Name of the layer whose map is penalised, as in ``model.named_modules()``: usually the last spatial one.
    formulation : callable, optional
        The explained quantity, as for `energy`.
    every, validate
        See `ISNetRegularizer`.

    Returns
    -------
    ISNetRegularizer
        Without anything to calibrate. Its penalty lies between −1 and 0.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If `layer` is not the name of a layer.

    References
    ----------
    .. [1] Rao, S., Böhle, M., Parchami-Araghi, A., Schiele, B. "Studying how to efficiently and effectively guide
       models with explanations". ICCV 2023. arXiv:2303.11932. Guides Grad-CAM among others.
    .. [2] Selvaraju, R. R. et al. "Grad-CAM: visual explanations from deep networks via gradient-based localization".
       ICCV 2017. arXiv:1610.02391. The maps.

    Examples
    --------
    >>> import torch, torchvision
    >>> from zennit_isnet import peers
    >>> from zennit_isnet.formulations import Predicted
    >>> model = torchvision.models.resnet18(num_classes=3)
    >>> regularizer = peers.gradcam_guided(model, "layer4", Predicted())
    >>> images, masks = torch.rand(2, 3, 64, 64), torch.ones(2, 1, 64, 64)
    >>> logits, penalty = regularizer(images, masks)
    >>> penalty.shape
    torch.Size([])
    """
    regularizer = _peer(GradCAM(layer), formulation, energy_loss, model=model, every=every, validate=validate)
    find_layers(model, [layer])
    return regularizer


def _peer(
    attribution: Attribution, formulation: Seeds | None, loss: Callable[..., Tensor], **options: Any
) -> ISNetRegularizer:
    formulation = Label() if formulation is None else formulation
    return ISNetRegularizer(attribution=attribution, formulation=formulation, loss=RangeFreeLoss(loss), **options)
