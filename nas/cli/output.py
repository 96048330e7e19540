"""Where a command's data goes: to stdout, or into a file, whole or not at all; and what ends it."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from types import FrameType

from nas.artifacts import replace
from nas.errors import NasError


def form_of(told: str, output: Path | None, known: Collection[str], usual: str) -> str:
    """The format that is told, or as ``output`` ends. Raises NasError for one that is not known,
    where the two differ, and for a file that could not be written."""
    if output is not None:
        writable(output)
    ending = output.suffix.lstrip(".").lower() if output else ""
    if told and ending in known and ending != told:
        raise NasError(f"--output {output}: does not end as --format {told} is called")
    form = told or ending or usual
    if form not in known:
        *others, last = known if told else [f".{name}" for name in known if name != "table"]
        named = f"--format {told}: must be" if told else f"--output {output}: must end in"
        raise NasError(f"{named} {', '.join(others)} or {last}")
    return form


def writable(path: Path) -> None:
    """Raises NasError for a path at which no file can be written: asked before long work."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise NasError(f"--output {path}: there is no directory {folder}")
    if path.is_dir():
        raise NasError(f"--output {path}: is a directory")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise NasError(f"--output {path}: may not be written")


def write(path: Path, data: bytes) -> None:
    """Puts a file there, whole or not at all, and says so on stderr. Raises NasError."""
    replace(path, data)
    print(f"nas: written to {path}", file=sys.stderr)


def printed(print_it: Callable[[], None]) -> bytes:
    """What would have gone to stdout."""
    with contextlib.redirect_stdout(io.StringIO()) as caught:
        print_it()
    return caught.getvalue().encode()


def end_on_sigterm() -> None:
    """SIGTERM (a batch job's end) from now on does what Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
