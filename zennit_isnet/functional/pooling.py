"""Global weighted rank pooling."""

import math

import torch
from torch import Tensor

from zennit_isnet.checks import check_number
from zennit_isnet.errors import InvalidTypeError, InvalidValueError


def gwrp(values: Tensor, decay: float, dim: int = -1) -> Tensor:
    r"""Global weighted rank pooling: the weighted mean of the values in descending order.

    .. math:: \frac{\sum_{i=0}^{n-1} d^i v_{(i)}}{\sum_{i=0}^{n-1} d^i}, \qquad v_{(0)} \ge v_{(1)} \ge \dots

    Only the ranks whose weight counts in the dtype are looked for (151 of any number for ``decay=0.9`` in float32),
    and none of them for ``decay=1``. The ranks left out weigh less than the rounding of the result together.

    Parameters
    ----------
    values : Tensor
        Floating; half precision is pooled in float32.
    decay : float
        Weight :math:`d` of each rank relative to the one before, in (0, 1]. Near 0 this is the maximum, 1 the mean.
    dim : int, default=-1
        The axis that is pooled.

    Returns
    -------
    Tensor
        Shape of `values` without `dim`.

    Raises
    ------
    InvalidTypeError
        If `values` is not a floating tensor, or `decay` not a number.
    InvalidValueError
        If `decay` lies outside of (0, 1], or `values` has no such axis or nothing along it.

    References
    ----------
    .. [1] Kolesnikov, A., Lampert, C. H. "Seed, expand and constrain: three principles for weakly-supervised image
       segmentation". ECCV 2016.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.functional import gwrp
    >>> values = torch.tensor([1.0, 4.0, 2.0])
    >>> gwrp(values, 0.5)
    tensor(3.)
    >>> gwrp(values, 1.0) == values.mean()
    tensor(True)
    """
    check_number("decay", decay, high=1.0)
    if not isinstance(values, Tensor) or not values.is_floating_point():
        kind = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise InvalidTypeError(f"values must be a floating tensor; got {kind}")
    shape = tuple(values.shape)
    if not -len(shape) <= dim < len(shape) or shape[dim] == 0:
        raise InvalidValueError(f"values must have at least one entry along dim={dim}; got shape {shape}")
    values = values if values.dtype == torch.float64 else values.to(torch.float32)
    if decay == 1:
        return values.mean(dim=dim)
    log_decay = math.log(decay)
    ranks = shape[dim]
    # The weights from rank k on sum to about d^k of all.
    counting = min(ranks, max(1, math.ceil(math.log(torch.finfo(values.dtype).eps) / log_decay)))
    weights = torch.exp(log_decay * torch.arange(counting, dtype=values.dtype, device=values.device))
    weights = weights * ((1 - decay) / -math.expm1(ranks * log_decay))
    return (values.movedim(dim, -1).topk(counting, dim=-1).values * weights).sum(dim=-1)
