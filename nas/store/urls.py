"""The record's URL: what it must be, and how it and what a database says are shown."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Mapping
from urllib.parse import unquote

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from nas.errors import StoreError, nearest, no_room
from nas.text import SECRET, shown_url

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
    if url.query.get("uri") and (url.database or "").startswith("file:"):  # by _reading
        url = url.set(database=unquote((url.database or "")[5:]), query={})
    return shown_url(url.render_as_string(hide_password=True))


def said(error: DBAPIError, url: URL) -> str:
    """What the database said, on one line, without SQL, values or passwords."""
    words = " ".join(str(error.orig).split())[:300]
    options = [(name, str(value)) for name, value in url.query.items()]
    options += [pair for _, value in options for pair in re.findall(r"([\w.]+)=(\S+)", value)]
    secrets = {url.password, *(value for name, value in options if SECRET.search(name))}
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        words = words.replace(str(secret), "***")
    if no_room(error.orig) and url.drivername == "sqlite":
        file = unquote((url.database or "").removeprefix("file:"))
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(os.path.dirname(os.path.abspath(file))).free
            words += f": {free / 1e6:.1f} MB are free on the disk of {file}"
    return words
