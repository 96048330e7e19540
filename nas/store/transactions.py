"""How a transaction on the record begins, and how long it is retried."""

from __future__ import annotations

import logging
import re
import sqlite3
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError

from nas.errors import StoreError, brief, no_room
from nas.interrupts import deferred
from nas.store.urls import said, shown
from nas.text import undecoded

T = TypeVar("T")

READ_ONLY_STATE = "25006"  # PostgreSQL's for a write where none is allowed, as after a failover

log = logging.getLogger(__name__)

# In SQLite a transaction that reads first and writes later fails at once, whatever the busy
# timeout, when another has written in between. So what will write says so from its first word.
WRITES: Mapping[str, str] = {"nas_begin": "BEGIN IMMEDIATE"}


def patiently(work: Callable[[bool], T], seconds: float, url: URL) -> T:
    """Returns ``work(retried)``, tried again for up to ``seconds`` while the database is away or
    locked.

    With ``retried``, an earlier commit may have arrived although its answer was lost. Raises
    StoreError when the time is up and for any other database error. Interrupts wait until between
    two tries: inside SQLAlchemy, at one place of twelve, one leaves a statement that only its
    traceback references, and with it a SQLite lock.
    """
    deadline = time.monotonic() + seconds
    pause, retried = 0.05, False
    while True:
        try:
            with deferred():
                return work(retried)
        except UnicodeEncodeError as error:
            name = brief(str(error.object), 100)
            raise StoreError(f"{shown(url)}: '{name}' is {undecoded()}") from None
        except DBAPIError as error:
            if not passes(error):
                damaged = ": the record is damaged" if lacks(error) else ""
                raise StoreError(f"{shown(url)}: {said(error, url)}{damaged}") from None
            if time.monotonic() + pause > deadline:
                waited = f" for {seconds:.0f} s" if seconds else ""
                what = "has no room" if no_room(error.orig) else "does not answer"
                raise StoreError(f"{shown(url)} {what}{waited}: {said(error, url)}") from None
            if not retried:
                log.warning("%s: %s; trying again", shown(url), said(error, url))
        time.sleep(pause)
        pause, retried = min(2 * pause, 2.0), True


def passes(error: DBAPIError) -> bool:
    """Whether the same work may succeed later: a lock, a restart, a failover, a lost link, a full
    disk."""
    if isinstance(error.orig, sqlite3.Error):
        code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF  # the low byte is the kind
        return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL)
    # PostgreSQL, appendix A, by class: connection, rolled back, out of resources, operator's
    # intervention (a restart, or a statement that is cancelled), lock not available, and read-only,
    # as after a failover. Without a state: the connection itself.
    state = getattr(error.orig, "sqlstate", None)
    if state is None:
        return error.connection_invalidated or type(error.orig).__name__ == "OperationalError"
    return state[:2] in ("08", "40", "53", "57") or state in ("55P03", READ_ONLY_STATE)


def lacks(error: DBAPIError) -> bool:
    """Whether a table or a column is missing that every record of this schema has."""
    return (
        getattr(error.orig, "sqlstate", None) in ("42P01", "42703")
        or re.match("no such (table|column)", str(error.orig)) is not None
    )
