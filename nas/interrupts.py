"""Interrupts of a command, and code in which they are deferred."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """Not KeyboardInterrupt itself: once one of those has passed an ``exec``, such as a
    dataclass's, Python ends the process by SIGINT even if it was handled."""


AGAIN = 0.1  # seconds until an interrupt that came to nothing comes again


@contextlib.contextmanager
def ended_alike() -> Iterator[list[int]]:
    """Within, SIGTERM (end of a batch job, ``docker stop``) does what Ctrl-C does. Yields the list
    of signals so far, as compiled code may turn a KeyboardInterrupt into another error.

    An interrupt in a finaliser or a weak reference's callback, where Python drops it, is sent
    again. Ignored signals, such as Ctrl-C in a job behind ``&``, stay ignored; threads other than
    the main one receive none.
    """
    heard: list[int] = []
    main, told = threading.main_thread(), sys.unraisablehook

    def interrupt(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        raise Interrupted

    def dropped(what: sys.UnraisableHookArgs) -> None:
        if not issubclass(what.exc_type, Interrupted):
            told(what)
            return
        again = threading.Timer(AGAIN, signal.pthread_kill, (main.ident, heard[-1]))
        again.daemon = True
        again.start()

    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is main else ()
    before = {number: signal.getsignal(number) for number in numbers}
    before = {n: handler for n, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    try:
        sys.unraisablehook = dropped if before else told
        for number in before:
            signal.signal(number, interrupt)
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = told


@contextlib.contextmanager
def handled_as_before() -> Iterator[None]:
    """What handles SIGTERM before this does so after it, whoever sets another handler within."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        here = threading.current_thread() is threading.main_thread()
        if here and before is not None:  # None: not Python's to put back
            signal.signal(signal.SIGTERM, before)


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
