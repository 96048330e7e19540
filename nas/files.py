"""Files that a person names, where another kind than a regular one may stand."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def content(path: str | Path) -> bytes:
    """All that a regular file holds. Raises OSError."""
    with open(path, "rb", opener=regular) as file:
        return file.read()


def regular(path: str, flags: int) -> int:
    """For ``open``: raises OSError for a pipe or a device, which might be waited for without an
    end. A directory is refused by ``open`` itself."""
    number = os.open(path, flags | os.O_NONBLOCK)
    mode = os.fstat(number).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        os.close(number)
        raise OSError(errno.EINVAL, "is no regular file", path)
    return number
