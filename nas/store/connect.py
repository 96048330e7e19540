"""Opens the record's database: from a URL to an engine whose schema is the code's."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sqlite3
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, ExceptionContext, create_engine, event
from sqlalchemy.exc import SAWarning

from nas.errors import NoRecord, RecordGone, StoreError, brief
from nas.store.schema import bring_up_to_date
from nas.store.transactions import READ_ONLY_STATE, patiently
from nas.store.urls import READ_ONLY, file_of, parse, shown
from nas.store.values import read_json

log = logging.getLogger(__name__)

# By default PostgreSQL's client waits two hours for a server whose machine vanished. Values are in
# seconds, tcp_user_timeout in milliseconds; the URL's query overrides each.
LIBPQ: Mapping[str, int | str] = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "client_encoding": "utf8",  # otherwise a database in SQL_ASCII returns bytes
}

BUSY_SECONDS = 10.0  # per wait for SQLite's lock; Ctrl-C takes effect only between waits
RESTART_SECONDS = 4.0  # to wait for a server that does not answer the first connection

# File systems on which SQLite's locks or its shared memory do not hold between machines.
NETWORK = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "glusterfs"}
    | {"gpfs", "lustre", "nfs", "nfs4", "smb3", "smbfs"}
)


def connect(
    url: str,
    *,
    create: bool = True,
    write: bool = True,
    accept: Callable[[Connection], None] = lambda _: None,
) -> Engine:
    """An engine on the record at ``url``, its schema created or brought up to date.

    ``create=False`` refuses a database without a record; ``write=False`` also writes nothing, needs
    no write permission, and refuses an older schema. ``accept`` is called with a record as migrated
    from an older schema; if it raises, the migration is rolled back. Raises StoreError, with the
    database unchanged, for an invalid URL, a file that is no SQLite database, a server that does
    not answer, and a schema newer than the code.
    """
    parsed = parse(url)
    sqlite = parsed.drivername == "sqlite"

    def ready(_: bool) -> None:
        bring_up_to_date(engine, create, write, accept)
        if write and sqlite:
            _log_ahead(engine)

    if sqlite:
        _check_file(Path(parsed.database or ""), create, write)
    try:
        with warnings.catch_warnings(action="error", category=SAWarning):  # an unknown setting
            engine = _engine(parsed)
        if not write:
            engine = _engine(_reading(parsed))
    except ImportError as error:
        raise StoreError(
            f"{shown(parsed)} needs the package psycopg: pip install 'nas-patterns[postgresql]'"
        ) from error
    except (TypeError, ValueError, SAWarning) as error:
        raise StoreError(f"{shown(parsed)}: {brief(str(error))}") from error
    try:
        # A lock may be held for long; an unreachable server is more likely a mistyped host, so wait
        # only for a restart.
        patience = 60.0 if sqlite else RESTART_SECONDS
        patiently(ready, patience, parsed)
    except (TypeError, ValueError) as error:  # an invalid setting in the URL's query
        engine.dispose()
        raise StoreError(f"{shown(parsed)}: {brief(str(error))}") from error
    except BaseException:
        engine.dispose()
        raise
    return engine


def _reading(url: URL) -> URL:
    """The URL of a read-only connection. Raises StoreError for a file that cannot be read without
    writing."""
    if url.drivername != "sqlite":
        asked = url.query.get("options", "")
        words = f"{asked if isinstance(asked, str) else ' '.join(asked)} {READ_ONLY}".strip()
        return url.update_query_dict({"options": words})
    file = Path(url.database or "").absolute()
    named = url.set(database=f"file:{quote(str(file))}")
    lasting = named.update_query_dict({"mode": "ro", "uri": "true"})
    try:
        with contextlib.closing(sqlite3.connect(f"{named.database}?mode=ro", uri=True)) as probe:
            probe.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            return lasting  # locked, or damaged, which its first use will raise
        # In WAL mode SQLite needs the files -wal and -shm to read, and can create neither here. It
        # reads an immutable file without them, but then ignores what the log holds.
        log_ahead = file.with_name(f"{file.name}-wal")
        with contextlib.suppress(OSError):
            if log_ahead.stat().st_size:
                raise StoreError(
                    f"storage {str(file)!r} cannot be read where nothing can be written, for "
                    f"{log_ahead.name} is beside it: copy both to another folder"
                ) from None
        return named.update_query_dict({"immutable": "1", "uri": "true"})
    return lasting


def _engine(url: URL) -> Engine:
    if url.drivername != "sqlite":
        engine = create_engine(
            url,
            pool_pre_ping=True,
            connect_args={k: v for k, v in LIBPQ.items() if k not in url.query},
            json_serializer=_compact,
            json_deserializer=read_json,
        )

        @event.listens_for(engine, "handle_error")
        def _read_only(context: ExceptionContext) -> None:
            # A connection keeps what it was begun with: the next try gets another.
            if getattr(context.original_exception, "sqlstate", None) == READ_ONLY_STATE:
                context.is_disconnect = True

        return engine
    engine = create_engine(
        url,
        connect_args={"timeout": BUSY_SECONDS},
        json_serializer=_compact,
        json_deserializer=read_json,
    )
    check_same = _same_file(url)
    # A connection would create a missing file anew.
    event.listen(engine, "do_connect", lambda *_: check_same(opened=False))

    @event.listens_for(engine, "connect")
    def _settings(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # BEGIN is ours, below
        connection.execute("PRAGMA foreign_keys=ON")
        # With a write-ahead log, NORMAL loses no commit when a process dies and does not wait for
        # the disk; a power cut may lose the last commits but does not corrupt the database.
        connection.execute("PRAGMA synchronous=NORMAL")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        check_same(opened=True)
        # "" for statements that SQLite accepts only outside a transaction.
        if begin := connection.get_execution_options().get("nas_begin", "BEGIN"):
            connection.exec_driver_sql(begin)

    return engine


def _same_file(url: URL) -> Callable[..., None]:
    """A check that the database's file is the one that was ``opened`` first. SQLite writes on into
    a file that was moved or removed, and no error tells that nobody will find the results. What a
    file was before it was opened does not count: a layered file system may then copy it."""
    file = (file_of(url) or Path()).absolute()
    first: list[tuple[int, int]] = []

    def check(*, opened: bool) -> None:
        try:
            state = os.stat(file)
        except FileNotFoundError:
            if not first:  # it is created by the first transaction
                return
            raise RecordGone(
                f"{shown(url)} is no longer there: it was moved or removed while in use; put it "
                f"back where {file.name}-wal is, which may hold its last changes"
            ) from None
        found = state.st_dev, state.st_ino
        if opened and not first:
            first.append(found)
        if first and first[0] != found:
            raise RecordGone(
                f"{shown(url)} is another file than when it was opened: put that one back, which "
                "has the results so far"
            )

    return check


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _check_file(file: Path, create: bool, write: bool) -> None:
    """Refuses a file that is not a SQLite database before anything is written."""
    folder = file.absolute().parent
    if not folder.is_dir():
        raise StoreError(f"storage {str(file)!r}: there is no directory {str(folder)!r}")
    if file.exists() and not file.is_file():
        raise StoreError(f"storage {str(file)!r} is not a file")
    try:
        size = file.stat().st_size if file.exists() else 0
        if 0 < size < 512:  # the smallest page of a database
            raise StoreError(f"storage {str(file)!r} is not a SQLite database")
        if size:
            _check_header(file)
    except OSError as error:
        raise StoreError(f"storage {str(file)!r} cannot be read: {error.strerror}") from error
    if not size and not create:
        raise NoRecord(f"storage {str(file)!r}: there is no database yet")
    if not write:
        return
    if not os.access(file if file.exists() else folder, os.W_OK):
        raise StoreError(f"storage {str(file)!r} cannot be written")
    kind = filesystem(folder)
    if kind in NETWORK:
        log.warning(
            "%s lies on a network file system (%s), where SQLite's locks do not hold between "
            "machines: keep it on a local disk, or use PostgreSQL",
            file,
            kind,
        )


def _check_header(file: Path) -> None:
    """Checks that SQLite recognises the file. Never opens it directly: closing any descriptor of a
    file drops all POSIX locks of the process on it, those of other connections too, and another
    process could then delete the log in use (sqlite.org/howtocorrupt.html, 2.2)."""
    try:
        uri = f"{file.absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as found:
            found.execute("PRAGMA schema_version")
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            raise StoreError(f"storage {str(file)!r} is not a SQLite database") from None
        # Any other error, such as a lock or a missing permission, is raised on connecting.


def filesystem(folder: Path, mounts: str = "/proc/mounts") -> str:
    """The type of the file system that holds ``folder``; empty where it is unknown."""
    try:
        lines = Path(mounts).read_bytes().splitlines()
    except OSError:
        return ""
    folder = folder.resolve()
    best, kind = "", ""
    for line in lines:
        _, named, type_, *_ = line.split(b" ")
        # A blank in a name is written \040.
        point = os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda told: bytes([int(told[1], 8)]), named))
        if folder.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, os.fsdecode(type_)
    return kind


def _log_ahead(engine: Engine) -> None:
    """Sets WAL mode, a property of the file: readers and the writer do not block each other."""
    with engine.connect().execution_options(nas_begin="") as connection:
        if connection.exec_driver_sql("PRAGMA journal_mode").scalar() != "wal":
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
