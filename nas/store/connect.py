"""From a URL to an engine on a database whose schema is the code's."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.exc import DBAPIError, SAWarning

from nas.errors import NoRecord, StoreError, brief
from nas.interrupts import deferred
from nas.store.tables import HEAD, VERSION_TABLE, metadata
from nas.store.urls import READ_ONLY, parse, said, shown
from nas.store.values import read_json

if TYPE_CHECKING:
    from alembic.config import Config

T = TypeVar("T")

log = logging.getLogger(__name__)

# In SQLite a transaction that reads first and writes later fails at once, whatever the busy
# timeout, when another has written in between. So what will write says so from its first word.
WRITES: Mapping[str, str] = {"nas_begin": "BEGIN IMMEDIATE"}

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
MIGRATION_LOCK = 0x6E61735F  # PostgreSQL's advisory lock: any number that nobody else uses

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
    if parsed.drivername == "sqlite":
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
        patience = 60.0 if parsed.drivername == "sqlite" else RESTART_SECONDS
        patiently(lambda _: _bring_up_to_date(engine, create, write, accept), patience, parsed)
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
        told = f"{asked if isinstance(asked, str) else ' '.join(asked)} {READ_ONLY}".strip()
        return url.update_query_dict({"options": told})
    file = Path(url.database or "").absolute()
    named = url.set(database=f"file:{quote(str(file))}")
    lasting = named.update_query_dict({"mode": "ro", "uri": "true"})
    try:
        with contextlib.closing(sqlite3.connect(f"{named.database}?mode=ro", uri=True)) as probe:
            probe.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            return lasting  # a lock, or what else is told when it is used
        # In WAL mode SQLite reads by two files beside, which here it can neither find nor make. It
        # does without where it is told that nobody writes, as nobody can: but not what is in one.
        log_ahead = file.with_name(f"{file.name}-wal")
        with contextlib.suppress(OSError):
            if log_ahead.stat().st_size:
                raise StoreError(
                    f"storage {str(file)!r} cannot be read where nothing can be written, for "
                    f"{log_ahead.name} is beside it: copy both to another folder"
                ) from None
        return named.update_query_dict({"immutable": "1", "uri": "true"})
    return lasting


def patiently(work: Callable[[bool], T], seconds: float, url: URL) -> T:
    """What ``work`` returns, tried again while the database is away or locked, up to ``seconds``.

    ``work`` is told whether it was tried before: then its commit may have arrived although the
    answer got lost. Raises StoreError when the time is up and for any other database error. An
    interrupt is heard between two tries: amid SQLAlchemy it leaves, at one place of twelve, a
    statement that its traceback alone holds, and SQLite a lock that lasts as long as that.
    """
    deadline = time.monotonic() + seconds
    pause, again = 0.05, False
    while True:
        try:
            with deferred():
                return work(again)
        except DBAPIError as error:
            if not passes(error):
                damaged = ": the record is damaged" if lacks(error) else ""
                raise StoreError(f"{shown(url)}: {said(error, url)}{damaged}") from None
            if time.monotonic() + pause > deadline:
                waited = f" for {seconds:.0f} s" if seconds else ""
                raise StoreError(
                    f"{shown(url)} does not answer{waited}: {said(error, url)}"
                ) from None
            if not again:
                log.warning("%s: %s; trying again", shown(url), said(error, url))
        time.sleep(pause)
        pause, again = min(2 * pause, 2.0), True


def passes(error: DBAPIError) -> bool:
    """Whether the same work may succeed later: a lock, a restart, a lost link, a full disk."""
    if isinstance(error.orig, sqlite3.Error):
        code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF  # the low byte is the kind
        return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL)
    # PostgreSQL, appendix A, by class: connection, rolled back, out of resources, operator's
    # intervention, lock not available. Without a state: the connection itself.
    state = getattr(error.orig, "sqlstate", None)
    if state is None:
        return error.connection_invalidated or type(error.orig).__name__ == "OperationalError"
    return state[:2] in ("08", "40", "53") or state[:3] == "57P" or state == "55P03"


def lacks(error: DBAPIError) -> bool:
    """Whether a table or a column is missing that every record of this schema has."""
    return (
        getattr(error.orig, "sqlstate", None) in ("42P01", "42703")
        or re.match("no such (table|column)", str(error.orig)) is not None
    )


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
        # Whatever else is the matter, a lock or a right, is told where it is connected to.


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


def _bring_up_to_date(
    engine: Engine, create: bool, write: bool, accept: Callable[[Connection], None]
) -> None:
    with engine.connect() as connection:
        before = _tables(connection)  # in this order: another may create the record in between
        version = _version(connection)
        _check_tables(engine, version, before, _tables(connection))
    if version is None and not create:
        raise NoRecord(f"{shown(engine.url)}: there is no record in this database yet")
    if version != HEAD and not write:
        _check_version(engine, version)
        raise StoreError(
            f"{shown(engine.url)} has the schema {version!r}, older than this version of nas asks "
            f"for ({HEAD!r}): `nas db upgrade` brings it up to date"
        )
    if version != HEAD:
        _migrate(engine, accept)
    if write and engine.dialect.name == "sqlite":
        _log_ahead(engine)


def _version(connection: Connection) -> str | None:
    """The schema's revision, read without Alembic, whose import alone costs 0.15 s."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    rows = connection.execute(text(f"SELECT * FROM {VERSION_TABLE}")).mappings().all()
    return str(rows[0].get("version_num")) if rows else None


def _tables(connection: Connection) -> set[str]:
    return {*inspect(connection).get_table_names()} & {*metadata.tables}


def _check_tables(engine: Engine, version: str | None, before: set[str], after: set[str]) -> None:
    """Raises StoreError for a record without its schema's revision, and for one at ``HEAD`` that
    lacks a table: somebody dropped it, or a copy came half. ``before`` and ``after`` the revision
    was read these tables were there."""
    if version is None and before:
        told = f"tables of a record, and no revision of their schema: {VERSION_TABLE} is damaged"
        raise StoreError(f"{shown(engine.url)} has {told}; nothing was changed")
    if version == HEAD and (missing := sorted({*metadata.tables} - after)):
        told = f"lacks the table{'s' * (len(missing) > 1)} {', '.join(missing)}: it is damaged"
        raise StoreError(f"the record in {shown(engine.url)} {told}")


_ALEMBIC = threading.Lock()  # what it works on is known to the whole process


def _migrate(engine: Engine, accept: Callable[[Connection], None]) -> None:
    """Brings the schema to HEAD in one transaction; who comes second waits and finds it done."""
    from alembic import command

    config, unidentified = _alembic(), 0
    with _alone(engine) as connection:
        version = _version(connection)
        _check_version(engine, version)
        if version != HEAD:
            config.attributes["connection"] = connection
            with _ALEMBIC:
                command.upgrade(config, "head")
            accept(connection)
            unidentified = _unidentified(connection) if version == "0001" else 0
    if unidentified:
        log.warning(
            "%d evaluations were made before nas told images apart: they are kept as they are, and "
            "stand for nothing new",
            unidentified,
        )


def _unidentified(connection: Connection) -> int:
    query = "SELECT count(*) FROM nas_trials WHERE state IN ('finished', 'reused', 'stopped')"
    return int(connection.scalar(text(query)) or 0)


def _check_version(engine: Engine, version: str | None) -> None:
    """Raises StoreError for a revision of the schema that is not known here."""
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(_alembic()).walk_revisions()
    if version in {None, *(script.revision for script in scripts)}:
        return
    if re.fullmatch("[0-9]{4}", str(version)) and str(version) > HEAD:
        told = f"newer than this version of nas knows ({HEAD!r}): update nas"
    else:
        told = f"which no version of nas has ({HEAD!r} here): {VERSION_TABLE} is damaged"
    raise StoreError(f"{shown(engine.url)} has the schema {version!r}, {told}; nothing was changed")


def _alembic() -> Config:
    from alembic.config import Config

    config = Config()
    folder = Path(__file__).with_name("migrations")
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    return config


@contextlib.contextmanager
def _alone(engine: Engine) -> Iterator[Connection]:
    with engine.execution_options(**WRITES).begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        yield connection


def _log_ahead(engine: Engine) -> None:
    """WAL: readers and the one writer do not wait for each other. It is a property of the file."""
    with engine.connect().execution_options(nas_begin="") as connection:
        if connection.exec_driver_sql("PRAGMA journal_mode").scalar() != "wal":
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
