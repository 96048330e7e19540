"""Who drives a search: names for drivers, and whether the process of a driver is gone.

With leases alone, a search that is started again right after a kill would wait out the dead
driver's lease; on the same machine the process table answers at once.
"""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path

UNSEEN = "running"  # for a start time where there is no /proc, or it hides the process


def name() -> str:
    """A new name, ``host/pid-namespace/pid/start/random``, for a driver in this process.

    Start, because a process number is given out again; random, because a process may open the
    record again and must not take what it left there for its own.
    """
    return f"{_place()}/{os.getpid()}/{_started(os.getpid())}/{uuid.uuid4().hex[:8]}"


def gone(driver: str) -> bool:
    """Whether its process surely runs no more; False where it cannot be seen from here."""
    place, pid, started, _ = driver.rsplit("/", 3)
    return place == _place() and _started(int(pid)) not in (started, UNSEEN)


def _place() -> str:
    # Two containers may share a host's name, but not its process numbers.
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return f"{socket.gethostname()}/{namespace}"


def _started(pid: int) -> str:
    """The process's start time as the kernel counts it; empty where there is no such process."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return UNSEEN if _answers(pid) else ""
    # proc_pid_stat(5): the second field, the command in brackets, may itself hold blanks and
    # brackets; state is the third field, starttime the 22nd.
    fields = status.rsplit(")", 1)[1].split()
    return "" if fields[0] in "ZX" else fields[19]


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True
