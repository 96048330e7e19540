"""Output of commands: to stdout or atomically to a file."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import typer

from nas.artifacts import replace
from nas.cli.arguments import MODELS
from nas.errors import NasError

# Endings of files: a directory with such a name would be a mistake.
FILES = frozenset(
    {*MODELS, ".py", ".checkpoint", ".svg", ".png", ".jpg", ".pdf", ".csv", ".html", ".md", ".txt"}
    | {".tar", ".zip", ".gz"}
)


def form_of(asked: str, output: Path | None, known: Mapping[str, str], usual: str) -> str:
    """The ``asked`` format, or that of ``output``'s ending, or ``usual``; ``known`` maps formats to
    endings, which may be empty. Raises NasError for an unknown format, where format and ending
    differ, and for an existing file with another ending: it is no earlier output."""
    ending = output.suffix.lower() if output else ""
    by_ending = {ends: name for name, ends in known.items() if ends}
    form = asked or (by_ending.get(ending, "") if ending else usual)
    if form not in known:
        *others, last = known if asked else by_ending
        named = f"--format {asked}: must be" if asked else f"--output {output}: must end in"
        raise NasError(f"{named} {', '.join(others)}{' or ' if others else ''}{last}")
    if by_ending.get(ending, form) != form:
        raise NasError(f"--output {output}: does not have the ending of --format {form}")
    ends = known[form] or ".txt"
    if output and ending not in ("", ends) and output.is_file():
        raise NasError(f"--output {output}: is there, and no {ends}: it would be written over")
    return form


@contextlib.contextmanager
def resumable(advice: str = "the same command resumes") -> Iterator[None]:
    """On an interrupt inside, prints how to resume and exits with status 130."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"nas: interrupted; {advice}", file=sys.stderr)
        raise typer.Exit(130) from None


def directory(path: Path, files: str) -> Path:
    """Checks the --output directory for ``files``; call it before long work. Raises NasError for an
    existing file, for a name that ends like one (nobody wants a folder called model.onnx), and
    where nothing can be written."""
    at = _nearest(path)
    if path.is_dir():
        return path
    if at == path.absolute():
        raise NasError(f"--output {path}: is a file, but {files} go into a directory")
    if path.suffix.lower() in FILES:
        raise NasError(
            f"--output {path}: ends like a file, but {files} go into a directory: leave out "
            f"{path.suffix}"
        )
    return path


def writable(path: Path) -> None:
    """Raises NasError where no file can be written at ``path``; call it before long work. Missing
    folders are fine: writing creates them."""
    if _nearest(path) == path.absolute() and path.is_dir():
        raise NasError(f"--output {path}: is a directory")


def _nearest(path: Path) -> Path:
    """What exists of ``path``: itself, or the nearest folder. Raises NasError where it cannot be
    written, and where that is no folder."""
    full = path.absolute()
    try:
        there = next(each for each in (full, *full.parents) if each.exists())
    except OSError as error:  # too long a name
        raise NasError(f"--output {path}: {error.strerror or error}") from None
    if there != full and not there.is_dir():
        raise NasError(f"--output {path}: {there} is not a directory")
    if not os.access(there, os.W_OK):
        raise NasError(f"--output {path}: no permission to write it")
    return there


def write(path: Path, data: bytes) -> None:
    """Writes a file atomically, with a note on stderr. Raises NasError."""
    replace(path, data)
    print(f"nas: written to {path}", file=sys.stderr)


def printed(print_it: Callable[[], None]) -> bytes:
    """Captures what ``print_it`` prints to stdout."""
    with contextlib.redirect_stdout(io.StringIO()) as caught:
        print_it()
    return caught.getvalue().encode()


def begin_work() -> None:
    """Sends warnings to stderr; call it before long work."""
    logging.basicConfig(format="nas: %(message)s", level=logging.WARNING, stream=sys.stderr)
