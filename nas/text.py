"""Sanitises untrusted text (names, errors, paths, URLs) for a terminal, a CSV or a page.

A terminal obeys escape sequences, a spreadsheet runs formulas, a page renders markup, and a URL may
contain a password. ``open_terminal`` passes everything printed through ``printable``; other outputs
use ``cell``, ``markdown`` and ``shown_url``.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any, TextIO, cast
from urllib.parse import unquote

HIDDEN = "***"
SECRET = re.compile(
    r"(?i)pass(?!file)|pwd|secret|token|credential|(api|access|account|private)[-_]?key|signature"
)


def spelt(text: str) -> str:
    r"""Bytes that the locale's encoding lacks, which Python escapes, as the characters that they
    are in UTF-8; others as they are.

    >>> spelt("caf\udcc3\udca9"), spelt("caf\udce9")
    ('café', 'caf\\xe9')
    """

    def read(match: re.Match[str]) -> str:
        return bytes(ord(c) - 0xDC00 for c in match[0]).decode(errors="backslashreplace")

    return re.sub("[\udc80-\udcff]+", read, text)


def undecoded() -> str:
    """Why a name has such bytes, and what helps, as the end of a sentence."""
    encoding = sys.getfilesystemencoding()
    if encoding == "utf-8":
        return "not UTF-8: rename it"
    return f"not in {encoding}, the encoding of this locale: PYTHONUTF8=1 makes it UTF-8"


def printable(text: str) -> str:
    """Removes unprintable characters, such as escape sequences; newlines and tabs stay."""
    if text.isprintable():
        return text
    text = spelt(text)
    return "".join(c for c in text if c.isprintable() or c in "\n\t")


def named(text: str) -> str:
    r"""A name as it is, or quoted and escaped where it would not be read as it is.

    >>> print(named("cat"), named("two words"), named("a\nb"), named(" "))
    cat two words 'a\nb' ' '
    """
    plain = text.isprintable() and text and text == " ".join(text.split())
    return text if plain else repr(text)


def counted(number: int, noun: str, several: str = "") -> str:
    """
    >>> counted(1, "network"), counted(1234, "network"), counted(2, "image has", "images have")
    ('1 network', '1,234 networks', '2 images have')
    """
    return f"{number:,} {noun if number == 1 else several or f'{noun}s'}"


def size_text(size: float) -> str:
    """A number of bytes in powers of 1,000.

    >>> size_text(999), size_text(57_656), size_text(2_400_000), size_text(19_999_999_999)
    ('999 bytes', '57.7 kB', '2.40 MB', '20.00 GB')
    """
    if size < 1e3:
        return counted(int(size), "byte")
    if round(size / 1e3, 1) < 1e3:
        return f"{size / 1e3:.1f} kB"
    if round(size / 1e6, 2) < 1e3:
        return f"{size / 1e6:.2f} MB"
    return f"{size / 1e9:,.2f} GB"


def twins(names: Iterable[str]) -> list[str]:
    """Names that differ but look the same, by Unicode's normal form C: "é" may be one character or
    two."""
    alike: dict[str, list[str]] = {}
    for name in sorted({*names}):
        alike.setdefault(unicodedata.normalize("NFC", name), []).append(name)
    return [name for same in alike.values() if len(same) > 1 for name in same]


def cell(value: Any) -> Any:
    """A value for a CSV: numbers unchanged, text so that no spreadsheet runs it."""
    if not isinstance(value, str):
        return value
    shown = printable(value)
    # Spreadsheets take these for formulas, leading blanks or not (OWASP, "CSV Injection").
    return f"'{shown}" if shown.lstrip().startswith(("=", "+", "-", "@")) else shown


def markdown(text: str) -> str:
    """Text escaped for one line of a Markdown page: no markup, and no HTML."""
    line = " ".join(printable(text).split())
    return re.sub(r"([\\`*_{}\[\]()<>#+!|~&$])", r"\\\1", line)


def shown_url(url: str) -> str:
    """A URL, even a malformed one, with passwords hidden wherever they occur.

    >>> shown_url("postgresql://me:secret@host/db?sslpassword=other")
    'postgresql://me:***@host/db?sslpassword=***'
    """
    scheme = re.match(r"(?i)\s*[a-z][\w+.-]*:/*", url)
    head = scheme[0] if scheme else ""
    rest = url[len(head) :]
    if not re.match(r"(?i)\s*sqlite[\w+]*:///", head):  # what follows that is a path
        rest = _without_password(head, rest)
    return printable(head + without_secrets(rest))


def _without_password(head: str, rest: str) -> str:
    """What follows the scheme, as in ``user:password@host/db?query``."""
    # To SQLAlchemy, as to people, a "?" before the last @ is part of the credentials.
    place, mark, query = rest.partition("?")
    if "@" not in place or re.match("[^=@]*@", query):
        place, mark, query = rest, "", ""
    before, at, host = place.rpartition("@")
    user, colon, _ = before.partition(":")
    if at and colon:
        place = f"{user}:{HIDDEN}@{host}"
    elif at and head.endswith(":"):  # what looked like the scheme is the user
        place = f"{HIDDEN}@{host}"
    elif head and not at:  # a URL that was cut off, where a colon is followed by no port
        place = re.sub(r"^([^/?@\[:]*):(?!\d+(?:[/?,]|$))[^?]+", rf"\1:{HIDDEN}", place)
    return place + mark + re.sub(":[^@]*@", f":{HIDDEN}@", query)


def without_secrets(text: str) -> str:
    """Hides the values of settings whose names say that they are secret, and of PostgreSQL's
    ``options``, which may set any parameter of the server or its extensions."""

    def hide(match: re.Match[str]) -> str:
        before, name, equals = match.groups()
        secret = SECRET.search(unquote(name)) or unquote(name).lower() == "options"
        return f"{before}{name}{equals}{HIDDEN}" if secret else match[0]

    # The options' value may contain blanks.
    text = re.sub(r"(?i)((?:^|[?&;#\s])options\s*=\s*)(?:'[^']*'|[^&;]*)", rf"\1{HIDDEN}", text)
    return re.sub(r"(^|[?&;#\s])([^=?&;#\s]*)(\s*=\s*)(?:'[^']*'|[^&;\s]*)", hide, text)


def shown_file(file: str) -> str:
    """A file as one would type it here: relative if below the working directory."""
    if not os.path.isabs(file):
        return file
    with contextlib.suppress(OSError):  # the working directory may be gone
        below = os.path.relpath(file, os.getcwd())
        # A leading dash would be read as an option.
        if below.split(os.sep)[0] != os.pardir and not below.startswith("-"):
            return below
    return file


class _Cleaned:
    """A stream that writes only printable text."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(printable(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def open_terminal() -> Iterator[None]:
    """Passes everything printed to stdout and stderr through ``printable``, and escapes what their
    encoding lacks. Writes to a closed stream are discarded."""
    before = sys.stdout, sys.stderr
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or open(os.devnull, "w")  # noqa: SIM115 - until the end
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, _Cleaned(stream))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def uncleaned(stream: TextIO) -> TextIO:
    """The stream below ``open_terminal``, for callers that clean the text themselves and then add
    escape sequences for its style."""
    return cast(_Cleaned, stream).stream if isinstance(stream, _Cleaned) else stream
