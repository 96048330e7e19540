"""The schema of a database, and the way to that of the code."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, inspect, text

from nas.errors import NoRecord, StoreError
from nas.store.tables import HEAD, VERSION_TABLE, metadata
from nas.store.transactions import WRITES
from nas.store.urls import shown

if TYPE_CHECKING:
    from alembic.config import Config

log = logging.getLogger(__name__)

MIGRATION_LOCK = 0x6E61735F  # PostgreSQL's advisory lock: any number that nobody else uses


def bring_up_to_date(
    engine: Engine, create: bool, write: bool, accept: Callable[[Connection], None]
) -> None:
    """Creates the schema, or brings it to ``HEAD``, where that is to be: see ``connect``. Raises
    NoRecord and StoreError."""
    with engine.connect() as connection:
        before = _tables(connection)  # in this order: another may create the record in between
        version = _version(connection)
        _check_tables(engine, version, before, _tables(connection))
    if version is None and not create:
        raise NoRecord(f"{shown(engine.url)}: there is no record in this database yet")
    if version != HEAD and not write:
        _check_version(engine, version)
        raise StoreError(
            f"{shown(engine.url)} has the schema {version!r}, older than this version of nas "
            f"requires ({HEAD!r}): `nas db upgrade` upgrades it"
        )
    if version != HEAD:
        _migrate(engine, accept)


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
        fault = f"tables of a record, and no revision of their schema: {VERSION_TABLE} is damaged"
        raise StoreError(f"{shown(engine.url)} has {fault}; nothing was changed")
    if version == HEAD and (missing := sorted({*metadata.tables} - after)):
        fault = f"lacks the table{'s' * (len(missing) > 1)} {', '.join(missing)}: it is damaged"
        raise StoreError(f"the record in {shown(engine.url)} {fault}")


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
            "%d evaluations were made before nas identified images: they are kept, but not reused",
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
        fault = f"newer than this version of nas knows ({HEAD!r}): update nas"
    else:
        fault = f"which no version of nas has ({HEAD!r} here): {VERSION_TABLE} is damaged"
    raise StoreError(
        f"{shown(engine.url)} has the schema {version!r}, {fault}; nothing was changed"
    )


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
