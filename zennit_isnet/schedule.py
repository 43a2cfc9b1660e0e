"""Which training steps pay for the penalty."""

from __future__ import annotations

from zennit_isnet.checks import check_count

__all__ = ["EveryNth"]


class EveryNth:
    """Makes the first calls due, and every n-th one after them.

    Lazy regularization: with n times the weight at each n-th step, the loss needs no other weighting than at every
    step. That holds while the penalty only has to keep what it reached. A classifier decides early what it looks at,
    and then three plain steps before each penalised one let the shortcut win; so the first part of a training, a third
    in our runs, should be penalised as a whole.

    Parameters
    ----------
    every : int
        The n, at least 1.
    start : int, default 0
        The number of first calls that are all due, with their own weight.
    calls : int, default 0
        Calls that were made before, in a training that is resumed.

    Raises
    ------
    InvalidTypeError
        If a number is no integer.
    InvalidValueError
        If `every` is smaller than 1, or another number smaller than 0.

    Examples
    --------
    >>> from zennit_isnet.schedule import EveryNth
    >>> schedule = EveryNth(3, start=2)
    >>> [schedule.advance() for _ in range(9)]
    [1, 1, 3, 0, 0, 3, 0, 0, 3]
    """

    def __init__(self, every: int, start: int = 0, calls: int = 0) -> None:
        check_count("every", every)
        check_count("start", start, low=0)
        check_count("calls", calls, low=0)
        self.every = every
        self.start = start
        self.calls = calls

    @property
    def weight(self) -> int:
        """Factor of the penalty at the call that is about to be made; 0 where it is not due."""
        if self.calls < self.start:
            return 1
        return self.every if (self.calls - self.start) % self.every == 0 else 0

    def advance(self) -> int:
        """Count a call and return its weight."""
        weight = self.weight
        self.calls += 1
        return weight

    def after(self, calls: int) -> EveryNth:
        """Return the same schedule after a number of calls."""
        return EveryNth(self.every, self.start, calls)
