"""Files that outlive a process: written atomically, checked when read, the last two versions kept.

They are on this machine's disk, or at any URL that fsspec knows: ``s3://bucket/folder`` with s3fs
installed, ``sftp://``, ``memory://``. Imports no torch, as the search removes files.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from fsspec import AbstractFileSystem, get_filesystem_class
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from nas.errors import NasError
from nas.failpoints import reach
from nas.processes import place, started
from nas.text import size_text

T = TypeVar("T")

log = logging.getLogger(__name__)

DATABASE = b"SQLite format 3\0"  # how each begins
PREVIOUS, TORN = ".previous", ".torn"
ABANDONED = 86_400.0  # seconds; writing a file takes seconds, and clocks may differ by hours


def absolute(folder: str) -> str:
    """A folder's absolute path, or the URL unchanged: valid in every process.

    Raises NasError for a URL whose file system is unknown or not installed, or that is a pattern.
    """
    protocol, separator, _ = folder.partition("://")
    if not separator:
        return str(Path(folder).absolute())
    try:
        get_filesystem_class(protocol)
    except (ValueError, ImportError) as error:
        raise NasError(f"artifacts {protocol}://: {error}") from error
    if set("*?[") & set(folder):
        raise NasError(f"artifacts {protocol}://: a URL of one folder has no * ? [ in it")
    return folder


def path_part(name: str) -> str:
    """Any name as one component of a path: never ``.`` or ``..``, and no longer than file systems
    allow."""
    quoted = quote(name, safe="")
    if not quoted.strip("."):
        return quoted.replace(".", "%2E")
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return quoted if len(quoted) <= 200 else f"{quoted[:180]}-{digest}"


def study_folder(artifacts: str, name: str) -> str:
    """A study's folder, called ``name``, in ``artifacts`` (a directory or a URL)."""
    return f"{artifacts.rstrip('/')}/{path_part(name)}"


def write(location: str | Path, data: bytes) -> None:
    """Puts a file at ``location``; the file there becomes the previous version.

    Raises OSError, or the file system's own error, where it cannot; existing files are then
    unchanged.
    """
    files, path = _find(location)
    part = unfinished(path)
    try:
        files.makedirs(files._parent(path), exist_ok=True)
        if isinstance(files, LocalFileSystem):
            sweep(path)
        with files.open(part, "wb") as file:
            file.write(data[: len(data) // 2])
            reach("checkpoint_half")
            file.write(data[len(data) // 2 :])
            if isinstance(files, LocalFileSystem):
                file.flush()
                os.fsync(file.fileno())
        reach("checkpoint_whole")
        # Between the two renames only the previous version exists; newest() looks for both.
        if files.exists(path):
            files.mv(path, path + PREVIOUS)
        reach("checkpoint_between")
        files.mv(part, path)
        if isinstance(files, LocalFileSystem):
            folder = os.open(files._parent(path), os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    finally:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            files.rm_file(part)


def unfinished(path: str | Path) -> str:
    """The temporary file that this process writes before renaming it to ``path``."""
    return f"{path}.{_here()}-{os.getpid()}.part"


def sweep(path: str | Path) -> None:
    """Removes temporary files that killed writers of ``path`` left behind: those of this machine
    whose process is gone, and those of any machine (older versions did not record it) unmodified
    for ``ABANDONED`` seconds. Errors are ignored."""
    folder, name = os.path.split(path)
    begun = re.compile(rf"{re.escape(name)}\.(?:([0-9a-f]{{8}})-)?(\d{{1,10}})\.part")
    with contextlib.suppress(OSError), os.scandir(folder or ".") as entries:
        for entry in entries:
            if not (match := begun.fullmatch(entry.name)):
                continue
            with contextlib.suppress(OSError):
                old = time.time() - entry.stat().st_mtime > ABANDONED
                if old or (match[1] == _here() and not started(int(match[2]))):
                    os.unlink(entry.path)


@functools.cache
def _here() -> str:
    return hashlib.sha256(place().encode()).hexdigest()[:8]


def newest(location: str | Path, parse: Callable[[bytes], T]) -> T | None:
    """What ``parse`` returns for the file at ``location``, or for the previous version; None
    without either.

    A file at which ``parse`` raises is renamed to ``location.torn``, with a warning. Raises the
    file system's error where it cannot be read.
    """
    files, path = _find(location)
    files.invalidate_cache()
    for candidate in (path, path + PREVIOUS):
        try:
            data = files.cat_file(candidate)
        except (FileNotFoundError, NotADirectoryError):
            continue
        try:
            return parse(data)
        except Exception as error:  # torch's reader raises nearly anything
            files.mv(candidate, path + TORN)
            log.warning("%s is not whole (%s): set aside as %s", candidate, error, path + TORN)
    return None


def kept(location: str | Path) -> bool:
    """Whether there is a file at ``location``, or its previous version: what ``newest`` reads."""
    files, path = _find(location)
    files.invalidate_cache()
    return any(files.exists(candidate) for candidate in (path, path + PREVIOUS))


def remove(location: str | Path) -> None:
    """Removes the file, its previous version, and temporary files beside it."""
    files, path = _find(location)
    files.invalidate_cache()
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for found in files.ls(files._parent(path), detail=False):
            if f"{files._strip_protocol(found)}.".startswith(f"{path}."):
                files.rm_file(found)


def _find(location: str | Path) -> tuple[AbstractFileSystem, str]:
    """The file system of a location, and the path in it, which contains no password."""
    if "://" not in str(location):
        return LocalFileSystem(), str(Path(location).absolute())
    files, path = url_to_fs(str(location))
    return files, str(path)


# --- files for users: no previous version is kept ------------------------------------------------


def reserve(path: Path, room: int) -> None:
    """Checks, before long work, that ``room`` bytes can be written to ``path``, and creates its
    directory. Raises NasError."""
    if path.is_dir():
        raise NasError(f"{path} is a directory: must be a file to write")
    part = _part(path)
    try:
        with part.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, room))
    except OSError as error:
        failure = f"{size_text(room)} cannot be written to {path}: {error.strerror or error}"
        raise NasError(failure) from error
    finally:
        _drop(part)


def create(path: Path, data: bytes) -> bool:
    """Creates a file at ``path`` atomically; returns False where something exists there. Raises
    NasError as ``replace``."""
    part = _part(path)
    try:
        _write(part, data)
        try:
            os.link(part, path)  # unlike a rename, never replaces a file
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            if path.exists():
                return False
            part.replace(path)
    except OSError as error:
        raise NasError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        _drop(part)
    return True


def replace(path: Path, data: bytes) -> None:
    """Puts a file at ``path`` atomically; of a link, the target is replaced. A pipe or
    ``/dev/stdout`` is written to. Raises NasError, also for a database, which may be the record; an
    existing file is then unchanged."""
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            with path.open("wb") as stream:
                stream.write(data)
            return
        path = path.resolve()
        if path.is_file() and _starts(path) == DATABASE:
            raise NasError(f"{path} is a database, perhaps a record: it is not written over")
    except OSError as error:
        raise NasError(f"{path} cannot be written: {error.strerror or error}") from error
    except RuntimeError:  # so until Python 3.13
        raise NasError(f"{path} cannot be written: it is a link that leads to itself") from None
    part = _part(path)
    try:
        _write(part, data)
        part.replace(path)
    except OSError as error:
        raise NasError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        _drop(part)


@contextlib.contextmanager
def together() -> Iterator[Callable[[Path], Path]]:
    """For output of several files, which appears whole or not at all. Yields a function to call
    with each path before it is written: if an error ends the block, the new ones are removed."""
    with contextlib.ExitStack() as undone:

        def new(path: Path) -> Path:
            if not path.exists():
                undone.callback(path.unlink, missing_ok=True)
            return path

        yield new
        undone.pop_all()


def _starts(path: Path) -> bytes:
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(len(DATABASE))
    return b""


def _part(path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NasError(f"{path} cannot be written: {path.parent} is not a directory") from None
    except OSError as error:
        raise NasError(f"{path} cannot be written: {error.strerror or error}") from error
    sweep(path)
    return Path(unfinished(path))


def _write(part: Path, data: bytes) -> None:
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _drop(part: Path) -> None:
    with contextlib.suppress(OSError):
        part.unlink()
