"""A polite end: SIGTERM and SIGINT ask training to save and return."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(Exception):  # noqa: N818 (an event, not an error)
    """Training was asked to stop and has saved its state.

    Attributes:
        signal: the number of the signal that asked.
    """

    def __init__(self, number: int, message: str) -> None:
        self.signal = number
        super().__init__(message)


@contextmanager
def stop_requests() -> Iterator[Callable[[], int]]:
    """Inside, the two signals only raise a flag; the callable returns the signal's number, or 0.

    Handlers are put back at the end. Outside the main thread signals cannot be caught, and nothing changes.
    """
    received: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: received[0] if received else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
