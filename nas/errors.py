"""The errors raised for bad input.

NasError                    the root; the command line prints it as one sentence and exits with 2
├── PatternError            text that is not a pattern: the place, the expectation, the nearest name
├── ShapeError              a feature map that does not fit: the element, its place, the shape
├── SpaceError              a space file: the file, the key, the rule
├── DataError               a data set that is missing, half there, or of the wrong form
├── RecipeError             a training setting outside its domain
├── StoreError              a database that is invalid, newer than the code, or does not answer
│   ├── NoRecord            a database without a record
│   └── RecordGone          a database file moved or removed while in use: exit status 1
├── StudyError              a study that exists with other settings, or does not exist
├── MachineError            an error that input does not cause, such as a full disk: exit status 1
└── NothingFound            a search that ends with nothing to show: exit status 3
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable

from nas.text import spelt


class NasError(Exception):
    """The root of the errors raised for bad input. The message is one actionable sentence."""


class PatternError(NasError):
    """The text is not a pattern of the language."""


class ShapeError(NasError):
    """A layer cannot take the feature map that reaches it."""


class SpaceError(NasError):
    """A space file breaks a rule."""


class DataError(NasError):
    """A data set is missing, incomplete or of the wrong form."""


class RecipeError(NasError):
    """A training setting is outside its domain."""


class StoreError(NasError):
    """The database cannot be used as the record of a search."""


class NoRecord(StoreError):
    """There is no record yet."""


class RecordGone(StoreError):
    """The database's file was moved, removed or replaced while it was in use."""


class StudyError(NasError):
    """The study does not exist, or exists with other settings."""


class MachineError(NasError):
    """An error that input does not cause: a disk is full, a file was created meanwhile."""


class NothingFound(NasError):
    """No candidate finished, or none that is feasible."""


def brief(message: str, most: int = 400) -> str:
    """A message, which may quote anything, as one printable line of at most ``most`` characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in spelt(message)).split())
    return line if len(line) <= most else f"{line[: most - 4]} ..."


# The operating system's errors for a full disk, an exceeded quota or limit, or a failing disk.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
SQLITE_NO_ROOM = (10, 13)  # SQLITE_IOERR (a write-ahead log cannot grow), SQLITE_FULL


def status(error: NasError) -> int:
    """The exit status of a command that ends with this error. Disk errors are not wrong input,
    even where they were converted to another error."""
    if isinstance(error, NothingFound):
        return 3
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MachineError | RecordGone) or no_room(cause):
            return 1
        cause = cause.__cause__ or cause.__context__
    return 2


def no_room(error: object) -> bool:
    """Whether a disk, or a database's disk, is full or failing."""
    if isinstance(error, OSError):
        return error.errno in NO_ROOM
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the kind
    return code in SQLITE_NO_ROOM or getattr(error, "sqlstate", None) == "53100"  # disk_full


def closest(name: str, known: Iterable[str]) -> str:
    """The nearest of the known names; empty where none is near. If ``name`` is a prefix of some,
    the first of them.

    At 0.65 one letter in three may differ, or half a word be added: --data-dir is near --data, and
    --stuff not near --study. An option's dashes do not count: they made --nosuch near --epochs.
    """
    name = name.lstrip("-").lower()
    folded = {k.lstrip("-").lower(): k for k in known}
    begun = [k for k in folded if len(name) > 1 and k.startswith(name)]
    close = begun or difflib.get_close_matches(name, folded, n=1, cutoff=0.65)
    return folded[close[0]] if close else ""


def nearest(name: str, known: Iterable[str]) -> str:
    """A clause for an error message: the nearest known name, or all known names where none is
    near."""
    known = list(known)
    near = closest(name, known)
    return f"did you mean {near}?" if near else "known: " + ", ".join(sorted(known))
