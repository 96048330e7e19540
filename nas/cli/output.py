"""Where a command's data goes: to stdout, or into a file, whole or not at all."""

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

# How a file ends that is no directory: of a model, a picture, a table, a page, an archive.
FILES = frozenset(
    {*MODELS, ".py", ".checkpoint", ".svg", ".png", ".jpg", ".pdf", ".csv", ".html", ".md", ".txt"}
    | {".tar", ".zip", ".gz"}
)


def form_of(asked: str, output: Path | None, known: Mapping[str, str], usual: str) -> str:
    """The format that is told, or as ``output`` ends: of those ``known`` with their endings, which
    may be empty. Raises NasError for one that is not known, and where the two differ."""
    ending = output.suffix.lower() if output else ""
    by_ending = {ends: name for name, ends in known.items() if ends}
    form = asked or (by_ending.get(ending, "") if ending else usual)
    if form not in known:
        *others, last = known if asked else by_ending
        named = f"--format {asked}: must be" if asked else f"--output {output}: must end in"
        raise NasError(f"{named} {', '.join(others)}{' or ' if others else ''}{last}")
    if by_ending.get(ending, form) != form:
        raise NasError(f"--output {output}: does not have the ending of --format {form}")
    return form


@contextlib.contextmanager
def resumable(advice: str = "the same command resumes") -> Iterator[None]:
    """Ends the command where it is interrupted inside, and says how to resume it."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"nas: interrupted; {advice}", file=sys.stderr)
        raise typer.Exit(130) from None


def directory(path: Path, files: str) -> Path:
    """A directory for several ``files``. Raises NasError where a file is, and for a name that ends
    as one: a folder called model.onnx is what nobody meant."""
    if path.is_dir():
        return path
    if path.exists():
        raise NasError(f"--output {path}: is a file, but {files} go into a directory")
    if path.suffix.lower() in FILES:
        raise NasError(
            f"--output {path}: ends like a file, but {files} go into a directory: leave out "
            f"{path.suffix}"
        )
    return path


def writable(path: Path) -> None:
    """Raises NasError for a path at which no file can be written: asked before long work. Folders
    that are missing are made when it is."""
    try:
        if path.is_dir():
            raise NasError(f"--output {path}: is a directory")
        there = next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
    except OSError as error:  # too long a name
        raise NasError(f"--output {path}: {error.strerror or error}") from None
    if there != path.absolute() and not there.is_dir():
        raise NasError(f"--output {path}: {there} is not a directory")
    if not os.access(there, os.W_OK):
        raise NasError(f"--output {path}: no permission to write it")


def write(path: Path, data: bytes) -> None:
    """Puts a file there, whole or not at all, and says so on stderr. Raises NasError."""
    replace(path, data)
    print(f"nas: written to {path}", file=sys.stderr)


def printed(print_it: Callable[[], None]) -> bytes:
    """What would have gone to stdout."""
    with contextlib.redirect_stdout(io.StringIO()) as caught:
        print_it()
    return caught.getvalue().encode()


def begin_work() -> None:
    """Before what takes minutes: warnings go to stderr as sentences."""
    logging.basicConfig(format="nas: %(message)s", level=logging.WARNING, stream=sys.stderr)
