"""What tests of several processes need: free ports, patience, and how far a study has come."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable

from nas.errors import NasError
from nas.store import open_store

PATIENCE = 120.0  # seconds: no more than the end of a hang, so ample where others compute, too


def free_ports(count: int) -> list[int]:
    """Different ports of loopback that nobody listens on."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def eventually(true: Callable[[], object], seconds: float = PATIENCE) -> bool:
    """Whether it comes true within so many seconds. To look takes a fifth of the time, where that
    is no quarter of a second late: what is waited for needs the processor, too."""
    started = time.monotonic()
    while True:
        looked = time.monotonic()
        if true():
            return True
        now = time.monotonic()
        if now - started > seconds:
            return False
        time.sleep(min(max(0.05, 4 * (now - looked)), 0.25))


def wait(what: str, true: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Until it is true; an assertion that says ``what`` after so many seconds."""
    assert eventually(true, seconds), what


def counts(url: str, study: str) -> dict[str, int]:
    """A study's trials by state; none before there is a study."""
    with contextlib.suppress(NasError), contextlib.closing(open_store(url, create=False)) as store:
        return dict(store.counts(store.find_study(study).id))
    return {}
