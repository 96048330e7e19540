"""The cache of what is costly to compute about images: digests, listings, decoded arrays.

Decoded arrays take most of the space. Each has a folder below ``images``; its users hold a lock on
the folder's file ``used``, whose mtime is the last use. The least recently used are evicted.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import shutil
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from nas import artifacts
from nas.errors import DataError

# What numpy raises for an archive that is missing, truncated or of another version.
LOST = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
ROOM = "NAS_CACHE_GB"


def folder() -> Path:
    """NAS_CACHE, or ``nas`` in the user's cache directory."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nas"
    return Path(os.environ.get("NAS_CACHE") or default)


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that replaces it at the end: complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    artifacts.sweep(path)
    part = Path(artifacts.unfinished(path))
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def unwritable(error: OSError, need: str = "what is known of the images") -> DataError:
    place = folder()
    lost = next((each for each in (place, *place.parents) if each.is_symlink()), place)
    reason = error.strerror or str(error)
    if not lost.exists() and lost.is_symlink():  # else "File exists"
        reason = f"{lost} is a link to {lost.readlink()}, which is not there"
    return DataError(f"{place} cannot take {need}: {reason} (NAS_CACHE names another directory)")


@contextlib.contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[bool]:
    """Holds a lock on a folder, creating it where it is missing or was removed meanwhile. Yields
    whether the lock was obtained: always, if ``wait``. A process that dies releases it. Raises
    OSError."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = (folder / "lock").open("a")
        except FileNotFoundError:
            continue
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            there = Path(lock.name)
            if there.exists() and there.stat().st_ino == os.fstat(lock.fileno()).st_ino:
                yield True
                return


# --- decoded images ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kept:
    """A folder of decoded images: bytes on disk, last use (seconds since 1970), the directory from
    which the images were first read, and the array's shape."""

    folder: Path
    bytes: int
    used: float
    root: str
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        return self.folder.name[:8]


def kept() -> list[Kept]:
    """All of them, least recently used first. Raises DataError where the cache is no directory."""
    found = []
    try:
        os.scandir(folder()).close()
    except OSError as error:
        # A cache that is not there yet holds nothing.
        if not isinstance(error, FileNotFoundError) or folder().is_symlink():
            raise unwritable(error) from error
    for path in (folder() / "images").glob("*"):
        with contextlib.suppress(OSError):
            states = [each.stat() for each in path.iterdir() if each.is_file()]
            used = path / "used"
            last = (used if used.exists() else path).stat().st_mtime
            about: dict[str, Any] = {}
            with contextlib.suppress(OSError, ValueError):
                about = json.loads((path / "about.json").read_text())
            taken = sum(state.st_blocks * 512 for state in states)
            shape = tuple(about.get("shape", ()))
            found.append(Kept(path, taken, last, about.get("root", ""), shape))
    return sorted(found, key=lambda each: each.used)


def use(path: Path) -> IO[str]:
    """Keeps a folder of decoded images from removal while the returned file is open. Raises
    OSError."""
    # Opened for writing: locks over NFS require it.
    file = (path / "used").open("a")
    fcntl.flock(file, fcntl.LOCK_SH)
    os.utime(path / "used")  # fails where the folder was removed meanwhile
    return file


@contextlib.contextmanager
def unused(path: Path) -> Iterator[None]:
    """Locks a folder of decoded images exclusively. Raises OSError where a process fills or maps
    it."""
    with (path / "lock").open("a") as filling, (path / "used").open("a") as used:
        for file in (filling, used):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def remove(path: Path) -> bool:
    """Removes a folder of decoded images; returns whether it could."""
    try:
        with unused(path):
            shutil.rmtree(path)
    except OSError:
        return False
    return True


def in_use(path: Path) -> bool:
    try:
        with unused(path):
            return False
    except OSError:
        return True


def limit() -> int:
    """The most bytes that all decoded images may take: NAS_CACHE_GB (in 10^9 bytes), or half of the
    sum of the free disk space and what they take now. Raises DataError."""
    setting = os.environ.get(ROOM)
    if setting is None:
        place = next(path for path in (folder(), *folder().parents) if path.exists())
        return (shutil.disk_usage(place).free + sum(each.bytes for each in kept())) // 2
    with contextlib.suppress(ValueError):
        if 0 <= (size := float(setting) * 1e9) < math.inf:
            return int(size)
    raise DataError(f"{ROOM} is {setting!r}: must be a number of gigabytes, 0 or more")


def make_room(need: int) -> None:
    """Removes decoded images, least recently used first, until ``need`` more bytes are within the
    limit; those in use by a process stay."""
    there = kept()
    excess = sum(each.bytes for each in there) + need - limit()
    for each in there:
        if excess <= 0:
            return
        if remove(each.folder):
            excess -= each.bytes


def older(days: float) -> list[Kept]:
    """Those not used for more than ``days``."""
    return [each for each in kept() if time.time() - each.used > days * 86400]
