"""From a URL to an engine on a database whose schema is the code's."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import SAWarning

from nas.errors import NoRecord, StoreError, brief
from nas.store.schema import bring_up_to_date
from nas.store.transactions import patiently
from nas.store.urls import READ_ONLY, parse, shown
from nas.store.values import read_json

log = logging.getLogger(__name__)

# PostgreSQL's client by itself waits two hours for a server whose machine vanished. In seconds,
# but tcp_user_timeout in milliseconds; the URL's query overrides each.
LIBPQ: Mapping[str, int | str] = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "client_encoding": "utf8",  # or a database in SQL_ASCII would answer with bytes
}

BUSY_SECONDS = 10.0  # one wait for SQLite's lock; Ctrl-C is heard only between two waits
RESTART_SECONDS = 4.0  # of a server that does not answer when it is first asked

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

    ``create=False`` refuses where there is no record yet; ``write=False`` besides writes nothing,
    needs no right to, and refuses an older schema. ``accept`` sees an older schema's record as it
    will be, and may raise: then it stays as it was. Raises StoreError, with the database unchanged,
    for a URL that is none, a file that is no SQLite database, a server that does not answer, and a
    schema newer than the code.
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
        # A lock is worth waiting for, a server only while it restarts: who mistyped a host hears
        # it at once by the warning, and for good soon after.
        patience = 60.0 if sqlite else RESTART_SECONDS
        patiently(ready, patience, parsed)
    except (TypeError, ValueError) as error:  # of a setting in the URL's query
        engine.dispose()
        raise StoreError(f"{shown(parsed)}: {brief(str(error))}") from error
    except BaseException:
        engine.dispose()
        raise
    return engine


def _reading(url: URL) -> URL:
    """The URL of a connection that cannot write. Raises StoreError for a file that cannot be read
    without."""
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
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            return lasting  # locked, or an error that its first use will raise
        # In WAL mode SQLite reads by two files beside, which here it can neither find nor make. It
        # does without where the file is declared immutable, but then ignores the log's content.
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
        return create_engine(
            url,
            pool_pre_ping=True,
            connect_args={k: v for k, v in LIBPQ.items() if k not in url.query},
            json_serializer=_compact,
            json_deserializer=read_json,
        )
    engine = create_engine(
        url,
        connect_args={"timeout": BUSY_SECONDS},
        json_serializer=_compact,
        json_deserializer=read_json,
    )

    @event.listens_for(engine, "connect")
    def _settings(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # BEGIN is ours, below
        connection.execute("PRAGMA foreign_keys=ON")
        # With a write-ahead log NORMAL loses no commit when a process dies, and spares each
        # commit its wait for the disk; a power cut may take the last commits, never the database.
        connection.execute("PRAGMA synchronous=NORMAL")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # "" for what SQLite does only outside of a transaction.
        if begin := connection.get_execution_options().get("nas_begin", "BEGIN"):
            connection.exec_driver_sql(begin)

    return engine


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _check_file(file: Path, create: bool, write: bool) -> None:
    """Refuses what is no SQLite database before anything is written."""
    folder = file.absolute().parent
    if not folder.is_dir():
        raise StoreError(f"storage {str(file)!r}: there is no directory {str(folder)!r}")
    if file.exists() and not file.is_file():
        raise StoreError(f"storage {str(file)!r} is not a file")
    try:
        size = file.stat().st_size if file.exists() else 0
        if 0 < size < 512:  # of its least page; a single byte is an empty one to SQLite
            raise StoreError(f"storage {str(file)!r} is not a SQLite database")
        if size:
            _check_head(file)
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


def _check_head(file: Path) -> None:
    """By SQLite itself, never by opening the file: where any descriptor of a file is closed, POSIX
    drops all locks that the process holds on it. Those of another connection would go, and another
    process would remove the log that it writes to (sqlite.org/howtocorrupt.html, 2.2)."""
    try:
        uri = f"{file.absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as found:
            found.execute("PRAGMA schema_version")
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            raise StoreError(f"storage {str(file)!r} is not a SQLite database") from None
        # Any other error, such as a lock or a missing permission, is raised on connecting.


def filesystem(folder: Path, mounts: str = "/proc/mounts") -> str:
    """The type of the file system that holds ``folder``; empty where the system does not tell."""
    try:
        lines = Path(mounts).read_text().splitlines()
    except OSError:
        return ""
    folder = folder.resolve()
    best, kind = "", ""
    for line in lines:
        _, point, type_, *_ = line.split(" ")
        point = point.encode().decode("unicode_escape")  # a blank in a name is written \040
        if folder.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, type_
    return kind


def _log_ahead(engine: Engine) -> None:
    """WAL: readers and the one writer do not wait for each other. It is a property of the file."""
    with engine.connect().execution_options(nas_begin="") as connection:
        if connection.exec_driver_sql("PRAGMA journal_mode").scalar() != "wal":
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
