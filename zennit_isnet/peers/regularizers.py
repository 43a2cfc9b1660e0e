"""One constructor for each peer: its attribution, its explained quantity and its loss in the regularizer."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from zennit_isnet.formulations import Contrast, Label, LogProbabilities
from zennit_isnet.gradients import GradCAM, GradientTimesInput, InputGradient
from zennit_isnet.lrp.attribution import Attribution
from zennit_isnet.lrp.taps import find_layers
from zennit_isnet.peers.losses import energy_loss, gradmask_loss, rrr_loss
from zennit_isnet.peers.range_free import RangeFreeLoss
from zennit_isnet.regularizer import ISNetRegularizer
from zennit_isnet.schedule import EveryNth


def rrr(model: nn.Module, *, every: int | EveryNth = 1, validate: bool = False) -> ISNetRegularizer:
    """Right for the right reasons: the squared input gradient of the summed log-probabilities on the background.

    The papers' terms are sums over the batch and this package's are means, so the ratio of the two terms is the
    paper's.

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
    Ross, Hughes, Doshi-Velez, IJCAI 2017, arXiv:1703.03717.

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
    return _peer(model, InputGradient(), LogProbabilities(), rrr_loss, every, validate)


def gradmask(model: nn.Module, *, every: int | EveryNth = 1, validate: bool = False) -> ISNetRegularizer:
    """GradMask: the norm of the input gradient of the two highest logits' difference on the background.

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
    Simpson, Dutil, Bengio, Cohen, MIDL 2019, arXiv:1904.07478.

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
    return _peer(model, InputGradient(), Contrast(), gradmask_loss, every, validate)


def energy(
    model: nn.Module,
    formulation: Callable[[Tensor], Tensor] | None = None,
    *,
    every: int | EveryNth = 1,
    validate: bool = False,
) -> ISNetRegularizer:
    """Energy loss on input × gradient: the share of positive attribution on the foreground.

    Parameters
    ----------
    model : Module
        A classifier.
    formulation : callable, optional
        The explained quantity. Default `Label`, the paper's: the labels are given around each call, as below.
        `Predicted` needs none.
    every, validate
        See `ISNetRegularizer`.

    Returns
    -------
    ISNetRegularizer
        Without anything to calibrate. Its penalty lies between −1 and 0.

    References
    ----------
    Rao, Böhle, Parchami-Araghi, Schiele, ICCV 2023, arXiv:2303.11932.

    Examples
    --------
    >>> import torch, torchvision
    >>> from zennit_isnet import peers
    >>> from zennit_isnet.formulations import Label
    >>> target = Label()
    >>> regularizer = peers.energy(torchvision.models.resnet18(num_classes=3), target)
    >>> images, masks, labels = torch.rand(2, 3, 32, 32), torch.ones(2, 1, 32, 32), torch.tensor([2, 0])
    >>> with target.context(labels):
    ...     logits, penalty = regularizer(images, masks)
    >>> penalty.item()
    -1.0
    """
    return _peer(model, GradientTimesInput(), formulation, energy_loss, every, validate)


def gradcam_guided(
    model: nn.Module,
    layer: str,
    formulation: Callable[[Tensor], Tensor] | None = None,
    *,
    every: int | EveryNth = 1,
    validate: bool = False,
) -> ISNetRegularizer:
    """Energy loss on Grad-CAM maps: the share of the map that lies on the foreground.

    The map is enlarged to the mask. Cells are coarse behind many strides: choose a layer whose cells are smaller than
    the objects.

    Parameters
    ----------
    model : Module
        A classifier.
    layer : str
        Name of the layer whose map is penalised, as in ``model.named_modules()``: the last one with spatial axes.
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
        If `layer` is no name of a layer.

    References
    ----------
    Rao, Böhle, Parchami-Araghi, Schiele, ICCV 2023, arXiv:2303.11932, which guides Grad-CAM among others; the maps:
    Selvaraju et al., "Grad-CAM", ICCV 2017, arXiv:1610.02391.

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
    regularizer = _peer(model, GradCAM(layer), formulation, energy_loss, every, validate)
    find_layers(model, [layer])
    return regularizer


def _peer(
    model: nn.Module,
    attribution: Attribution,
    formulation: Callable[[Tensor], Tensor] | None,
    loss: Callable[[Tensor, Tensor], Tensor],
    every: int | EveryNth,
    validate: bool,
) -> ISNetRegularizer:
    return ISNetRegularizer(
        model,
        attribution=attribution,
        formulation=Label() if formulation is None else formulation,
        loss=RangeFreeLoss(loss),
        every=every,
        validate=validate,
    )
