"""Who drives a search: a name for this process, and whether the process of a name is gone.

With leases alone, a search that is started again right after a kill would wait out the dead
driver's lease; on the same machine the process table answers at once.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path


def name() -> str:
    """This process as ``host/pid-namespace/pid/start``: no later process gets the same name."""
    return f"{_place()}/{os.getpid()}/{_started(os.getpid())}"


def gone(driver: str) -> bool:
    """Whether the process surely runs no more; False where it cannot be seen from here."""
    place, pid, started = driver.rsplit("/", 2)
    return place == _place() and _started(int(pid)) != started


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
    except FileNotFoundError:
        return "" if Path("/proc/self/stat").exists() or not _answers(pid) else "running"
    # proc_pid_stat(5): the second field, the command in brackets, may itself hold blanks and
    # brackets; state is the third field, starttime the 22nd.
    fields = status.rsplit(")", 1)[1].split()
    return "" if fields[0] in "ZX" else fields[19]


def _answers(pid: int) -> bool:
    """Without /proc (macOS): a signal 0 finds the process, of whichever start."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
