"""SIGTERM and SIGINT as a request to stop at the next good moment."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Whether a signal has arrived. A second SIGINT interrupts at once, as Python does by itself."""

    def __init__(self) -> None:
        self.received = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Take note of a signal."""
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = True
        logging.getLogger(__name__).warning("%s: stopping at the next step", signal.Signals(number).name)


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Collect signals in a `StopRequest`; afterwards the former handlers are back."""
    request = StopRequest()
    former = {number: signal.signal(number, request.handle) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def leave_signals_to_parent(worker: int) -> None:
    """Let a worker of a `DataLoader` ignore Ctrl-C, which its parent handles, and end at SIGTERM."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
