"""When an interrupt is heard: not amid what must not be left half done."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Ctrl-C, and SIGTERM where it is handled, are heard at the end of this; a second one at once.

    Other threads than the main one hear none anyway.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = {
        number: handled_by for number in numbers if callable(handled_by := signal.getsignal(number))
    }
    heard: list[int] = []
    over = False

    def note(number: int, frame: FrameType | None) -> None:
        if over or heard:  # also where an interrupt came between two of the handlers put back
            handlers[signal.Signals(number)](number, frame)
        heard.append(number)

    try:
        for number in handlers:
            signal.signal(number, note)
        yield
    finally:
        over = True
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if heard:
            handlers[signal.Signals(heard[0])](heard[0], None)
