"""Renews a driver's leases while it is busy."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass

from nas.errors import StoreError
from nas.store import Store

log = logging.getLogger(__name__)

BEATS = 4  # renewals per lease
FAREWELL = 1.0  # seconds to wait at the end for a renewal in progress


@dataclass(frozen=True, slots=True)
class Beat:
    """A renewal that began at ``since``, by time.monotonic(), and the ``tokens`` it renewed."""

    since: float
    tokens: Collection[str]


class Leases:
    """While entered, renews the leases of all attempts of ``store``'s driver every quarter of a
    lease, in a thread.

    With a large model one ask takes seconds, and 64 take a minute: without the thread the leases
    would expire, and another driver would take over live trials. The price: a driver whose ask
    never returns keeps its trials until its process ends.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._last = Beat(-math.inf, ())
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="nas-leases", daemon=True)

    def __enter__(self) -> Leases:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join(FAREWELL)

    def lost(self, token: str, since: float) -> bool:
        """Whether an attempt that was this driver's at ``since``, by time.monotonic(), now belongs
        to another, so that its result would be refused."""
        last = self._last
        return since < last.since and token not in last.tokens

    def _follow(self) -> None:
        while not self._closing.wait(self._store.lease / BEATS):
            since = time.monotonic()
            try:
                self._last = Beat(since, self._store.beat())
            except StoreError as error:  # the loop sees it too, and handles it
                log.warning("the leases of this driver are not renewed: %s", error)
