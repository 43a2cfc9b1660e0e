"""Several processes: what each of them measured, put together."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from zennit_isnet.checks import kind_of
from zennit_isnet.errors import CalibrationError, InvalidTypeError

__all__ = ["penalty_weight"]

T = TypeVar("T")


def penalty_weight(has_mask: Tensor, group: Any = None) -> Tensor:
    """Return what to multiply a process's penalty by where the processes have unequal numbers of masks.

    The penalty is the mean over the masked images of one process, and `DistributedDataParallel` takes the mean over the
    processes, so that an image counts more where fewer images have a mask. Times this weight, the mean over the
    processes is the mean over all masked images. With ``layers=``, each process still ranks the layers by itself.

    Parameters
    ----------
    has_mask : Tensor of bool
        ``(N,)``, what this process gives to the regularizer.
    group : torch.distributed.ProcessGroup, optional
        The processes, all of which must call this. Default: all there are, or this one if there is no group.

    Returns
    -------
    Tensor
        Scalar, float32: masked images here × processes / masked images in all of them; 0 if there is none.

    Raises
    ------
    InvalidTypeError
        If `has_mask` is no boolean tensor.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.distributed import penalty_weight
    >>> penalty_weight(torch.tensor([True, False]))  # one process: its masks are all there are
    tensor(1.)
    """
    if not isinstance(has_mask, Tensor) or has_mask.dtype != torch.bool:
        raise InvalidTypeError(f"has_mask must be a boolean tensor (N,), got {kind_of(has_mask)}")
    own = has_mask.sum().float()
    if not (distributed.is_available() and distributed.is_initialized()):
        return own.clamp(max=1)
    of_all = own.clone()
    distributed.all_reduce(of_all, group=group)
    return own * distributed.get_world_size(group) / of_all.clamp(min=1)


def from_all_processes(measure: Callable[[], T], model: nn.Module) -> list[T]:
    """Return what `measure` returned in each process of a `DistributedDataParallel`; for other models, here.

    Parameters
    ----------
    measure : callable
        What every process does with its share; the result can be pickled.
    model : Module
        The model.

    Raises
    ------
    CalibrationError
        If it raised in another process. In that process its own error goes on.
    """
    if not isinstance(model, DistributedDataParallel):
        return [measure()]
    try:
        result = measure()
    except Exception:
        _gathered(None, model)  # the others must not wait for ever
        raise
    results = _gathered((result,), model)
    failed = [rank for rank, other in enumerate(results) if other is None]
    if failed:
        raise CalibrationError(f"measuring failed in process {', '.join(map(str, failed))}; its own error says why")
    return [other[0] for other in results]


def _gathered(value: Any, model: DistributedDataParallel) -> list[Any]:
    """Return the value of each process."""
    gathered = [None] * distributed.get_world_size(model.process_group)
    # objects travel by the current device, which may be another process's
    with torch.cuda.device_of(next(model.parameters())):
        distributed.all_gather_object(gathered, value, model.process_group)
    return gathered
