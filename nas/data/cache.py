"""The directory that keeps what is dear to make of images: digests, listings, decoded arrays."""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

from nas.errors import DataError

# What numpy raises for an archive that is not there, not whole, or of another version.
LOST = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


def folder() -> Path:
    """NAS_CACHE, or ``nas`` in the user's cache directory."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nas"
    return Path(os.environ.get("NAS_CACHE") or default)


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file to write beside ``path`` that takes its place at the end: whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def unwritable(error: OSError, need: str = "what is known of the images") -> DataError:
    return DataError(
        f"{folder()} cannot take {need}: {error.strerror or error} (NAS_CACHE names another "
        f"directory)"
    )
