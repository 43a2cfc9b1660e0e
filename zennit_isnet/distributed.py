"""Combining measurements of several processes."""

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
    """Return the factor for a process's penalty that makes up for unequal numbers of masks in the processes.

    The penalty is the mean over one process's masked images, and `DistributedDataParallel` averages over the processes,
    so images count more in processes with fewer masks. With this weight, the average over the processes is the mean
    over all masked images. With ``layers=``, each process still ranks the layers separately.

    Parameters
    ----------
    has_mask : Tensor of bool
        ``(N,)``, the flags that this process passes to the regularizer.
    group : torch.distributed.ProcessGroup, optional
        The processes, all of which must call this. If None, all processes, or only this one if there is no group.

    Returns
    -------
    Tensor
        Scalar, float32: masked images here × processes / masked images in all of them; 0 if there is none.

    Raises
    ------
    InvalidTypeError
        If `has_mask` is not a boolean tensor.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.distributed import penalty_weight
    >>> penalty_weight(torch.tensor([True, False]))  # one process: its masks are all there are
    tensor(1.)
    """
    if not isinstance(has_mask, Tensor) or has_mask.dtype != torch.bool:
        raise InvalidTypeError(f"has_mask must be a boolean tensor (N,); got {kind_of(has_mask)}")
    own = has_mask.sum().float()
    if not (distributed.is_available() and distributed.is_initialized()):
        return own.clamp(max=1)
    of_all = own.clone()
    distributed.all_reduce(of_all, group=group)
    return own * distributed.get_world_size(group) / of_all.clamp(min=1)


def from_all_processes(measure: Callable[[], T], model: nn.Module) -> list[T]:
    """Return the results of `measure` in each process of a `DistributedDataParallel`; otherwise only in this process.

    Parameters
    ----------
    measure : callable
        What each process runs on its share; its result must be picklable.
    model : Module
        The model.

    Raises
    ------
    CalibrationError
        If it raised in another process, where the original error is raised.
    """
    if not isinstance(model, DistributedDataParallel):
        return [measure()]
    try:
        result = measure()
    except Exception:
        _gathered(None, model)  # the others must not wait forever
        raise
    results = _gathered((result,), model)
    failed = [rank for rank, other in enumerate(results) if other is None]
    if failed:
        raise CalibrationError(f"measuring failed in process {', '.join(map(str, failed))}; see the error there")
    return [other[0] for other in results]


def _gathered(value: Any, model: DistributedDataParallel) -> list[Any]:
    """Return the values of all processes."""
    gathered = [None] * distributed.get_world_size(model.process_group)
    # objects are sent through the current device, which may be another process's
    with torch.cuda.device_of(next(model.parameters())):
        distributed.all_gather_object(gathered, value, model.process_group)
    return gathered
