"""Interrupts of a command, and code in which they are deferred."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import FrameType
from typing import TypeVar

T = TypeVar("T")


class Interrupted(KeyboardInterrupt):
    """A subclass, because once a KeyboardInterrupt has left an ``exec``, such as a dataclass's,
    Python ends the process by SIGINT even if it was handled."""


AGAIN = 0.1  # seconds until a dropped interrupt is sent again


@contextlib.contextmanager
def ended_alike() -> Iterator[list[int]]:
    """While entered, SIGTERM (end of a batch job, ``docker stop``) acts as Ctrl-C. Yields the list
    of signals so far, as compiled code may turn a KeyboardInterrupt into another error.

    An interrupt in a finaliser or a weak reference's callback, where Python drops it, is sent
    again. Ignored signals, such as Ctrl-C in a background job (``&``), stay ignored; only the main
    thread receives any.
    """
    heard: list[int] = []
    main, hook = threading.main_thread(), sys.unraisablehook

    def interrupt(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        raise Interrupted

    def dropped(what: sys.UnraisableHookArgs) -> None:
        if not issubclass(what.exc_type, Interrupted):
            hook(what)
            return
        again = threading.Timer(AGAIN, signal.pthread_kill, (main.ident, heard[-1]))
        again.daemon = True
        again.start()

    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is main else ()
    before = {number: signal.getsignal(number) for number in numbers}
    before = {n: handler for n, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    try:
        sys.unraisablehook = dropped if before else hook
        for number in before:
            signal.signal(number, interrupt)
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = hook


@contextlib.contextmanager
def ended_at_once() -> Iterator[None]:
    """While entered, Ctrl-C and SIGTERM end the process as they end a command: for imports, which
    would show a traceback, where nothing is begun yet."""

    def end(number: int, frame: FrameType | None) -> None:
        os.write(2, b"nas: interrupted\n")
        os._exit(130)

    numbers = (signal.SIGINT, signal.SIGTERM)
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in numbers if main}
    for number, handler in before.items():
        if handler in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is end:
                signal.signal(number, handler)


@contextlib.contextmanager
def handled_as_before() -> Iterator[None]:
    """Restores the handler of SIGTERM on exit, if the code within replaced it."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        here = threading.current_thread() is threading.main_thread()
        if here and before is not None:  # None: not set by Python, which cannot restore it
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Defers Ctrl-C, and SIGTERM where it is handled, until exit; a second one acts at once.

    Does nothing outside the main thread, which alone receives signals.
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
        if over or heard:  # also while the handlers are being restored
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


def heard_during(work: Callable[[], T]) -> T:
    """Returns what ``work`` returns or raises. It runs in a thread, so that an interrupt is heard
    while compiled code takes minutes; the thread is then left to the end of the process."""
    found = Future[T]()

    def run() -> None:
        try:
            found.set_result(work())
        except BaseException as error:
            found.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return found.result()
