"""The record's URL: what it must be, and how it and what a database says are shown."""

from __future__ import annotations

import contextlib
import re
import resource
import shutil
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from nas.errors import StoreError, nearest, no_room
from nas.text import HIDDEN, SECRET, shown_url, size_text, without_secrets

DRIVERS: Mapping[str, str] = {
    "sqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}

READ_ONLY = "-c default_transaction_read_only=on"


def parse(url: str) -> URL:
    """The URL's parts. Raises StoreError for one that does not parse or names another database."""
    place = shown_url(url)
    form = "sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST:PORT/NAME"
    dialect, colon, _ = url.partition("://")
    if not colon:
        raise StoreError(f"storage {place!r} is no database URL: must be {form}")
    if dialect not in DRIVERS:
        raise StoreError(f"storage {place!r}: no database {dialect!r}; {nearest(dialect, DRIVERS)}")
    try:
        parsed = make_url(url).set(drivername=DRIVERS[dialect])
    except (ArgumentError, ValueError) as error:
        raise StoreError(f"storage {place!r} does not parse: must be {form}") from error
    if dialect == "sqlite":
        if "uri" in parsed.query or (parsed.database or "").lower().startswith("file:"):
            raise StoreError(
                f"storage {place!r} is a URI of SQLite: must be sqlite:///FILE with the file's own "
                "name, no file: and no uri="
            )
        if parsed.host or parsed.database in (None, "", ":memory:"):
            raise StoreError(
                f"storage {place!r} names no file: must be sqlite:///FILE (sqlite:////FILE for an "
                "absolute path)"
            )
    elif "@" in f"{parsed.host}{parsed.database}":
        raise StoreError(f"storage {place!r} has one @ too many: in a password it is written %40")
    return parsed


def shown(url: URL) -> str:
    """The URL as messages may show it: without passwords, and as it was given."""
    asked = url.query.get("options")
    if isinstance(asked, str) and asked.endswith(READ_ONLY):  # by _reading
        asked = asked.removesuffix(READ_ONLY).strip()
        others = {name: value for name, value in url.query.items() if name != "options"}
        url = url.set(query=others | ({"options": asked} if asked else {}))
    if url.query.get("uri"):  # by _reading
        url = url.set(database=str(file_of(url)), query={})
    return shown_url(url.render_as_string(hide_password=True))


def said(error: DBAPIError, url: URL) -> str:
    """What the database said, on one line, without SQL, values or passwords."""
    words = _masked(" ".join(str(error.orig).split()), url)[:300]
    file = file_of(url)
    if file is not None and no_room(error.orig) and (why := _no_room_for(file)):
        words += f": {why}"
    return words


def file_of(url: URL) -> Path | None:
    """The file of a parsed SQLite URL; None for another database."""
    if url.drivername != "sqlite":
        return None
    named = url.database or ""
    by_us = url.query.get("uri") and named.startswith("file:")  # by _reading
    return Path(unquote(named[5:]) if by_us else named)


NEARLY_FULL = 100e6  # bytes that are left; with more, another error is the likelier


def _no_room_for(file: Path) -> str:
    """Why a database that SQLite could not write cannot grow; empty where nothing is found."""
    with contextlib.suppress(OSError):
        if not file.exists():
            return f"{file} is no longer there"
        most, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
        log_ahead = file.with_name(f"{file.name}-wal")
        largest = max(each.stat().st_size for each in (file, log_ahead) if each.exists())
        # SQLite writes page by page, of 64 KiB at most.
        if most != resource.RLIM_INFINITY and largest + (1 << 16) > most:
            return f"this process may write no file of more than {size_text(most)} (ulimit -f)"
        free = shutil.disk_usage(file.absolute().parent).free
        if free < NEARLY_FULL:
            return f"{size_text(free)} are free on the disk of {file}"
    return ""


CHANCE = 4  # a shorter password stands in words and numbers by chance


def _masked(words: str, url: URL) -> str:
    """A driver's message without the URL's passwords: hidden in each URL and setting that it
    quotes, and elsewhere as a word of their own."""
    words = re.sub(r"\b[A-Za-z][\w+.-]*://\S+", lambda quoted: shown_url(quoted[0]), words)
    words = without_secrets(words)
    options = [(name, str(value)) for name, value in url.query.items()]
    options += [pair for _, value in options for pair in re.findall(r"([\w.]+)=(\S+)", value)]
    secrets = {url.password or "", *(value for name, value in options if SECRET.search(name))}
    for secret in sorted(map(str, secrets), key=len, reverse=True):
        if len(secret) >= CHANCE:
            edge = r"\b" if re.fullmatch(r"\w+", secret) else ""
            words = re.sub(f"{edge}{re.escape(secret)}{edge}", HIDDEN, words)
    return words
