"""Files named by the user, which may not be regular files."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def content(path: str | Path) -> bytes:
    """The content of a regular file. Raises OSError."""
    with open(path, "rb", opener=regular) as file:
        return file.read()


def regular(path: str, flags: int) -> int:
    """An opener for ``open``: raises OSError for a pipe or a device, reading which may never end.
    ``open`` itself refuses a directory."""
    number = os.open(path, flags | os.O_NONBLOCK)
    mode = os.fstat(number).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        os.close(number)
        raise OSError(errno.EINVAL, "is no regular file", path)
    return number
