"""The heatmap loss as a module, and the losses of several layers as one."""

from torch import Tensor, nn

from zennit_isnet.functional import heatmap_loss
from zennit_isnet.functional.options import ForegroundVariant, Normalization, check_loss_options


class HeatmapLoss(nn.Module):
    """Penalty on background relevance, and on foreground relevance outside of its natural range.

    The module holds the options of `zennit_isnet.functional.heatmap_loss`, which has the formulas. It has neither
    parameters nor buffers: the range ``(c1, c2)`` belongs to the layer that the heatmaps come from and is an argument.

    Parameters
    ----------
    background_weight, foreground_weight : float, default=1.0
        Weights of the two losses, at least 0.
    decay : float, default=0.99
        Decay of the rank weights in the pooling of the background, in (0, 1]. Near 0 the loss sees the hottest
        background cells only, at 1 their mean; 0.99 counts about a hundred. The papers have 0, 0.9 and 0.996.
    background_scale : float, default=0.01
        The normalised background at which ``b`` is one half in ``-log(1 - b)``: the level, in units of the mean
        foreground relevance, below which the loss hardly pushes. The papers have 1 and 10, which leaves a shortcut
        that is spread over the background.
    foreground_variant : {"hybrid", "squared"}, default="hybrid"
        Growth above the range: linear in the end, so that one exploding heatmap cannot take over, or always squared.
    normalization : {"absolute_first", "normalize_first"}, default="absolute_first"
        Whether heatmaps are divided by the foreground's mean of absolute or of signed relevance. The latter can
        cancel.
    stabilizer : float, default=0.0
        Added to that mean; zero keeps the background loss blind to the scale of the heatmaps.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If an option is not legal.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.losses import HeatmapLoss
    >>> loss = HeatmapLoss(decay=0.996)
    >>> loss(torch.ones(4, 1, 3, 8, 8), torch.ones(4, 1, 8, 8), c1=1.0, c2=1000.0)
    tensor([0., 0., 0., 0.])
    """

    def __init__(
        self,
        *,
        background_weight: float = 1.0,
        foreground_weight: float = 1.0,
        decay: float = 0.99,
        background_scale: float = 0.01,
        foreground_variant: ForegroundVariant = "hybrid",
        normalization: Normalization = "absolute_first",
        stabilizer: float = 0.0,
    ) -> None:
        super().__init__()
        check_loss_options(
            background_weight=background_weight,
            foreground_weight=foreground_weight,
            decay=decay,
            background_scale=background_scale,
            foreground_variant=foreground_variant,
            normalization=normalization,
            stabilizer=stabilizer,
        )
        self.background_weight = background_weight
        self.foreground_weight = foreground_weight
        self.decay = decay
        self.background_scale = background_scale
        self.foreground_variant: ForegroundVariant = foreground_variant
        self.normalization: Normalization = normalization
        self.stabilizer = stabilizer

    def forward(self, relevance: Tensor, foreground: Tensor, c1: float | Tensor, c2: float | Tensor) -> Tensor:
        """Loss of each image.

        Parameters
        ----------
        relevance : Tensor, shape (N, K, C, *spatial)
            Heatmaps, signed.
        foreground : Tensor, shape (N, 1, *spatial) or (N, *spatial)
            1 on the object, 0 elsewhere; of any spatial size.
        c1, c2 : float or Tensor of shape ()
            Range of the total foreground relevance in which there is no foreground penalty.

        Returns
        -------
        Tensor, shape (N,)

        Raises
        ------
        InvalidTypeError, InvalidValueError
            As for `zennit_isnet.functional.heatmap_loss`.
        """
        return heatmap_loss(
            relevance,
            foreground,
            c1,
            c2,
            background_weight=self.background_weight,
            foreground_weight=self.foreground_weight,
            decay=self.decay,
            background_scale=self.background_scale,
            foreground_variant=self.foreground_variant,
            normalization=self.normalization,
            stabilizer=self.stabilizer,
        )

    def extra_repr(self) -> str:
        """Options, as the constructor takes them."""
        return (
            f"background_weight={self.background_weight}, foreground_weight={self.foreground_weight}, "
            f"decay={self.decay}, background_scale={self.background_scale}, "
            f"foreground_variant={self.foreground_variant!r}, normalization={self.normalization!r}, "
            f"stabilizer={self.stabilizer}"
        )
