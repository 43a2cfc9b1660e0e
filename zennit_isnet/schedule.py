"""Which training steps pay for the penalty."""

from __future__ import annotations

from zennit_isnet.errors import InvalidTypeError, InvalidValueError


class EveryNth:
    """Makes every n-th call due, the first one included.

    Lazy regularization: with n times the weight at each n-th step, the loss needs no other weighting than at every
    step.

    Parameters
    ----------
    every : int
        The n, at least 1.
    calls : int, default 0
        Calls that were made before, in a training that is resumed.

    Raises
    ------
    InvalidTypeError
        If `every` is no integer.
    InvalidValueError
        If it is smaller than 1, or `calls` is no number of calls.

    Examples
    --------
    >>> from zennit_isnet.schedule import EveryNth
    >>> schedule, due = EveryNth(3), []
    >>> for _ in range(5):
    ...     due.append(schedule.due)
    ...     schedule.advance()
    >>> due
    [True, False, False, True, False]
    """

    def __init__(self, every: int, calls: int = 0) -> None:
        if isinstance(every, bool) or not isinstance(every, int):
            raise InvalidTypeError(f"every must be an integer of at least 1, got {type(every).__name__}: {every!r}")
        if every < 1:
            raise InvalidValueError(f"every must be at least 1 (1 penalises each step), got {every}")
        if isinstance(calls, bool) or not isinstance(calls, int) or calls < 0:
            raise InvalidValueError(f"'calls' of a state must be a number of training calls, got {calls!r}")
        self.every = every
        self.calls = calls

    @property
    def due(self) -> bool:
        """Whether the call that is about to be made is due."""
        return self.calls % self.every == 0

    def advance(self) -> None:
        """Count a call."""
        self.calls += 1
